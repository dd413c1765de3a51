"""A data set from a data frame: which columns are known beforehand, which come later, and a split."""

import logging
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import DataError, Dataset
from diffusion_dfl.data.times import read_stamps

logger = logging.getLogger(__name__)

Order = Literal["time", "shuffled"]

#: Shares of training, validation and test rows.
Shares = tuple[float, float, float]

_FEWEST = 10

#: Rows of ``order="time"`` that are of one fold (:mod:`.folds`).
BLOCK_ROWS = 14


def frame_dataset(
    name: str,
    frame: pd.DataFrame,
    context: Sequence[str],
    outcome: Sequence[str],
    rng: np.random.Generator,
    *,
    order: Order = "time",
    shares: Shares = (0.6, 0.2, 0.2),
    date: str | None = None,
    source: Literal["real", "simulated"] = "real",
    weights: str | None = None,
) -> Dataset:
    """Contexts and outcomes of a frame, a row each, in the columns' order.

    Args:
        name: of the data set, for messages.
        frame: a row a decision; in the order of time for ``order="time"``.
        context: d_x columns known before the decision.
        outcome: d_y columns known after it.
        rng: shuffles the rows of ``order="shuffled"``; ``time`` draws nothing.
        order: ``time``: the last rows are the test rows, those before them validation, the first
            ones training; ``shuffled``: rows at random, for independent draws.
        shares: of training, validation and test rows, with sum 1.
        date: column of dates, in which rows are sorted and named; None keeps their order. Of pandas'
            or Python's dates, or of strings as ISO 8601 writes them; times with a time zone are
            ordered as moments and named by their local day, also over a change of the clock.
        source: whether the data were observed or drawn, for the record.
        weights: column of what every row counts for (:class:`~diffusion_dfl.data.Dataset`): numbers
            >= 0, not all of them 0; None for rows that count the same.

    Raises:
        DataError: columns that are missing, repeated, not numeric or not finite; too few rows;
            dates that are none or repeat under ``order="time"``; shares that do not sum to 1; weights
            below 0, or 0 in all training or validation rows.
    """
    if not isinstance(frame, pd.DataFrame):
        raise DataError(
            f"data set {name}: expected a pandas DataFrame; found {type(frame).__name__}."
        )
    if order not in get_args(Order):
        raise DataError(f"order={order!r}: choose one of {', '.join(get_args(Order))}.")
    context, outcome = as_columns("context", context), as_columns("outcome", outcome)
    dates = None
    if date is not None:
        frame, dates = _in_order(name, frame, date, unique=order == "time")
    contexts = numbers(name, frame, context, "context")
    outcomes = numbers(name, frame, outcome, "outcome")
    shared = [column for column in outcome if column in context]
    if shared:
        raise DataError(
            f"data set {name}: {shared[0]} is both a context and an outcome; an outcome is not "
            "known when the decision is made."
        )
    if not outcome:
        raise DataError(f"data set {name}: outcome=[] names no column; name at least one.")
    counts = None
    if weights is not None:
        if not isinstance(weights, str):
            raise DataError(
                f"data set {name}: weights is a {type(weights).__name__}; expected the name of a column, "
                "which frame.assign(weight=...) makes of numbers."
            )
        counts = numbers(name, frame, [weights], "weights")[:, 0]
    train, validation, test = split_rows(len(frame), rng, order=order, shares=shares)
    return Dataset(
        name=name,
        source=source,
        contexts=contexts,
        outcomes=outcomes,
        dates=dates,
        feature_names=tuple(context),
        train=train,
        validation=validation,
        test=test,
        block_rows=BLOCK_ROWS if order == "time" else 1,
        gap_rows=1 if order == "time" else 0,
        weights=counts,
    )


def as_columns(label: str, columns: Iterable[str]) -> list[str]:
    """Names of columns as a list: an Index of pandas, an array, a generator.

    Raises:
        DataError: one name, whose letters would be taken for columns, or nothing that names some.
    """
    if isinstance(columns, str):
        raise DataError(f"{label}={columns!r}: expected a list of columns, as in [{columns!r}].")
    try:
        return list(columns)
    except TypeError:
        raise DataError(f"{label}={columns!r}: expected a list of columns.") from None


def numbers(
    name: str, frame: pd.DataFrame, columns: Sequence[str], label: str
) -> NDArray[np.float64]:
    """The columns as ``(N, len(columns))`` float64.

    Raises:
        DataError: naming the columns that are missing, or the first row and column that is no
            finite number.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(
            f"data set {name}: expected the {label} columns {', '.join(map(str, columns))}; found no "
            f"{', '.join(map(str, missing))}. The frame has: {', '.join(map(str, frame.columns))}."
        )
    if len(set(columns)) < len(columns) or frame[list(columns)].shape[1] != len(columns):
        repeated = [
            column
            for column in dict.fromkeys(columns)
            if list(columns).count(column) > 1 or list(frame.columns).count(column) > 1
        ]
        raise DataError(
            f"data set {name}: {label} columns repeat: {', '.join(map(str, repeated))}."
        )
    for column in columns:
        kind = frame[column].dtype
        if not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind)):
            if frame.empty:
                raise DataError(f"data set {name}: the frame has no rows.")
            raise DataError(
                f"data set {name}: {label} column {column} is {kind}, and found "
                f"{frame[column].iloc[0]!r} in it; expected numbers (pandas.to_numeric makes some of texts "
                "and objects, pandas.get_dummies of categories)."
            )
        if pd.api.types.is_complex_dtype(kind):
            raise DataError(
                f"data set {name}: {label} column {column} is {kind}; expected real numbers."
            )
    # A copy: pandas may hand out memory that is not to be written, which torch warns of.
    values = frame[list(columns)].to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"data set {name}: {label} column {columns[column]} is {values[row, column]} in row "
            f"{frame.index[row]} ({len(bad)} such values in all); every value must be a finite number: "
            "fill it in, or drop the row."
        )
    far = np.argwhere(np.abs(values) > np.finfo(np.float32).max)
    if len(far):
        row, column = far[0]
        raise DataError(
            f"data set {name}: {label} column {columns[column]} is {values[row, column]} in row "
            f"{frame.index[row]} ({len(far)} such values in all), which single precision cannot hold: measure it "
            "in a larger unit."
        )
    return values


def split_rows(
    num_rows: int,
    rng: np.random.Generator,
    *,
    order: Order = "time",
    shares: Shares = (0.6, 0.2, 0.2),
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sorted training, validation and test rows of ``range(num_rows)``.

    Raises:
        DataError: too few rows, or shares that are not positive with sum 1.
    """
    if len(shares) != 3 or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise DataError(
            f"shares={tuple(shares)}: expected three positive numbers with sum 1 for training, "
            "validation and test rows, e.g. (0.6, 0.2, 0.2)."
        )
    edges = np.round(np.cumsum(shares) * num_rows).astype(int)
    sizes = np.diff(np.concatenate([[0], edges]))
    if num_rows < _FEWEST or sizes.min() < 2:
        raise DataError(
            f"the data have {num_rows} rows, of which shares={tuple(shares)} make {sizes[0]} for "
            f"training, {sizes[1]} for validation and {sizes[2]} for the test; expected at least "
            f"{_FEWEST} rows and 2 in every part."
        )
    rows = np.arange(num_rows, dtype=np.int64)
    if order == "shuffled":
        rows = rng.permutation(num_rows).astype(np.int64)
    train, validation, test = np.split(rows, edges[:2])
    return np.sort(train), np.sort(validation), np.sort(test)


def _in_order(
    name: str, frame: pd.DataFrame, date: str, unique: bool
) -> tuple[pd.DataFrame, NDArray[np.datetime64]]:
    """The frame sorted by its dates, and these; ``unique`` refuses one that repeats."""
    if date not in frame.columns:
        raise DataError(
            f"data set {name}: expected the date column {date}; the frame has: "
            f"{', '.join(map(str, frame.columns))}."
        )
    stamps = read_stamps(f"data set {name}: date column {date}", frame[date])
    if stamps.several:
        logger.info(
            "data set %s: date column %s has several offsets from UTC: rows are ordered as moments and "
            "named by their local day",
            name,
            date,
        )
    again = stamps.moment.duplicated().to_numpy()
    if unique and again.any():
        first = int(np.argmax(again))
        raise DataError(
            f"data set {name}: date column {date} has {frame[date].iloc[first]} more than once (row "
            f"{frame.index[first]}; {int(again.sum())} such rows in all), so that rows of one date "
            "could be trained and tested on; make one row of them, or take order='shuffled'."
        )
    # In the unit of the stamps: nanoseconds end in 2262, and 9999 is a usual word for never.
    order = np.argsort(stamps.moment.dt.tz_localize(None).to_numpy(), kind="stable")
    days = stamps.local.to_numpy()[order].astype("datetime64[D]")
    return frame.iloc[order], days
