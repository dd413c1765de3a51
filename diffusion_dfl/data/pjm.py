"""Hourly electricity load of one PJM zone, 2008 to 2016, as a clean table of days.

The two files are those the paper's power experiment uses: `power_sched/` of the public repository
locuslab/e2e-model-learning (Apache-2.0) at a fixed commit. Each line has epoch seconds, load and
temperature. The temperature is not used: in the second file it is not a measurement (straight
ramps, then the constant 1.4 from 06:00 on 2014-01-24 to the end, which covers the test period).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.data.download import fetch

PJM_URL = (
    "https://raw.githubusercontent.com/locuslab/e2e-model-learning/"
    "2bf43848ac26e25321fea7bfeddf2a24135aa192/power_sched/"
)
PJM_FILES = {
    "pjm_load_data_2008-11.txt": (
        "8dc80051563e406fa077064155d0dcef32f335165381b8aebf3f43cebfb9470b"
    ),
    "pjm_load_data_2012-16.txt": (
        "f83c74db6685dd16c2db1b868907562fd4da74e8cac51e1ea24aead725542989"
    ),
}
TIME_ZONE = "America/New_York"
HOURS = tuple(f"h{hour:02d}" for hour in range(24))
DEFAULT_DIRECTORY = Path("data")

_HOUR_SECONDS = 3600
# The files print nine significant digits of the epoch, so a stamp may be off by 5 seconds.
_STAMP_TOLERANCE = 5.0


def fetch_pjm(
    root: str | Path | None = None,
    url: str = PJM_URL,
    directory: str | Path = DEFAULT_DIRECTORY,
) -> list[Path]:
    """Paths of the two pinned files, found or downloaded as `fetch` says; `url` is their folder.

    Raises DataError when one of them cannot be had.
    """
    base = url.rstrip("/") + "/"
    return [fetch(name, base + name, sha256, directory, root) for name, sha256 in PJM_FILES.items()]


def load_hourly(paths: Iterable[str | Path]) -> pd.Series[float]:
    """Read files of "epoch load temperature" lines into one series of loads.

    Files are joined before anything else is done, so no day is lost where one ends. Repeated
    lines with the same time and load are dropped.

    Returns:
        loads, indexed by local time (time zone America/New_York), strictly increasing.

    Raises:
        DataError: a file that is not numbers in three columns; a time that is not a whole hour;
            a load that is not finite and positive; two different loads for the same time.
    """
    epochs: list[np.ndarray] = []
    loads: list[np.ndarray] = []
    for path in paths:
        table = _read_table(Path(path))
        epochs.append(table[:, 0])
        loads.append(table[:, 1])
    if not epochs:
        raise DataError("load data: no file was given.")
    stamp = np.concatenate(epochs)
    seconds = np.round(stamp / _HOUR_SECONDS).astype(np.int64) * _HOUR_SECONDS
    index = pd.to_datetime(seconds, unit="s", utc=True).tz_convert(TIME_ZONE)
    off = np.flatnonzero(np.abs(stamp - seconds) > _STAMP_TOLERANCE)
    if len(off):
        raise DataError(
            f"load data: time {stamp[off[0]]:.0f}, near {index[off[0]]}, is not a whole hour."
        )
    hourly = pd.Series(np.concatenate(loads), index=index, name="load")
    values = hourly.to_numpy()
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        raise DataError(
            f"load data: the load at {index[bad[0]]} is {values[bad[0]]}; loads must be finite "
            f"and positive ({len(bad)} such rows)."
        )
    conflicts = hourly.groupby(level=0).nunique()
    conflicts = conflicts[conflicts > 1]
    if len(conflicts):
        raise DataError(
            f"load data: {conflicts.index[0]} has {conflicts.iloc[0]} different loads; one time "
            "must have one load."
        )
    return hourly[~hourly.index.duplicated()].sort_index()


def daily_load(paths: Iterable[str | Path]) -> pd.DataFrame:
    """The loads as one row a local day and one column an hour of the clock.

    Cleaning, in order: hours that come twice on the clock (end of daylight saving) are averaged
    over the rows that exist; the hour that daylight saving skips is interpolated linearly between
    its neighbours; a missing hour 0 of the very first day takes the value of hour 1; a last day
    that misses an hour of the clock is dropped.

    Returns:
        (days, 24), index: consecutive local dates without time zone, named "date"; columns
        h00..h23; the loads' own unit.

    Raises:
        DataError: what `load_hourly` raises; any other missing hour; a gap between days.
    """
    hourly = load_hourly(paths)
    local = pd.DatetimeIndex(hourly.index)
    frame = pd.DataFrame(
        {
            "date": local.tz_localize(None).normalize(),
            "hour": local.hour,
            "load": hourly.to_numpy(),
        }
    )
    # pivot_table averages the two rows of an hour that the clock shows twice
    daily = frame.pivot_table(index="date", columns="hour", values="load", aggfunc="mean")
    daily = daily.reindex(columns=range(24)).astype(np.float64)
    daily.columns = pd.Index(HOURS)
    daily = _fill(daily)
    check_daily(daily)
    return daily.asfreq("D")


def check_daily(daily: pd.DataFrame) -> None:
    """Raise DataError unless `daily` has 24 columns, finite positive loads and no day missing."""
    if daily.shape[1] != len(HOURS) or daily.empty:
        raise DataError(f"daily loads: need days x 24 hours, found shape {daily.shape}.")
    dates = pd.DatetimeIndex(daily.index)
    gaps = np.flatnonzero(np.diff(dates.to_numpy()) != np.timedelta64(1, "D"))
    if len(gaps):
        before, after = dates[gaps[0]].date(), dates[gaps[0] + 1].date()
        raise DataError(f"daily loads: {before} is followed by {after}; days must be consecutive.")
    values = daily.to_numpy()
    bad = np.argwhere(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        row, hour = bad[0]
        raise DataError(
            f"daily loads: hour {hour} of {dates[row].date()} is {values[row, hour]}; loads must "
            f"be finite and positive ({len(bad)} such hours)."
        )


def skipped_by_clock(local: pd.DatetimeIndex) -> NDArray[np.bool_]:
    """Whether each local time does not exist because daylight saving begins."""
    first = np.ones(len(local), dtype=np.bool_)
    return np.asarray(local.tz_localize(TIME_ZONE, nonexistent="NaT", ambiguous=first).isna())


def shown_twice(local: pd.DatetimeIndex) -> NDArray[np.bool_]:
    """Whether the clock shows each local time twice because daylight saving ends."""
    moments = local.tz_localize(TIME_ZONE, nonexistent="shift_forward", ambiguous="NaT")
    return np.asarray(moments.isna())


def _read_table(path: Path) -> np.ndarray:
    """The file's (rows, 3) numbers."""
    try:
        text = path.read_text(encoding="ascii")
        rows = [line for line in text.splitlines() if line.strip()]
        table = np.loadtxt(rows, dtype=np.float64, ndmin=2) if rows else np.empty((0, 3))
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"load data: {path.name} cannot be read ({cause}).") from error
    if len(table) == 0 or table.shape[1] != 3:
        raise DataError(
            f"load data: {path.name} has shape {table.shape}; expected lines of epoch seconds, "
            "load, temperature."
        )
    if not np.all(np.isfinite(table[:, 0])):
        raise DataError(f"load data: {path.name} has a time that is not a number.")
    return table


def _fill(daily: pd.DataFrame) -> pd.DataFrame:
    """Apply the rules of `daily_load` to missing hours; any hour left over is an error."""
    missing = daily.isna().to_numpy()
    dates = pd.DatetimeIndex(daily.index)
    values = daily.to_numpy(copy=True)
    for row, hour in np.argwhere(missing):
        neighbours_known = 0 < hour < 23 and not missing[row, [hour - 1, hour + 1]].any()
        moment = pd.DatetimeIndex([dates[row] + pd.Timedelta(hours=int(hour))])
        if neighbours_known and skipped_by_clock(moment)[0]:
            values[row, hour] = (values[row, hour - 1] + values[row, hour + 1]) / 2
    if missing[0, 0] and not missing[0, 1]:
        values[0, 0] = values[0, 1]
    filled = pd.DataFrame(values, index=daily.index, columns=daily.columns)
    if filled.iloc[-1].isna().any():
        filled = filled.iloc[:-1]
    left = np.argwhere(filled.isna().to_numpy())
    if len(left):
        row, hour = left[0]
        raise DataError(
            f"load data: hour {hour} of {dates[row].date()} is missing ({len(left)} such hours); "
            "only the hour skipped by daylight saving, the first hour of the first day and the "
            "end of the last day may be."
        )
    return filled
