"""The one form in which every task receives its data: arrays, names, dates and a split.

A `Dataset` is checked when it is made, so that whatever trains on it may rely on finite numbers
and on splits that do not overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diffusion_dfl.errors import UserError

SOURCES = ("real", "simulated")


class DataError(UserError):
    """Data that cannot be had or cannot be trusted: missing, damaged, inconsistent."""


def require(holds: bool, key: str, value: object, mend: str) -> None:
    """Raise DataError, "<key>=<value>: <mend>", unless it holds."""
    if not holds:
        raise DataError(f"{key}={value}: {mend}.")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Contexts and outcomes of N rows with a split into training, validation and test rows.

    Attributes:
        name: what the data are, e.g. "power".
        source: "real" or "simulated".
        contexts: (N, d_x) float64, raw units; predictors standardise with training rows only.
        outcomes: (N, d_y) float64, raw units.
        dates: (N,) datetime64[D], the day each outcome belongs to (the target day); None where
            rows are independent draws and have no date.
        feature_names: d_x names, in the order of the columns of `contexts`.
        train: sorted integer rows to fit on.
        validation: sorted integer rows to choose with.
        test: sorted integer rows to report; none where they are kept out of sight.
        block_rows: consecutive rows that stand or fall together where rows are dealt out to folds:
            1 for independent draws, a fortnight of a series of days.
        gap_rows: rows next to a fold that are not fitted on with the others.
        weights: (N,) float64 >= 0, in any unit, what every row counts for in what predictors are
            fitted to, trained for and chosen by; a row of weight 0 is left out there. Tests count
            every row once. None where all rows count the same.

    Raises DataError from `check` when any of this does not hold.
    """

    name: str
    source: str
    contexts: NDArray[np.float64]
    outcomes: NDArray[np.float64]
    dates: NDArray[np.datetime64] | None
    feature_names: tuple[str, ...]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    block_rows: int = field(default=1, kw_only=True)
    gap_rows: int = field(default=0, kw_only=True)
    weights: NDArray[np.float64] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.check()

    @property
    def known(self) -> NDArray[np.int64]:
        """Sorted rows that are no test rows: training, validation and the gaps between."""
        rows: NDArray[np.int64] = np.setdiff1d(np.arange(len(self.contexts)), self.test)
        return rows

    def counted(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some rows whose weight is not 0."""
        return rows if self.weights is None else rows[self.weights[rows] > 0]

    @property
    def row_names(self) -> NDArray[np.str_]:
        """(N,) dates in ISO form, or "row 0", "row 1", ... where there are none."""
        if self.dates is None:
            return np.char.add("row ", np.arange(len(self.contexts)).astype(np.str_))
        return np.datetime_as_string(self.dates)

    def check(self) -> None:
        """Raise DataError, naming column and row, if the arrays or the split are unsound."""
        if self.source not in SOURCES:
            raise DataError(
                f"data set {self.name}: source is {self.source!r}; use one of {', '.join(SOURCES)}."
            )
        if self.block_rows < 1 or self.gap_rows < 0:
            raise DataError(
                f"data set {self.name}: block_rows={self.block_rows} must be at least 1 and gap_rows="
                f"{self.gap_rows} at least 0."
            )
        self._check_shapes()
        self._check_finite("feature", self.contexts, self.feature_names)
        outcome_names = tuple(str(column) for column in range(self.outcomes.shape[1]))
        self._check_finite("outcome", self.outcomes, outcome_names)
        self._check_splits()
        if self.weights is not None:
            self._check_weights(self.weights)

    def _check_shapes(self) -> None:
        for label, array in (("contexts", self.contexts), ("outcomes", self.outcomes)):
            if array.ndim != 2 or array.dtype != np.float64:
                raise DataError(
                    f"data set {self.name}: {label} must be a float64 matrix (rows, columns); "
                    f"it is {array.dtype} of shape {array.shape}."
                )
        rows = len(self.contexts)
        if len(self.outcomes) != rows:
            raise DataError(
                f"data set {self.name}: {rows} rows of contexts and {len(self.outcomes)} of "
                "outcomes; each context needs one outcome."
            )
        if self.dates is not None and self.dates.dtype != np.dtype("datetime64[D]"):
            raise DataError(
                f"data set {self.name}: dates must be datetime64[D]; they are {self.dates.dtype}."
            )
        if self.dates is not None and self.dates.shape != (rows,):
            raise DataError(
                f"data set {self.name}: {rows} rows of contexts and dates of shape "
                f"{self.dates.shape}; each row needs one date, or none has one."
            )
        if self.contexts.shape[1] != len(self.feature_names):
            raise DataError(
                f"data set {self.name}: {self.contexts.shape[1]} context columns but "
                f"{len(self.feature_names)} feature names."
            )
        if len(set(self.feature_names)) != len(self.feature_names):
            raise DataError(f"data set {self.name}: feature names repeat.")

    def _check_finite(self, label: str, array: NDArray[np.float64], names: tuple[str, ...]) -> None:
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            row, column = bad[0]
            raise DataError(
                f"data set {self.name}: {label} {names[column]} is {array[row, column]} on "
                f"{self.row_names[row]} ({len(bad)} such values in all); every value must be finite."
            )

    def _check_splits(self) -> None:
        total = len(self.contexts)
        owner = np.full(total, "", dtype=object)
        for label in ("train", "validation", "test"):
            rows = getattr(self, label)
            if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
                raise DataError(
                    f"data set {self.name}: {label} must be a vector of integer rows; it is "
                    f"{rows.dtype} of shape {rows.shape}."
                )
            if len(rows) == 0 and label == "test":
                continue
            if len(rows) == 0:
                raise DataError(f"data set {self.name}: the {label} split has no row.")
            if rows.min() < 0 or rows.max() >= total:
                raise DataError(
                    f"data set {self.name}: {label} has rows {rows.min()}..{rows.max()}, outside "
                    f"0..{total - 1}."
                )
            if np.any(np.diff(rows) <= 0):
                raise DataError(
                    f"data set {self.name}: {label} rows must be sorted without repeats."
                )
            taken = rows[owner[rows] != ""]
            if len(taken):
                raise DataError(
                    f"data set {self.name}: {self.row_names[taken[0]]} is in both "
                    f"{owner[taken[0]]} and {label} ({len(taken)} such rows)."
                )
            owner[rows] = label

    def _check_weights(self, weights: NDArray[np.float64]) -> None:
        rows = len(self.contexts)
        if weights.dtype != np.float64 or weights.shape != (rows,):
            raise DataError(
                f"data set {self.name}: weights must be a float64 vector of {rows} numbers, one a row; "
                f"they are {weights.dtype} of shape {weights.shape}."
            )
        bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if len(bad):
            raise DataError(
                f"data set {self.name}: weights: that of {self.row_names[bad[0]]} is {weights[bad[0]]} "
                f"({len(bad)} such values in all); every weight must be a finite number >= 0, 0 to leave "
                "a row out."
            )
        for label in ("train", "validation"):
            if not len(self.counted(getattr(self, label))):
                raise DataError(
                    f"data set {self.name}: weights: those of all {len(getattr(self, label))} {label} "
                    "rows are 0, which leaves none; give some of them a weight above 0."
                )
