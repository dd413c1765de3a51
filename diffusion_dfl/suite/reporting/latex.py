r"""Table 1 in LaTeX, with booktabs: the paper's tasks side by side, its number beside ours.

``\input`` the file in a document that loads ``booktabs``; it needs nothing else.
"""

import math
from collections.abc import Sequence

from diffusion_dfl.suite.reporting.layout import HEADLINE, base_of, layout_of
from diffusion_dfl.suite.reporting.paper import ROWS, TABLE_1, Printed
from diffusion_dfl.suite.reporting.statistics import Estimate
from diffusion_dfl.suite.reporting.table1 import RMSE, Table, ranks

_MARKS = {1: r"\textbf{%s}", 2: r"\underline{%s}"}
_NONE = "--"


def latex(tables: Sequence[Table]) -> str:
    """A tabular of the tables that have runs and the paper numbers for, in the order given.

    Ours are mean and standard error over seeds, their number in brackets where it is not the same
    everywhere; best bold, second best underlined, in the paper's columns and in ours.
    """
    shown = [table for table in tables if table.compare and table.seeds]
    if not shown:
        return ""
    counts = {estimate.count for table in shown for estimate in table.estimates("method").values()}
    lines = [
        "% Made by `make table1` from run records; needs \\usepackage{booktabs}.",
        rf"\begin{{tabular}}{{l{'rrrr' * len(shown)}}}",
        r"\toprule",
        _row(["", *(_title(table) for table in shown)]),
        " ".join(rf"\cmidrule(lr){{{4 * i + 2}-{4 * i + 5}}}" for i in range(len(shown))),
        _row(["", *(r"\multicolumn{2}{c}{RMSE} & \multicolumn{2}{c}{Task}" for _ in shown)]),
        _row(["Method", *("paper & ours & paper & ours" for _ in shown)]),
    ]
    section = ""
    for row in ROWS:
        if row[0] != section:
            section = row[0]
            width = 4 * len(shown) + 1
            lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{section}}}}} \\"]
        lines.append(_row([row[1], *(_cells(table, row, counts) for table in shown)]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if any(table.task == "power" for table in shown):
        lines.append("% Sigma: printed as a sum over 24 hours, here an hour.")
    if len(counts) == 1:
        lines.append(f"% {next(iter(counts))} seeds everywhere.")
    return "\n".join(lines) + "\n"


def _title(table: Table) -> str:
    arrow = r"$\uparrow$" if table.higher_is_better else r"$\downarrow$"
    title = layout_of(table.task).title + layout_of(table.task).unit.replace("%", r"\%")
    return rf"\multicolumn{{4}}{{c}}{{{title} {arrow}}}"


def _cells(table: Table, row: tuple[str, str, str, str], counts: set[int]) -> str:
    _, name, model, grad = row
    printed = TABLE_1[base_of(table.task)].get((model, grad), (None, None))
    theirs = [_NONE if value is None else _printed(value) for value in printed]
    theirs[1] = _marked(theirs[1], ranks(table, "paper_mean").get(name, 0))
    found = [table.estimates("method", metric).get(name) for metric in (RMSE, HEADLINE)]
    ours = [_ours(estimate, counts) for estimate in found]
    ours[1] = _marked(ours[1], ranks(table, "mean").get(name, 0))
    return f"{theirs[0]} & {ours[0]} & {theirs[1]} & {ours[1]}"


def _printed(value: Printed) -> str:
    """As printed; a sum over hours as its value an hour, so that a column has one unit."""
    if value.summed == 1:
        return f"{value.mean:.3f}"
    return f"{value.mean / value.summed:.3f}$^\\Sigma$"


def _ours(estimate: Estimate | None, counts: set[int]) -> str:
    if estimate is None or not estimate.count:
        return _NONE
    mean = f"{estimate.mean:.3f}" if abs(estimate.mean) < 1e4 else f"{estimate.mean:.3g}"
    error = "" if math.isnan(estimate.error) else rf"\,$\pm$\,{estimate.error:.3f}"
    number = f" [{estimate.count}]" if len(counts) > 1 else ""
    return mean + error + number


def _marked(text: str, place: int) -> str:
    return _MARKS.get(place, "%s") % text


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
