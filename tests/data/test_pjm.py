"""Cleaning of the hourly files, on small files made by hand and on the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl.data import DataError, daily_load, load_hourly
from diffusion_dfl.data.pjm import HOURS, TIME_ZONE

Row = tuple[pd.Timestamp, float]


def hours(first: str, last: str) -> list[Row]:
    """Every hour that exists from midnight of `first` to 23h of `last`; load 1 + 0.01 hour."""
    start = pd.Timestamp(first, tz=TIME_ZONE)
    stop = pd.Timestamp(f"{last} 23:00", tz=TIME_ZONE)
    return [(time, 1.0 + 0.01 * time.hour) for time in pd.date_range(start, stop, freq="h")]


def write(path: Path, rows: Sequence[Row]) -> Path:
    lines = [f" {time.timestamp():.8e} {load:.8e} {50.0:.8e}" for time, load in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def at(rows: Sequence[Row], stamp: str) -> int:
    """Position of the first row at that local time."""
    return next(i for i, (time, _) in enumerate(rows) if f"{time:%Y-%m-%d %H}" == stamp)


def test_days_are_local_days(tmp_path: Path) -> None:
    daily = daily_load([write(tmp_path / "f", hours("2020-06-01", "2020-06-03"))])
    assert list(daily.columns) == list(HOURS)
    assert [str(date.date()) for date in daily.index] == ["2020-06-01", "2020-06-02", "2020-06-03"]
    np.testing.assert_allclose(daily.to_numpy(), np.tile(1 + 0.01 * np.arange(24), (3, 1)))


def test_files_are_joined_without_losing_the_border_day(tmp_path: Path) -> None:
    early = write(tmp_path / "early", hours("2020-06-01", "2020-06-02"))
    late = write(tmp_path / "late", hours("2020-06-03", "2020-06-04"))
    pd.testing.assert_frame_equal(daily_load([early, late]), daily_load([late, early]))
    assert len(daily_load([early, late])) == 4


def test_same_row_twice_counts_once(tmp_path: Path) -> None:
    rows = hours("2020-06-01", "2020-06-02")
    rows.insert(5, rows[5])
    assert len(load_hourly([write(tmp_path / "f", rows)])) == 48


def test_two_loads_for_one_time_are_an_error(tmp_path: Path) -> None:
    rows = hours("2020-06-01", "2020-06-02")
    rows.insert(5, (rows[5][0], 9.0))
    with pytest.raises(DataError, match=r"2020-06-01 05:00.* has 2 different loads"):
        load_hourly([write(tmp_path / "f", rows)])


def test_hour_skipped_in_spring_lies_between_its_neighbours(tmp_path: Path) -> None:
    rows = hours("2020-03-07", "2020-03-09")
    rows[at(rows, "2020-03-08 01")] = (rows[at(rows, "2020-03-08 01")][0], 2.0)
    rows[at(rows, "2020-03-08 03")] = (rows[at(rows, "2020-03-08 03")][0], 3.0)
    daily = daily_load([write(tmp_path / "f", rows)])
    assert daily.loc["2020-03-08", "h02"] == pytest.approx(2.5)
    assert len(daily) == 3


def test_hour_shown_twice_in_autumn_is_averaged_or_taken_as_it_is(tmp_path: Path) -> None:
    rows = hours("2020-10-31", "2020-11-02")
    first = at(rows, "2020-11-01 01")
    rows[first], rows[first + 1] = (rows[first][0], 2.0), (rows[first + 1][0], 3.0)
    daily = daily_load([write(tmp_path / "both", rows)])
    assert daily.loc["2020-11-01", "h01"] == pytest.approx(2.5)
    del rows[first]
    daily = daily_load([write(tmp_path / "second", rows)])
    assert daily.loc["2020-11-01", "h01"] == pytest.approx(3.0)


def test_first_hour_of_the_series_takes_the_second(tmp_path: Path) -> None:
    daily = daily_load([write(tmp_path / "f", hours("2020-06-01", "2020-06-02")[1:])])
    assert daily.iloc[0, 0] == daily.iloc[0, 1]


def test_unfinished_last_day_is_dropped(tmp_path: Path) -> None:
    rows = hours("2020-06-01", "2020-06-03")
    daily = daily_load([write(tmp_path / "f", rows[:-23])])
    assert str(daily.index[-1].date()) == "2020-06-02"


@pytest.mark.parametrize("missing", ["2020-06-02 02", "2020-03-08 04", "2020-06-02 00"])
def test_any_other_missing_hour_is_an_error_that_names_it(tmp_path: Path, missing: str) -> None:
    first, last = ("2020-06-01", "2020-06-03") if "06" in missing[5:7] else ("2020-03-07",) * 2
    rows = hours(first, "2020-03-09" if first == "2020-03-07" else last)
    del rows[at(rows, missing)]
    day, hour = missing.split()
    with pytest.raises(DataError, match=rf"hour {int(hour)} of {day} is missing"):
        daily_load([write(tmp_path / "f", rows)])


def test_missing_day_is_an_error_that_names_both_sides(tmp_path: Path) -> None:
    rows = hours("2020-06-01", "2020-06-02") + hours("2020-06-04", "2020-06-05")
    with pytest.raises(DataError, match=r"2020-06-02 is followed by 2020-06-04"):
        daily_load([write(tmp_path / "f", rows)])


@pytest.mark.parametrize("load", [0.0, -1.0, np.nan, np.inf])
def test_impossible_load_is_an_error_that_names_the_hour(tmp_path: Path, load: float) -> None:
    rows = hours("2020-06-01", "2020-06-02")
    rows[30] = (rows[30][0], load)
    with pytest.raises(DataError, match=r"the load at 2020-06-02 06:00"):
        daily_load([write(tmp_path / "f", rows)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "shape"),
        ("1.2e9 1.5\n", "shape"),
        ("time load temperature\n", "cannot be read"),
        ("1.2e9 1.5 3\n1.2e9 1.5\n", "cannot be read"),
        ("nan 1.5 30\n", "a time that is not a number"),
        ("1200000100 1.5 30\n", "not a whole hour"),
    ],
)
def test_file_of_another_form_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "odd.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_hourly([path])


def test_absent_file_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.txt cannot be read"):
        load_hourly([tmp_path / "gone.txt"])
    with pytest.raises(DataError, match=r"no file was given"):
        load_hourly([])


def test_real_series_has_every_day(real_daily: pd.DataFrame) -> None:
    assert real_daily.shape == (3193, 24)
    assert str(real_daily.index[0].date()) == "2008-01-01"
    assert str(real_daily.index[-1].date()) == "2016-09-27"
    assert real_daily.to_numpy().min() == pytest.approx(1.014)
    assert real_daily.to_numpy().max() == pytest.approx(3.054)
    assert real_daily.to_numpy().mean() == pytest.approx(1.67076, abs=1e-5)


def test_real_changes_of_the_clock(real_daily: pd.DataFrame) -> None:
    spring = real_daily.loc["2008-03-09"]
    assert spring["h02"] == pytest.approx((1.545956 + 1.501084) / 2)
    # the files have only the second of the two hours from 1 to 2
    assert real_daily.loc["2008-11-02", "h01"] == pytest.approx(1.262574)
    assert real_daily.loc["2008-01-01", "h00"] == real_daily.loc["2008-01-01", "h01"]


def test_real_ramps_hardly_ever_reach_the_limit(real_daily: pd.DataFrame) -> None:
    ramp = np.abs(np.diff(real_daily.to_numpy(), axis=1)).max(axis=1)
    over = real_daily.index[ramp > 0.4]
    assert [str(date.date()) for date in over] == ["2011-08-10"]
    assert ramp[real_daily.index >= "2014-12-30"].max() == pytest.approx(0.283)
