"""Folds: whole blocks, of like size, with the gap around them left out of what is fitted on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffusion_dfl.data import DataError, Dataset
from diffusion_dfl.data.folds import Fold, block_folds, fold_of_rows

Rows = NDArray[np.int64]


def _data(total: int, block: int, gap: int, test: int = 0) -> Dataset:
    """A data set of which the first row is validation."""
    rng = np.random.default_rng(0)
    return Dataset(
        name="toy",
        source="simulated",
        contexts=rng.random((total, 1)),
        outcomes=rng.random((total, 1)),
        dates=None,
        feature_names=("x",),
        train=np.arange(1, total - test),
        validation=np.array([0]),
        test=np.arange(total - test, total),
        block_rows=block,
        gap_rows=gap,
    )


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Dataset, Rows, int, int]:
    """A data set, some of its rows, a number of folds there are blocks for, and a seed."""
    total, block = draw(st.integers(20, 200)), draw(st.sampled_from([1, 3, 14]))
    kept = draw(st.lists(st.booleans(), min_size=total, max_size=total))
    rows = np.flatnonzero(kept)
    if len(np.unique(rows // block)) < 2:
        rows = np.arange(total)
    most = min(len(np.unique(rows // block)), 6)
    number = draw(st.integers(2, most)) if most > 2 else 2
    return _data(total, block, draw(st.integers(0, 3))), rows, number, draw(st.integers(0, 99))


def _folds(data: Dataset, rows: Rows, number: int, seed: int) -> list[Fold]:
    return block_folds(data, rows, number, np.random.default_rng(seed))


def _folds_or_refusal(data: Dataset, rows: Rows, number: int, seed: int) -> list[Fold]:
    """No fold where the gap around one takes all other rows, which must be what is said."""
    try:
        return _folds(data, rows, number, seed)
    except DataError as error:
        if "leave no row to fit on" not in str(error):
            raise
        return []


@settings(max_examples=60, derandomize=True, deadline=None)
@given(case=_cases())
def test_folds_keep_their_promises(case: tuple[Dataset, Rows, int, int]) -> None:
    data, rows, number, seed = case
    folds = _folds_or_refusal(data, rows, number, seed)
    if not folds:
        return
    assert len(folds) == number

    # a partition of the rows, each part sorted
    held = np.concatenate([fold.held for fold in folds])
    assert sorted(held.tolist()) == rows.tolist()
    assert all(np.all(np.diff(fold.held) > 0) for fold in folds)

    # by whole blocks, dealt out evenly
    blocks = [set((fold.held // data.block_rows).tolist()) for fold in folds]
    for one in range(number):
        for other in range(one):
            assert not blocks[one] & blocks[other]
    counts = [len(of_fold) for of_fold in blocks]
    assert max(counts) - min(counts) <= 1

    # what is fitted on is every row further than the gap from one that is held
    for fold in folds:
        distance = np.abs(rows[:, None] - fold.held[None, :]).min(axis=1)
        assert fold.rest.tolist() == rows[distance > data.gap_rows].tolist()


@settings(max_examples=20, derandomize=True, deadline=None)
@given(case=_cases())
def test_a_row_is_of_the_fold_that_holds_it(case: tuple[Dataset, Rows, int, int]) -> None:
    data, rows, number, seed = case
    folds = _folds_or_refusal(data, rows, number, seed)
    found = fold_of_rows(rows, folds)
    if not folds:
        return
    for row, fold in zip(rows.tolist(), found.tolist(), strict=True):
        assert row in folds[fold].held
        assert row not in folds[fold].rest


def test_a_row_of_no_fold_has_the_number_minus_1() -> None:
    data = _data(40, 5, 1)
    folds = _folds(data, np.arange(5, 35), 3, 0)
    found = fold_of_rows(np.array([0, 7, 39]), folds)
    assert found[0] == found[2] == -1 and found[1] >= 0


def test_the_seed_decides_the_folds() -> None:
    data = _data(200, 5, 1)

    def held(seed: int) -> list[list[int]]:
        return [fold.held.tolist() for fold in _folds(data, data.train, 4, seed)]

    assert held(3) == held(3)
    assert held(3) != held(4)


def test_blocks_are_cut_from_the_first_row_of_the_data_whatever_rows_are_dealt_out() -> None:
    data = _data(60, 10, 0)
    every = {row // 10 for row in range(60)}
    for rows in (np.arange(60), np.arange(7, 60), np.arange(0, 60, 3)):
        folds = _folds(data, rows, 3, 0)
        assert {row // 10 for fold in folds for row in fold.held.tolist()} == every


@pytest.mark.parametrize("number", [0, 1, 6, 100])
def test_folds_that_cannot_be_had_are_one_error_that_names_the_key_and_the_range(
    number: int,
) -> None:
    rng = np.random.default_rng(0)
    data = _data(50, 10, 1)
    with pytest.raises(
        DataError,
        match=rf"^model\.base_folds={number}: 49 rows make 5 blocks of 10 rows, each of which is of "
        r"one fold; set it to a number from 2 to 5$",
    ):
        block_folds(data, data.train, number, rng, "model.base_folds")


def test_a_fold_whose_gap_takes_every_other_row_is_refused() -> None:
    data = _data(20, 1, 3)
    with pytest.raises(DataError, match=r"folds=2: fold \d and the gap of 3 rows .*fewer folds"):
        _folds(data, np.arange(20), 2, 0)
