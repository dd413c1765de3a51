"""Which days to fit on, to choose with and to report.

Test is the end of the series. Validation is whole weeks drawn at random from the time before it:

- weeks, not days: neighbouring days are alike (the previous day's load is a feature), so a random
  validation day between two training days says little about days never seen;
- at random, not the end of the training time: choices concern a rare quantile of the load, whose
  spread differs between seasons, so validation must see all seasons; and load drifts, so the last
  year before the test time is the most useful one to fit on;
- with a gap: training days next to a validation block are left out, so that a validation outcome
  is not the previous-day feature of a training day, nor the reverse.

Longer features (same day last week, 28-day means) still cross the border as inputs. No validation
outcome is ever a training outcome.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import DataError, Dataset

DAYS_A_WEEK = 7


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted, disjoint rows; days in the gap around validation blocks are in none of them.

    ``block_days`` and ``gap_days`` are those of folds (:class:`~diffusion_dfl.data.dataset.Dataset`).
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    block_days: int = 1
    gap_days: int = 0


def daily_dataset(
    name: str, source: str, features: pd.DataFrame, targets: pd.DataFrame, split: Split
) -> Dataset:
    """Data set of frames with a row a target day and columns by name, the dates in their index.

    Raises:
        DataError: see :class:`~diffusion_dfl.data.dataset.Dataset`.
    """
    return Dataset(
        name=name,
        source=source,
        contexts=features.to_numpy(dtype=np.float64),
        outcomes=targets.to_numpy(dtype=np.float64),
        dates=pd.DatetimeIndex(features.index).to_numpy().astype("datetime64[D]"),
        feature_names=tuple(str(column) for column in features.columns),
        train=split.train,
        validation=split.validation,
        test=split.test,
        block_rows=split.block_days,
        gap_rows=split.gap_days,
    )


def split_days(
    num_days: int,
    first_test: int,
    rng: np.random.Generator,
    *,
    validation_fraction: float = 0.2,
    block_weeks: int = 2,
    gap_days: int = 1,
) -> Split:
    """Split rows 0..num_days-1 of consecutive days.

    Rows before `first_test` are cut, from row 0 on, into blocks of `block_weeks` weeks; a shorter
    rest at the end is always training. Blocks are drawn without replacement until they hold at
    least `validation_fraction` of the rows before `first_test`. Training is what is left, less the
    rows at most `gap_days` from a validation row.

    Args:
        num_days: rows in all.
        first_test: first test row; test runs to the end.
        rng: the run's generator for the split; one permutation is drawn from it.
        validation_fraction: share of the rows before the test, in (0, 1).
        block_weeks: length of a block in weeks, at least 1.
        gap_days: rows left out on either side of a block, at least 0.

    Raises:
        DataError: an argument out of range, or a split that would leave training empty.
    """
    if not 0.0 < validation_fraction < 1.0:
        raise DataError(
            f"task.validation_fraction={validation_fraction}: it must lie between 0 and 1, "
            "e.g. 0.2."
        )
    if block_weeks < 1:
        raise DataError(f"task.block_weeks={block_weeks}: it must be 1 or more, e.g. 2.")
    if gap_days < 0:
        raise DataError(f"task.gap_days={gap_days}: it must be 0 or more, e.g. 1.")
    if not 0 < first_test < num_days:
        raise DataError(
            f"split: the test rows start at {first_test} of {num_days}; there must be days before "
            "and after that row."
        )
    block_days = DAYS_A_WEEK * block_weeks
    available = first_test // block_days
    wanted = math.ceil(validation_fraction * first_test / block_days)
    if wanted > available:
        raise DataError(
            f"task.validation_fraction={validation_fraction} with task.block_weeks={block_weeks}: "
            f"{first_test} days before the test hold {available} whole blocks but {wanted} are "
            "needed; lower either, or take more days."
        )
    chosen = rng.permutation(available)[:wanted]
    rows = np.arange(first_test, dtype=np.int64)
    # Row r belongs to block r // block_days; the short rest has number `available`: never chosen.
    is_validation = np.isin(rows // block_days, chosen)
    near = is_validation.copy()
    for shift in range(1, min(gap_days, first_test - 1) + 1):
        near[shift:] |= is_validation[:-shift]
        near[:-shift] |= is_validation[shift:]
    train = rows[~near]
    if len(train) == 0:
        raise DataError(
            f"task.validation_fraction={validation_fraction} with task.gap_days={gap_days}: no "
            "training day is left; lower either, or take more days."
        )
    test = np.arange(first_test, num_days, dtype=np.int64)
    return Split(train, rows[is_validation], test, block_days, gap_days)
