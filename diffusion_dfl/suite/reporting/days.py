"""Differences between methods over seeds and test days together.

An interval over seeds holds for these test days: all methods and seeds are judged on them, and a
lucky month is lucky for every seed. Here days are drawn again too, in blocks, since neighbouring days
are alike.
"""

from functools import lru_cache

import numpy as np
import pandas as pd

from diffusion_dfl.suite.reporting.collect import Collection
from diffusion_dfl.suite.reporting.statistics import FEWEST, bootstrap_interval, moved_out

#: Days of a block: two weeks hold the weekly pattern and most of the weather's memory.
BLOCK = 14

_RESAMPLES = 4_000


def costs_by_day(collection: Collection, runs: pd.DataFrame) -> pd.DataFrame:
    """Headline number of every test day: a row a seed, a column a date.

    Args:
        collection: what ``runs`` are the frame of.
        runs: rows of :func:`diffusion_dfl.suite.reporting.frame.frame`, one a seed.

    Returns:
        Empty where rows of the data are no days (they are named ``row 7``), or a run has none.
    """
    found = {}
    for run in runs[["seed", "path", "published"]].to_dict("records"):
        rows = collection.rows(run["path"], run["published"])
        if not len(rows) or not str(rows.index[0])[:4].isdigit():
            return pd.DataFrame()
        found[run["seed"]] = rows
    return pd.DataFrame(found).T.sort_index(axis=1)


def interval(ours: pd.DataFrame, theirs: pd.DataFrame, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the mean of ``ours - theirs`` over seeds and days.

    Seeds and blocks of `BLOCK` days (circular; Politis and Romano, 1992) are drawn with replacement
    and crossed: the same days for all seeds of a resample. Always the same resamples. Levels are
    moved out for few seeds or blocks as in :func:`~diffusion_dfl.suite.reporting.statistics.bootstrap_interval`,
    and the interval over seeds alone is within this one. Days that depend on others more than two
    weeks away make it too short.

    Args:
        ours, theirs: :func:`costs_by_day`; seeds and days that only one of them has are left out.
        level: nominal coverage.

    Returns:
        Its ends; NaN of fewer than `FEWEST` seeds or two blocks of days.
    """
    difference = (ours - theirs).dropna(how="all").dropna(axis=1)
    seeds, days = difference.shape
    if seeds < FEWEST or days < 2 * BLOCK:
        return float("nan"), float("nan")
    drawn, blocks = _resamples(seeds, days)
    means = ((drawn @ difference.to_numpy()) * blocks).sum(axis=1) / (seeds * days)
    tail = moved_out(level, min(seeds, days // BLOCK))
    low, high = np.quantile(means, [tail, 1 - tail])
    alone = bootstrap_interval(difference.mean(axis=1).tolist(), level)
    return min(float(low), alone[0]), max(float(high), alone[1])


@lru_cache(maxsize=2)
def _resamples(seeds: int, days: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed and each day is in a resample: ``(R, seeds)`` and ``(R, days)``."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(seeds, size=(_RESAMPLES, seeds))
    starts = rng.integers(days, size=(_RESAMPLES, -(-days // BLOCK), 1))
    blocks = (starts + np.arange(BLOCK)).reshape(_RESAMPLES, -1)[:, :days] % days
    return _counts(drawn, seeds), _counts(blocks, days)


def _counts(drawn: np.ndarray, size: int) -> np.ndarray:
    """How often each of ``size`` things was drawn, a row a resample."""
    shifted = drawn + size * np.arange(len(drawn))[:, None]
    return np.bincount(shifted.ravel(), minlength=size * len(drawn)).reshape(len(drawn), size)
