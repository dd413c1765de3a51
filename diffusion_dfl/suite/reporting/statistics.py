"""Means over seeds, and how sure they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtrit

# The range of fewer than five values holds their median in less than 15 of 16 cases: no resampling
# makes a 95 % interval of them.
FEWEST = 5

# Enough for the tails of five values, whose levels are .0009 and .9991.
_RESAMPLES = 20_000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: NaN of no value.
        error: its standard error; NaN of fewer than two values.
        low, high: ends of :func:`bootstrap_interval`; NaN of fewer than `FEWEST` values.
        count: how many values.
    """

    mean: float
    error: float
    low: float
    high: float
    count: int

    def side(self) -> int:
        """1 or -1 for an interval above or below zero, 0 for one that has it or is not known."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error ``sqrt(sum (v - mean)^2 / (n - 1) / n)``; NaN where undefined."""
    count = len(values)
    if count == 0:
        return math.nan, math.nan
    mean = math.fsum(values) / count
    if count < 2:
        return mean, math.nan
    # Whose squares may be beyond what a float holds.
    return mean, math.hypot(*(value - mean for value in values)) / math.sqrt((count - 1) * count)


@cache
def _draws(count: int) -> np.ndarray:
    size = (_RESAMPLES, count)
    return np.random.default_rng(0).integers(count, size=size, dtype=np.uint16)


@cache
def _quantile(level: float, count: int) -> float:
    """Upper end of the central ``level`` of Student's distribution with count - 1 degrees of freedom."""
    return float(stdtrit(count - 1, (1 + level) / 2))


@cache
def moved_out(level: float, count: int) -> float:
    """Lower level of a percentile interval of ``count`` values: ``Phi(-sqrt(n/(n-1)) t)``, ``t`` the
    quantile of Student's distribution with n - 1 degrees of freedom (Hesterberg, 2015, section 5.3)."""
    return float(ndtr(-math.sqrt(count / (count - 1)) * _quantile(level, count)))


def bootstrap_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the mean for few values, always with the same resamples.

    The plain percentile interval (Efron, 1979) is too short for few values: of ten normal ones it holds
    the mean in 91 % of cases, of five in 85 %. So its levels are moved out to
    ``Phi(-+ sqrt(n/(n-1)) t)``, ``t`` the quantile of Student's distribution with n - 1 degrees of
    freedom (Hesterberg, The American Statistician 69, 2015, section 5.3), and where Student's own
    interval reaches farther, as it does for five values or beside an outlier, that end is taken.

    Args:
        values: one a seed.
        level: nominal coverage.

    Returns:
        Its ends; NaN of fewer than `FEWEST` values.
    """
    if len(values) < FEWEST:
        return math.nan, math.nan
    numbers = np.asarray(values, dtype=float)
    means = numbers[_draws(len(numbers))].mean(axis=1)
    quantile = _quantile(level, len(numbers))
    tail = moved_out(level, len(numbers))
    low, high = np.quantile(means, [tail, 1 - tail])
    mean, error = mean_and_error(values)
    return min(float(low), mean - quantile * error), max(float(high), mean + quantile * error)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard error and interval of the values that are numbers."""
    known = [float(value) for value in values if not math.isnan(value)]
    return Estimate(*mean_and_error(known), *bootstrap_interval(known), len(known))


def paired(ours: pd.Series, theirs: pd.Series) -> Estimate:
    """Difference ``ours - theirs`` over the seeds both have; both are indexed by seed."""
    return estimate((ours - theirs).dropna().tolist())
