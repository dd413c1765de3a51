"""All methods beside the paper on two tasks, in one picture that is read at the width of a README."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from diffusion_dfl.suite.reporting.figures.axis import beyond, limits
from diffusion_dfl.suite.reporting.figures.style import PALETTE, panels
from diffusion_dfl.suite.reporting.layout import LAYOUTS
from diffusion_dfl.suite.reporting.paper import DECISION_FOCUSED, ROWS, TABLE_1
from diffusion_dfl.suite.reporting.table1 import Table

if TYPE_CHECKING:
    from diffusion_dfl.suite.reporting.figures.catalogue import FigureSource

_Row = tuple[str, str, str, str]

_PAPER: dict[str, Any] = {
    "marker": "D",
    "mfc": "none",
    "mec": "0.35",
    "markersize": 5,
    "ls": "none",
}
_LINE: dict[str, Any] = {"color": "0.35", "lw": 0.9, "ls": "--"}

# The tasks that are shown where they have runs, and of how many. The first is where the paper's
# numbers are nearest to ours; the second has costs of four orders of magnitude.
_FIRST, _PANELS = ("power", "synthetic"), 2
_LOGARITHMIC = ("synthetic",)


def overview(source: "FigureSource") -> Figure:
    """Every method's number with its 95 % interval over seeds; the paper's as a hollow diamond, the
    best plain baseline as a dashed line. What does not fit stands in the margin, with an arrow."""
    from diffusion_dfl.suite.reporting.figures.catalogue import MissingRuns

    tasks = [*_FIRST, *(task for task in LAYOUTS if task not in _FIRST)]
    tables = [table for table in map(source.table, tasks) if table.estimates("method")][:_PANELS]
    if not tables:
        raise MissingRuns(
            "no task has runs; make some with `python train.py task=power model=gaussian "
            "grad=two_stage,reparam,score -m seed=0-9`"
        )
    shown = {name for table in tables for name in table.estimates("method")}
    rows = [row for row in ROWS if row[1] in shown]
    figure, axes = panels(len(tables), width=7.6 / len(tables), height=1.1 + 0.27 * len(rows))
    for axis, table in zip(axes.flat, tables, strict=True):
        _panel(axis, table, rows)
        axis.set_yticks(range(len(rows)), [])
    axes[0, 0].set_yticks(range(len(rows)), [row[1] for row in rows])
    handles = [
        Line2D([], [], color=PALETTE[1], marker="o", label="decision-focused"),
        Line2D([], [], color=PALETTE[0], marker="o", label="not decision-focused"),
        Line2D([], [], label="the paper's, other protocol", **_PAPER),
        Line2D([], [], label="best plain baseline", **_LINE),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _panel(axis: Any, table: Table, rows: Sequence[_Row]) -> None:
    layout, logarithmic = LAYOUTS[table.task], table.task in _LOGARITHMIC
    found, best = table.estimates("method"), _best_baseline(table)
    low, high = limits(list(found.values()), best, logarithmic)
    if logarithmic:
        axis.set_xscale("log")
        if high < 10 * low:
            # No power of ten may lie inside, and those between them are labelled as powers.
            axis.set_xticks(
                [tick / 10 for tick in (*range(1, 10), *range(10, 100, 10))], minor=False
            )
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(low, high)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    printed = TABLE_1.get(table.task, {}) if table.compare else {}
    for place, (section, name, model, grad) in enumerate(rows):
        values = []
        if name in found:
            one = found[name]
            # An interval that reaches zero has no place on a logarithmic axis.
            left = max(one.low, low) if one.mean >= low else one.mean
            ends = [[one.mean - left], [one.high - one.mean]]
            axis.errorbar(
                [one.mean], [place], xerr=None if math.isnan(one.low) else ends, fmt="o",
                color=PALETTE[1] if section == DECISION_FOCUSED else PALETTE[0],
                markersize=5, capsize=2, lw=1.2,
            )  # fmt: skip
            values.append(("", one.mean))
        if (model, grad) in printed:
            value = printed[(model, grad)][1].mean
            if low <= value <= high:
                axis.plot([value], [place], zorder=1, **_PAPER)
            values.append(("◇ ", value))
        if name not in found:
            axis.annotate(
                "no runs yet", (0.03, place), xycoords=("axes fraction", "data"), va="center",
                fontsize=7.5, color="0.45",
            )  # fmt: skip
        beyond(axis, place, values)
    if best is not None:
        axis.axvline(best, zorder=0, **_LINE)
    direction = "higher" if table.higher_is_better else "lower"
    axis.set_title(layout.title, fontsize=10)
    axis.set_xlabel(f"{layout.quantity}{layout.unit}, {direction} is better", fontsize=8)
    axis.tick_params(labelsize=8)


def _best_baseline(table: Table) -> float | None:
    """The best plain baseline that does not look into the future."""
    values = [
        one.mean for name, one in table.estimates("baseline").items() if "hindsight" not in name
    ]
    choose = max if table.higher_is_better else min
    return choose(values) if values else None
