"""Splits: whole weeks of validation, a gap around them, the end for test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_dfl.data import DataError, split_days

CASES = {
    "seed": st.integers(0, 2**32 - 1),
    "before": st.integers(400, 3000),
    "after": st.integers(1, 700),
    "fraction": st.floats(0.05, 0.4),
    "weeks": st.integers(1, 4),
    "gap": st.integers(0, 3),
}


@settings(max_examples=80, deadline=None)
@given(**CASES)
def test_split_keeps_its_promises(
    seed: int, before: int, after: int, fraction: float, weeks: int, gap: int
) -> None:
    split = split_days(
        before + after,
        before,
        np.random.default_rng(seed),
        validation_fraction=fraction,
        block_weeks=weeks,
        gap_days=gap,
    )
    block = 7 * weeks
    assert split.test.tolist() == list(range(before, before + after))
    every = np.concatenate([split.train, split.validation])
    assert len(np.unique(every)) == len(every) and every.max() < before
    assert np.all(np.diff(split.train) > 0) and np.all(np.diff(split.validation) > 0)

    # validation is whole blocks, enough of them and not one more
    starts = np.unique(split.validation // block) * block
    assert split.validation.tolist() == [r for s in starts for r in range(s, s + block)]
    assert fraction * before <= len(split.validation) < fraction * before + block + 1e-6

    # training is every other day further than `gap` from validation
    distance = np.abs(np.arange(before)[:, None] - split.validation[None, :]).min(axis=1)
    assert split.train.tolist() == np.flatnonzero(distance > gap).tolist()


def test_seed_decides_the_validation_weeks() -> None:
    def validation(seed: int) -> list[int]:
        return split_days(1200, 1000, np.random.default_rng(seed)).validation.tolist()

    assert validation(3) == validation(3)
    assert validation(3) != validation(4)


def test_validation_covers_all_seasons() -> None:
    for seed in range(10):
        rows = split_days(3165, 2527, np.random.default_rng(seed)).validation
        quarter = ((rows % 365.25) // (365.25 / 4)).astype(int)
        assert np.bincount(quarter, minlength=4).min() >= 14


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 0.0}, "task.validation_fraction=0.0"),
        ({"validation_fraction": 1.0}, "task.validation_fraction=1.0"),
        ({"validation_fraction": float("nan")}, "task.validation_fraction=nan"),
        ({"block_weeks": 0}, "task.block_weeks=0"),
        ({"gap_days": -1}, "task.gap_days=-1"),
        ({"block_weeks": 20}, "hold 0 whole blocks but 1 are needed"),
        ({"gap_days": 1000}, "no training day is left"),
        ({"first_test": 0}, "the test rows start at 0 of 150"),
        ({"first_test": 150}, "the test rows start at 150 of 150"),
    ],
)
def test_impossible_splits_are_refused_with_their_key(
    options: dict[str, Any], message: str
) -> None:
    arguments = {"num_days": 150, "first_test": 100, "rng": np.random.default_rng(0)} | options
    with pytest.raises(DataError, match=message):
        split_days(**arguments)
