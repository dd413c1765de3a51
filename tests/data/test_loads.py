"""Hourly loads of a user's file: what is mended, what is left out, and what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl.data import DataError, power_dataset
from diffusion_dfl.data.loads import file_loads
from diffusion_dfl.data.pjm import HOURS
from diffusion_dfl.data.simulated import simulated_daily


def hours(start: str, days: int, zone: str | None = None) -> pd.DataFrame:
    """Whole local days of rows ``time, load``, the load its number from 1 on."""
    end = pd.Timestamp(start) + pd.Timedelta(days=days)
    time = pd.date_range(start, end, freq="h", tz=zone, inclusive="left")
    text = [one.isoformat() for one in time]
    return pd.DataFrame({"time": text, "load": np.arange(1.0, len(text) + 1)})


def written(folder: Path, frame: pd.DataFrame) -> Path:
    path = folder / "loads.csv"
    frame.to_csv(path, index=False)
    return path


def line_of(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = [one for one in caplog.records if one.name.endswith(".loads")]
    return f"{record.levelname}: {record.message}"


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


def test_a_good_file_becomes_days_in_any_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = hours("2019-01-01", 3)
    daily = file_loads(written(tmp_path, frame.iloc[::-1]))
    assert daily.to_numpy().tolist() == np.arange(1.0, 73.0).reshape(3, 24).tolist()
    assert list(daily.columns) == list(HOURS)
    assert [str(day.date()) for day in daily.index] == ["2019-01-01", "2019-01-02", "2019-01-03"]
    said = line_of(caplog)
    assert said.startswith("INFO: data.file=loads.csv: 3 days used, 2019-01-01 to 2019-01-03; ")
    assert "largest change between two hours 1, in the unit of task.ramp" in said
    assert said.endswith("left out: nothing")


@pytest.mark.parametrize("form", ["%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", " %Y-%m-%d %H:%M:%S "])
def test_times_may_be_written_in_every_iso_form(form: str, tmp_path: Path) -> None:
    frame = hours("2019-01-01", 2)
    frame["time"] = pd.to_datetime(frame["time"]).dt.strftime(form)
    assert file_loads(written(tmp_path, frame)).shape == (2, 24)


@pytest.mark.parametrize(
    ("start", "zone"),
    [
        ("2019-03-30", "Europe/Berlin"),  # 2 o'clock on the 31st
        ("2019-03-09", "America/New_York"),
        ("2018-11-03", "America/Sao_Paulo"),  # midnight on the 4th
    ],
)
def test_the_hour_a_clock_skips_is_the_mean_of_its_neighbours(
    start: str, zone: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = hours(start, 3, zone)
    assert len(frame) == 71
    daily = file_loads(written(tmp_path, frame))
    assert daily.shape == (3, 24)
    flat = daily.to_numpy().ravel()
    (place,) = np.flatnonzero(flat % 1.0)
    assert flat[place] == (flat[place - 1] + flat[place + 1]) / 2
    assert np.delete(flat, place).tolist() == list(np.arange(1.0, 72.0))
    said = line_of(caplog)
    assert "; 1 hours it skips, filled with the mean of their neighbours" in said
    assert said.endswith("ordered as moments, days are as written")


def test_the_hour_a_clock_shows_twice_is_the_mean_of_both(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = hours("2019-10-26", 3, "Europe/Berlin")
    assert len(frame) == 73
    daily = file_loads(written(tmp_path, frame))
    assert daily.loc["2019-10-27"].to_numpy()[:4].tolist() == [25.0, 26.0, 27.5, 29.0]
    assert "; 1 hours the clock shows twice, averaged; offsets" in line_of(caplog)


def test_times_without_an_offset_have_new_yorks_clock(tmp_path: Path) -> None:
    spring = hours("2019-03-09", 3)
    spring = spring[spring["time"] != "2019-03-10T02:00:00"]
    assert file_loads(written(tmp_path, spring)).loc["2019-03-10", "h02"] == 27.0
    autumn = hours("2019-11-02", 3)
    twice = pd.DataFrame({"time": ["2019-11-03T01:00:00"], "load": [36.0]})
    daily = file_loads(written(tmp_path, pd.concat([autumn, twice])))
    assert daily.loc["2019-11-03", "h01"] == 31.0


def test_what_is_left_out_is_said_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = hours("2019-01-01", 4).iloc[5:-7]
    frame = pd.concat([frame, frame.iloc[30:32]]).assign(temperature=3.5)
    daily = file_loads(written(tmp_path, frame))
    assert [str(day.date()) for day in daily.index] == ["2019-01-02", "2019-01-03"]
    said = line_of(caplog)
    assert said.startswith("WARNING: data.file=loads.csv: 2 days used")
    for part in (
        "2 rows that stand there twice",
        "36 hours of a first or last day that is not whole",
        "columns temperature (no feature is made of them)",
    ):
        assert part in said


def _changed(column: str, line: int, value: Any) -> pd.DataFrame:
    frame = hours("2019-01-01", 4).astype({"load": object})
    frame.loc[line - 2, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (_changed("load", 30, "many"), r"line 30 has load 'many', which is not a number"),
        (_changed("load", 30, "1_000"), r"line 30 has load '1_000'"),
        (_changed("load", 30, "1,5"), r"line 30 has load '1,5'"),
        (_changed("load", 30, ""), r"line 30 has the load ''.*finite and positive"),
        (_changed("load", 30, "nan"), r"line 30 has load"),
        (_changed("load", 30, "inf"), r"line 30 has the load 'inf'"),
        (_changed("load", 30, 0), r"line 30 has the load '0' \(1 such lines\)"),
        (_changed("load", 30, -1.5), r"line 30 has the load '-1.5'"),
        (_changed("time", 30, "2019-01-02T04:30"), r"line 30 has the time .*no full hour"),
        (_changed("time", 30, ""), r"column time has no value in line 30"),
        (_changed("time", 30, "31.03.2019 04:00"), r"no dates in ISO form.*2024-01-31T14:00"),
        (_changed("time", 30, "2019-01-02T04:00+01:00"), r"no offset from UTC in line 2 .*all"),
        (
            _changed("time", 30, "2019-01-02T05:00"),
            r"line 31 is a second load for 2019-01-02 05:00",
        ),
        (
            hours("2019-01-01", 4).drop(index=28),
            r"no load for 2019-01-02 04:00 \(1 hours .* 1 days",
        ),
        (hours("2019-01-01", 5).drop(index=range(30, 90)), r"\(60 hours are missing, on 3 days\)"),
        (hours("2019-01-01", 1).iloc[2:], r"no whole day"),
        (hours("2019-01-01", 1).iloc[:0], r"no row below the header"),
        (
            hours("2019-01-01", 2).rename(columns={"load": "mw"}),
            r"no column load \(found time, mw\)",
        ),
    ],
)
def test_a_bad_file_is_refused_by_its_line_or_hour(
    frame: pd.DataFrame, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, frame)
    with pytest.raises(DataError, match=rf"data\.file={re.escape(str(path))}: .*{message}"):
        file_loads(path)


def test_an_hour_that_is_missing_is_not_taken_for_a_skipped_one(tmp_path: Path) -> None:
    frame = hours("2019-03-30", 3, "Europe/Berlin")
    with pytest.raises(DataError, match=r"no load for 2019-03-31 02:00 \(2 hours"):
        file_loads(written(tmp_path, frame[~frame["time"].str.startswith("2019-03-31T03")]))


def test_the_data_set_of_a_file_is_that_of_the_same_days(tmp_path: Path) -> None:
    daily = simulated_daily(120)
    long = daily.stack()
    days = long.index.get_level_values(0)
    hour = pd.to_timedelta(long.index.get_level_values(1).str[1:].astype(int), unit="h")
    path = written(tmp_path, pd.DataFrame({"time": days + hour, "load": long.to_numpy()}))
    own = power_dataset("csv", np.random.default_rng(3), file=path)
    same = power_dataset("simulated", np.random.default_rng(3), num_days=120)
    assert (own.source, same.source) == ("real", "simulated")
    assert own.feature_names == same.feature_names
    assert np.array_equal(own.contexts, same.contexts)
    for part in ("train", "validation", "test"):
        assert np.array_equal(getattr(own, part), getattr(same, part))
