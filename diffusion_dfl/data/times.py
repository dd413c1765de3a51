"""Time stamps of a user's frame or file: moments to order by, and the local times they show."""

import warnings
from dataclasses import dataclass
from numbers import Number
from typing import Any

import pandas as pd

from diffusion_dfl.data.dataset import DataError


@dataclass(frozen=True)
class Stamps:
    """Time stamps of N rows.

    Attributes:
        moment: datetime64, to order and compare by: in UTC where the stamps have a time zone.
        local: datetime64 without one, the time as it is written.
        several: whether their offsets from UTC differ, as they do over a change of the clock.
    """

    moment: "pd.Series[Any]"
    local: "pd.Series[Any]"
    several: bool = False

    @property
    def zoned(self) -> bool:
        """Whether the stamps say their time zone."""
        return self.moment.dt.tz is not None


def read_stamps(where: str, column: "pd.Series[Any]", unit: str = "row") -> Stamps:
    """The column as times; nothing about their form is guessed.

    Args:
        where: what holds the column, for messages.
        column: pandas' or Python's dates or times, or strings in ISO 8601.
        unit: what its index counts: "row" of a frame, "line" of a file.

    Raises:
        DataError: a value that is missing, a number or no time in ISO form, or stamps of which only
            some have an offset.
    """
    missing = column.isna().to_numpy()
    if missing.any():
        raise DataError(f"{where} has no value in {unit} {column.index[int(missing.argmax())]}.")
    for row, value in column.items():
        if isinstance(value, Number):
            raise DataError(
                f"{where} is the number {value!r} in {unit} {row}, which may mean days, seconds or "
                "digits of a date; make dates of the column first, e.g. "
                "pandas.to_datetime(frame[column], format='%Y%m%d')."
            )
    try:
        parsed = _parsed(column)
    except (ValueError, TypeError, FutureWarning) as error:
        several = _several_offsets(where, column, unit)
        if several is not None:
            return several
        told = str(error).splitlines()[0].partition(". ")[0]
        mend = "say how they are written, e.g. pandas.to_datetime(frame[column], format='%d.%m.%Y')"
        if unit == "line":
            mend = "write them so, with a time as 2024-01-31T14:00"
        raise DataError(
            f"{where} holds no dates in ISO form, such as 2024-01-31 ({told}); {mend}."
        ) from error
    if parsed.dt.tz is None:
        return Stamps(parsed, parsed)
    return Stamps(parsed.dt.tz_convert("UTC"), parsed.dt.tz_localize(None))


def _parsed(column: "pd.Series[Any]", utc: bool = False) -> "pd.Series[Any]":
    with warnings.catch_warnings():
        # pandas 2 warns of time zones that differ from row to row.
        warnings.simplefilter("error", FutureWarning)
        return pd.to_datetime(column, format="ISO8601", utc=utc)


def _several_offsets(where: str, column: "pd.Series[Any]", unit: str) -> Stamps | None:
    """Stamps of which every one has its offset; None for what is no time."""
    try:
        moment = _parsed(column, utc=True)
    except (ValueError, TypeError):
        return None
    stamps = [pd.Timestamp(value) for value in column]
    for row, stamp in zip(column.index, stamps, strict=True):
        if stamp.tzinfo is None:
            raise DataError(
                f"{where} has no offset from UTC in {unit} {row} ({stamp}) and has one in others, so "
                "that their order is not known; write all of them with an offset, such as "
                "2019-03-31T03:00+02:00, or none."
            )
    local = [stamp.tz_localize(None) for stamp in stamps]
    return Stamps(moment, pd.Series(local, index=column.index), several=True)
