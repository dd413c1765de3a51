"""All methods on all tasks beside the paper, in one picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusion_dfl.suite.reporting.figures.style import PALETTE, panels
from diffusion_dfl.suite.reporting.layout import HEADLINE, LAYOUTS
from diffusion_dfl.suite.reporting.paper import DECISION_FOCUSED, ROWS, TABLE_1
from diffusion_dfl.suite.reporting.statistics import Estimate
from diffusion_dfl.suite.reporting.table1 import Table, build

if TYPE_CHECKING:
    from diffusion_dfl.suite.reporting.figures.catalogue import FigureSource

_Row = tuple[str, str, str, str]

# What lies farther from the median than this many times the distance of the middle half is drawn at
# the edge, with its number.
_REACH = 4.0


@dataclass(frozen=True)
class _Panel:
    """What a task's panel shows: a metric with its name, and whether its axis is logarithmic."""

    metric: str = HEADLINE
    label: str = ""
    logarithmic: bool = False


_PAPER: dict[str, Any] = {
    "marker": "D",
    "mfc": "none",
    "mec": "0.35",
    "markersize": 5,
    "ls": "none",
}
_LINE: dict[str, Any] = {"color": "0.35", "lw": 0.9, "ls": "--"}

_PANELS = {
    "synthetic": _Panel(logarithmic=True),
    "inventory": _Panel("test.regret", "regret"),
}


def overview(source: "FigureSource") -> Figure:
    """Every method's number with its 95 % interval over seeds; the paper's as a hollow diamond, the
    best plain baseline as a dashed line. What does not fit stands at the edge, with an arrow."""
    from diffusion_dfl.suite.reporting.figures.catalogue import MissingRuns

    tables = [build(source.runs, source.of(task)) for task in LAYOUTS]
    tables = [table for table in tables if table.estimates("method")]
    if not tables:
        raise MissingRuns(
            "no task has runs; make some with `python train.py task=power model=gaussian "
            "grad=two_stage,reparam,score -m seed=0-9`"
        )
    shown = {name for table in tables for name in table.estimates("method")}
    rows = [row for row in ROWS if row[1] in shown]
    figure, axes = panels(len(tables), width=2.9, height=0.9 + 0.26 * len(rows))
    for axis, table in zip(axes.flat, tables, strict=True):
        _panel(axis, table, rows)
        axis.set_yticks(range(len(rows)), [])
    axes[0, 0].set_yticks(range(len(rows)), [row[1] for row in rows])
    handles = [
        Line2D([], [], color=PALETTE[1], marker="o", label="decision-focused"),
        Line2D([], [], color=PALETTE[0], marker="o", label="not decision-focused"),
        Line2D([], [], label="the paper's, of another protocol", **_PAPER),
        Line2D([], [], label="best plain baseline", **_LINE),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _panel(axis: Any, table: Table, rows: Sequence[_Row]) -> None:
    layout, panel = LAYOUTS[table.task], _PANELS.get(table.task, _Panel())
    found = table.estimates("method", panel.metric)
    whole = panel.metric == HEADLINE
    best = _best_baseline(table) if whole else None
    low, high = _limits(list(found.values()), best, panel.logarithmic)
    if panel.logarithmic:
        axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    printed = TABLE_1.get(table.task, {}) if whole and table.compare else {}
    for place, (section, name, model, grad) in enumerate(rows):
        colour = PALETTE[1] if section == DECISION_FOCUSED else PALETTE[0]
        if name in found:
            one = found[name]
            # An interval that reaches zero has no place on a logarithmic axis.
            left = max(one.low, low) if one.mean >= low else one.mean
            ends = [[one.mean - left], [one.high - one.mean]]
            axis.errorbar(
                [one.mean], [place], xerr=None if math.isnan(one.low) else ends, fmt="o",
                color=colour, markersize=5, capsize=2, lw=1.2,
            )  # fmt: skip
            _edge(axis, place, one.mean, (low, high), colour)
        if (model, grad) in printed:
            value = printed[(model, grad)][1].mean
            if low <= value <= high:
                axis.plot([value], [place], zorder=1, **_PAPER)
            _edge(axis, place + 0.35, value, (low, high), "0.35", "◇ ")
    if best is not None:
        axis.axvline(best, zorder=0, **_LINE)
    direction = "higher is better" if table.higher_is_better and whole else "lower is better"
    axis.set_title(layout.title, fontsize=10)
    axis.set_xlabel(f"{panel.label or layout.quantity + layout.unit}, {direction}", fontsize=8)
    axis.tick_params(labelsize=8)


def _best_baseline(table: Table) -> float | None:
    """The best plain baseline that does not look into the future."""
    values = [
        one.mean for name, one in table.estimates("baseline").items() if "hindsight" not in name
    ]
    choose = max if table.higher_is_better else min
    return choose(values) if values else None


def _limits(
    found: Sequence[Estimate], line: float | None, logarithmic: bool
) -> tuple[float, float]:
    """Ends of an axis that shows most intervals, and has no outlier's scale."""
    means = np.array([one.mean for one in found if one.mean > 0 or not logarithmic])
    found = [one for one in found if one.mean > 0 or not logarithmic]
    scaled = np.log(means) if logarithmic else means
    first, middle, last = np.quantile(scaled, [0.25, 0.5, 0.75])
    near = abs(scaled - middle) <= _REACH * max(last - first, 1e-3 * abs(middle))
    values = [] if line is None else [line]
    for one, kept in zip(found, near, strict=True):
        if kept:
            ends = (one.low, one.mean, one.high)
            values += [v for v in ends if not math.isnan(v) and (v > 0 or not logarithmic)]
    low, high = min(values), max(values)
    if logarithmic:
        return max(low, 0.5 * float(means.min())) / 1.2, high * 1.2
    margin = 0.08 * (high - low) or 0.1 * abs(middle)
    return low - margin, high + margin


def _edge(
    axis: Any, place: float, value: float, ends: tuple[float, float], colour: str, mark: str = ""
) -> None:
    """The number of what lies beyond the axis, with an arrow to its side."""
    if ends[0] <= value <= ends[1]:
        return
    right = value > ends[1]
    text = mark + (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}")
    axis.annotate(
        f"{text} →" if right else f"← {text}", (0.99 if right else 0.01, place),
        xycoords=("axes fraction", "data"), ha="right" if right else "left", va="center",
        fontsize=6 if mark else 8, color=colour,
    )  # fmt: skip
