"""A table for a terminal: columns of text, as wide as their widest cell."""

from collections.abc import Sequence


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines with the first column to the left and the others to the right, a rule below the head."""
    table = [list(heads), *map(list, rows)]
    widths = [max(len(row[place]) for row in table) for place in range(len(heads))]
    lines = [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])
