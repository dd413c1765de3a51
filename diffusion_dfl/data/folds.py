"""Folds of rows for cross-fitting and for searches: whole blocks, never single days of a series."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import DataError, Dataset


class Fold(NamedTuple):
    """One fold.

    Attributes:
        held: sorted rows of the fold.
        rest: sorted rows of the others, less those in the gap around the fold's.
    """

    held: NDArray[np.int64]
    rest: NDArray[np.int64]


def block_folds(
    data: Dataset,
    rows: NDArray[np.int64],
    number: int,
    rng: np.random.Generator,
    key: str = "folds",
) -> list[Fold]:
    """Deal the blocks of some rows out to folds of like size, at random.

    A block is ``data.block_rows`` consecutive rows of the data set, cut from row 0 on; rows at most
    ``data.gap_rows`` from a row of a fold are not in its rest, as around validation blocks.

    Args:
        data: whose rows they are.
        rows: sorted rows, ``(N,)``.
        number: of folds, at least 2.
        rng: draws one permutation of the blocks.
        key: what the number is called where it cannot be had.

    Raises:
        DataError: fewer blocks than folds, or a fold that leaves no row to fit on.
    """
    block_of = rows // data.block_rows
    blocks = np.unique(block_of)
    if not 2 <= number <= len(blocks):
        raise DataError(
            f"{key}={number}: {len(rows)} rows make {len(blocks)} blocks of {data.block_rows} rows, "
            f"each of which is of one fold; set it to a number from 2 to {len(blocks)}"
        )
    fold_of_block = np.empty(len(blocks), dtype=np.int64)
    fold_of_block[rng.permutation(len(blocks))] = np.arange(len(blocks)) % number
    fold_of = fold_of_block[np.searchsorted(blocks, block_of)]
    folds = []
    for fold in range(number):
        held = rows[fold_of == fold]
        near = np.unique(
            np.concatenate([held + shift for shift in range(-data.gap_rows, data.gap_rows + 1)])
        )
        rest = rows[~np.isin(rows, near)]
        if not len(rest):
            raise DataError(
                f"{key}={number}: fold {fold} and the gap of {data.gap_rows} rows around it leave no "
                "row to fit on; take fewer folds"
            )
        folds.append(Fold(held, rest))
    return folds


def ahead_folds(
    data: Dataset, rows: NDArray[np.int64], number: int, key: str = "folds"
) -> list[Fold]:
    """Cut the last third of some rows into consecutive folds, each with all rows before it as its rest.

    What a series becomes is asked of its past alone, where blocks at random would have days after the
    held ones to learn from (Hyndman and Athanasopoulos, 2021, "Forecasting", section 5.10).

    Args:
        data: whose rows they are; its gap lies between rest and fold.
        rows: sorted rows, in the order of time.
        number: of folds, at least 1.
        key: what the number is called where it cannot be had.

    Raises:
        DataError: fewer rows than folds, or no row to fit on.
    """
    first = len(rows) - len(rows) // 3
    last = len(rows) - first
    if last and rows[first] - rows[0] <= data.gap_rows:
        raise DataError(
            f"{key}={number}: the first of the folds begins at row {first} of {len(rows)}, and the gap of "
            f"{data.gap_rows} rows before it leaves none to fit on; bring more rows"
        )
    if not 1 <= number <= last:
        raise DataError(
            f"{key}={number}: the last third of {len(rows)} rows is cut into folds; "
            + (f"set it to a number from 1 to {last}" if last else "bring more rows")
        )
    return [
        Fold(held, rows[rows < held[0] - data.gap_rows])
        for held in np.array_split(rows[first:], number)
    ]


def fold_of_rows(rows: NDArray[np.int64], folds: list[Fold]) -> NDArray[np.int64]:
    """The number of the fold each of ``rows`` is held by, ``(N,)``."""
    found = np.full(len(rows), -1, dtype=np.int64)
    for number, fold in enumerate(folds):
        found[np.isin(rows, fold.held)] = number
    return found
