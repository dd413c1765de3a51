"""A table for a terminal: columns of text, as wide as their widest cell."""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusion_dfl.suite.reporting.table1 import Table


#: Of a terminal, in characters.
WIDTH = 100


def folded(text: str) -> str:
    """A paragraph in lines of at most `WIDTH`."""
    return fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


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


def methods(table: "Table") -> str:
    """The methods that have runs and the plain baselines, in five columns."""
    crps, covered, seconds = (
        table.estimates("method", name)
        for name in ("test.crps", "test.coverage_90", "timing.total")
    )
    rows = [
        [
            name,
            f"{cost.mean:.3f}",
            f"{crps[name].mean:.4f}" if name in crps else "",
            f"{100 * covered[name].mean:.0f} %" if name in covered else "",
            f"{seconds[name].mean:.0f}",
        ]
        for name, cost in table.estimates("method").items()
    ]
    rows += [
        [f"({name})", f"{cost.mean:.3f}", "", "", ""]
        for name, cost in table.estimates("baseline").items()
    ]
    return aligned(["Method", "Cost", "CRPS", "Coverage", "Seconds"], rows)
