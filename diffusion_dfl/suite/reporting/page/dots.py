"""Dot charts: a row a name, a dot for its number, a line for its interval; drawn without scripts.

Positions are percents of the row's width, so that a chart fits a phone and a wide screen alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_dfl.suite.reporting.markdown import number
from diffusion_dfl.suite.reporting.table1 import Table

# Above this ratio of the largest to the smallest number the small ones are one dot on a linear axis.
_LOGARITHMIC = 5.0
_AXIS = " (logarithmic; ends at or below zero are cut off)"
_MARGIN = 4.0  # percent of the width, at either side


@dataclass(frozen=True)
class Dot:
    """A row.

    Attributes:
        title: its name.
        value: its number.
        low, high: its interval; NaN for none.
        text: number and interval in words.
        kind: ``method``, ``baseline`` or ``bound``; how it is drawn.
    """

    title: str
    value: float
    low: float
    high: float
    text: str
    kind: str = "method"


@dataclass(frozen=True)
class Drawn:
    """A row with positions in percent; ``start`` and ``end`` are None without an interval."""

    dot: Dot
    at: str
    start: str | None
    end: str | None


@dataclass(frozen=True)
class Dots:
    """A chart.

    Attributes:
        title: what it shows.
        note: what dot and line are.
        rows: from top to bottom.
        ticks: of the axis: position in percent, text.
        axis: what the axis is.
    """

    title: str
    note: str
    rows: tuple[Drawn, ...]
    ticks: tuple[tuple[str, str], ...]
    axis: str


def chart(title: str, note: str, axis: str, dots: Sequence[Dot]) -> Dots | None:
    """The chart of some dots; None of none. Numbers of several orders get a logarithmic axis."""
    if not dots:
        return None
    ends = [
        value for dot in dots for value in (dot.value, dot.low, dot.high) if math.isfinite(value)
    ]
    positive = [value for value in ends if value > 0]
    logarithmic = max(ends) > _LOGARITHMIC * min(dot.value for dot in dots) > 0
    low, high = (min(positive), max(positive)) if logarithmic else (min(ends), max(ends))
    place = _logarithm if logarithmic else float
    span = place(high) - place(low) or 1.0

    def percent(value: float) -> str:
        share = (place(max(value, low)) - place(low)) / span
        return f"{_MARGIN + (100 - 2 * _MARGIN) * share:.2f}%"

    rows = []
    for dot in dots:
        known = math.isfinite(dot.low)
        start, end = (percent(dot.low), percent(dot.high)) if known else (None, None)
        rows.append(Drawn(dot, percent(dot.value), start, end))
    marks = _decades(low, high) if logarithmic else ticks(low, high)
    return Dots(
        title,
        note,
        tuple(rows),
        tuple((percent(mark), f"{mark:g}") for mark in marks),
        axis + (_AXIS if logarithmic else ""),
    )


def task_chart(table: Table, axis: str) -> Dots | None:
    """The headline number of a table's rows with its interval over seeds."""
    dots = [
        Dot(name, one.mean, one.low, one.high, _text(one.mean, one.low, one.high), block)
        for block in ("method", "baseline", "bound")
        for name, one in table.estimates(block).items()
    ]
    return chart(
        "Task by method",
        "Dot: mean over seeds. Line: 95 % interval of that mean. Hollow: plain baselines and bounds.",
        axis,
        dots,
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two, at most ``most``."""
    if high <= low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10):
        found = [
            round(index * step * factor, 12)
            for index in range(
                math.ceil(low / (step * factor)), math.floor(high / (step * factor)) + 1
            )
        ]
        if len(found) <= most:
            break
    return found


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten, over a short range their double and fivefold too."""
    if high < 100 * low:
        start = math.floor(math.log10(low))
        steps = (
            factor * 10.0**power for power in (start, start + 1, start + 2) for factor in (1, 2, 5)
        )
        return [round(step, 12) for step in steps if low <= step <= high]
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    step = max(1, math.ceil(len(powers) / 6))
    return [10.0**power for power in powers[::step]]


def _logarithm(value: float) -> float:
    return math.log10(value)


def _text(value: float, low: float, high: float) -> str:
    interval = f" [{number(low, 3)}, {number(high, 3)}]" if math.isfinite(low) else ""
    return number(value, 3) + interval
