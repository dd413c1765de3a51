"""The report page: run records, studies and the audit in one self-contained HTML file.

``gather`` reads files and computes nothing that a table does not; ``render`` makes the page of what it
found. No time, user or folder of the machine gets into it: the same records give the same bytes.
"""
