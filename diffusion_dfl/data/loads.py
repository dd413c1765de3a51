"""Hourly loads of a user's own file, as the table of days that the power task is made from."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.data.pjm import HOURS, shown_twice, skipped_by_clock
from diffusion_dfl.data.tidy import numbers_of, read_tidy
from diffusion_dfl.data.times import Stamps, read_stamps

logger = logging.getLogger(__name__)

COLUMNS = ("time", "load")
_FORM = (
    "a CSV with the columns time (2019-03-31T14:00, an offset may follow) and load, a row an hour"
)
_HOUR = pd.Timedelta(hours=1)
_OFFSETS = (
    ", and where the clock skips an hour other than New York's, write times with their offset"
)


def file_loads(file: Path) -> pd.DataFrame:
    """The loads of a CSV as one row a day and one column an hour of the clock.

    Days and hours are those of the times as written. A row that stands there twice is used once; an
    hour that the clock shows twice is the mean of both, one that it skips that of its neighbours; a
    first and a last day that lack an hour are left out. All of it is logged in one line, and what was
    left out in a warning. Where times have offsets from UTC, these say when the clock changed;
    otherwise it is New York's.

    Args:
        file: with the columns time, to the full hour, in ISO form and any order, and load, in a unit
            of the user's, in which ``task.ramp`` is too. Further columns are not read.

    Returns:
        (days, 24), index: consecutive dates named "date"; columns h00..h23.

    Raises:
        DataError: a file that cannot be read; a line whose time or load cannot be; two loads for one
            time; an hour that is missing between others.
    """
    table = read_tidy(file, COLUMNS, _FORM)
    stamps = read_stamps(f"data.file={file}: column time", _stripped(table["time"]), unit="line")
    load = numbers_of(file, table["load"])
    _check_lines(file, table, stamps, load)
    frame = pd.DataFrame({"moment": stamps.moment, "local": stamps.local, "load": load})
    first = ~frame.duplicated(["moment", "load"])
    frame = frame[first].sort_values("moment")
    _check_doubled(file, frame, stamps.zoned)
    hours = frame.groupby("local")["load"].mean()
    hours = hours.reindex(pd.date_range(hours.index[0], hours.index[-1], freq="h"))
    skipped = _skipped(hours, frame, stamps.zoned)
    hours[skipped] = (hours.shift(1) + hours.shift(-1))[skipped] / 2
    days = pd.DatetimeIndex(hours.index).normalize()
    ends = [day for day in (days[0], days[-1]) if (days == day).sum() < len(HOURS)]
    cut = days.isin(ends)
    left = hours[~cut]
    if left.isna().any():
        missing = pd.DatetimeIndex(left.index[left.isna()])
        raise DataError(
            f"data.file={file}: there is no load for {missing[0]:%Y-%m-%d %H:%M} ({len(missing)} hours "
            f"are missing, on {missing.normalize().nunique()} days); fill them in or cut the file there"
            + _OFFSETS * (not stamps.zoned)
            + "."
        )
    if left.empty:
        raise DataError(f"data.file={file}: there is no whole day in it; it must be {_FORM}.")
    daily = pd.DataFrame(
        left.to_numpy().reshape(-1, len(HOURS)),
        index=days[~cut][:: len(HOURS)].rename("date"),
        columns=list(HOURS),
    )
    gone = {
        "rows that stand there twice": int((~first).sum()),
        "hours of a first or last day that is not whole": int(hours[cut].notna().sum()),
    }
    rules = {
        "hours the clock shows twice, averaged": len(frame) - frame["local"].nunique(),
        "hours it skips, filled with the mean of their neighbours": len(skipped),
    }
    unread = [name for name in table.columns if name not in COLUMNS]
    _tell(file, daily, gone, rules, unread, stamps.several)
    return daily


def _stripped(column: "pd.Series[str]") -> "pd.Series[str]":
    text = column.str.strip()
    return text.mask(text == "")


def _check_lines(file: Path, table: pd.DataFrame, stamps: Stamps, load: "pd.Series[float]") -> None:
    off = (stamps.local != stamps.local.dt.floor("h")).to_numpy()
    if off.any():
        line = table.index[int(off.argmax())]
        raise DataError(
            f"data.file={file}: line {line} has the time {table['time'][line]}, which is no full hour "
            f"({int(off.sum())} such lines); make one row an hour of them, e.g. their mean."
        )
    bad = ~(np.isfinite(load.to_numpy()) & (load.to_numpy() > 0))
    if bad.any():
        line = table.index[int(bad.argmax())]
        raise DataError(
            f"data.file={file}: line {line} has the load {table['load'][line]!r} ({int(bad.sum())} such "
            "lines); loads must be finite and positive."
        )


def _check_doubled(file: Path, frame: pd.DataFrame, zoned: bool) -> None:
    """Refuse two loads for one time; without offsets New York's clock may show one twice."""
    doubled = frame["moment"].duplicated()
    if not zoned:
        doubled &= ~shown_twice(pd.DatetimeIndex(frame["local"]))
    if doubled.any():
        line = frame.index[int(doubled.to_numpy().argmax())]
        loads = frame["load"][frame["moment"] == frame["moment"][line]]
        mend = "" if zoned else "; where the clock goes back, write times with their offset"
        raise DataError(
            f"data.file={file}: line {line} is a second load for {frame['local'][line]:%Y-%m-%d %H:%M} "
            f"({loads.iloc[0]} and {loads.iloc[1]}; {int(doubled.sum())} such lines); one time must "
            f"have one load{mend}."
        )


def _skipped(hours: "pd.Series[float]", frame: pd.DataFrame, zoned: bool) -> pd.DatetimeIndex:
    """Missing hours that never were: the moments on either side are an hour apart."""
    missing = pd.DatetimeIndex(hours.index[hours.isna()])
    if not zoned:
        return missing[skipped_by_clock(missing)]
    moments = frame.groupby("local")["moment"]
    before = moments.max().reindex(missing - _HOUR)
    after = moments.min().reindex(missing + _HOUR)
    return missing[after.to_numpy() - before.to_numpy() == _HOUR.to_numpy()]


def _tell(
    file: Path,
    daily: pd.DataFrame,
    gone: dict[str, int],
    rules: dict[str, int],
    unread: list[str],
    several: bool,
) -> None:
    """Log what is used of the file, what is left out and what was made of the rest."""
    left = [f"{count} {what}" for what, count in gone.items() if count]
    left += [f"columns {', '.join(unread)} (no feature is made of them)"] if unread else []
    made = [f"; {count} {what}" for what, count in rules.items() if count]
    if several:
        made.append("; offsets from UTC differ: rows are ordered as moments, days are as written")
    change = np.abs(np.diff(daily.to_numpy(), axis=1)).max()
    logger.log(
        logging.WARNING if left else logging.INFO,
        "data.file=%s: %d days used, %s to %s; largest change between two hours %.4g, in the unit of "
        "task.ramp; holidays and daylight saving are those of the US; left out: %s%s",
        file.name,
        len(daily),
        daily.index[0].date(),
        daily.index[-1].date(),
        change,
        ", ".join(left) or "nothing",
        "".join(made),
    )
