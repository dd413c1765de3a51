"""What run records say: tables, figures, the audit, the report page, where a sweep stands.

Reads files and trains nothing.
"""
