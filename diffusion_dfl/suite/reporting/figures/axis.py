"""An axis that shows most numbers and has no outlier's scale; what lies beyond it is written beside it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion_dfl.suite.reporting.statistics import Estimate

# What lies farther from the median than this many times the distance of the middle half is beyond
# the axis.
_REACH = 3.0


def limits(found: Sequence[Estimate], line: float | None, logarithmic: bool) -> tuple[float, float]:
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


def beyond(axis: Any, place: float, values: Sequence[tuple[str, float]]) -> None:
    """What lies beyond the axis, with its number and an arrow to its side, in the margin to the right,
    where it crosses no line.

    Args:
        axis: with its limits.
        place: on the other axis.
        values: a mark before the number, and the number.
    """
    low, high = axis.get_xlim()
    left = [mark + _number(value) for mark, value in values if value < low]
    right = [mark + _number(value) for mark, value in values if value > high]
    told = ["← " + ", ".join(left)] * bool(left) + [", ".join(right) + " →"] * bool(right)
    if told:
        axis.annotate(
            ", ".join(told), (1.02, place), xycoords=("axes fraction", "data"), va="center",
            fontsize=7.5, color="0.25", annotation_clip=False,
        )  # fmt: skip


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
