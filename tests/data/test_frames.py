"""Dates of a frame: what they are is never guessed, and one date is on one side of a border."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl.data.dataset import DataError, Dataset
from diffusion_dfl.data.frames import frame_dataset

DAYS = pd.date_range("2024-01-25", periods=20)


def _dataset(dates: Any, order: Any = "time") -> Dataset:
    frame = pd.DataFrame({"x": np.arange(20.0), "y": np.arange(20.0), "day": dates})
    return frame_dataset(
        "sales", frame, ["x"], ["y"], np.random.default_rng(0), order=order, date="day"
    )


@pytest.mark.parametrize(
    "dates",
    [DAYS, DAYS.strftime("%Y-%m-%d"), DAYS.date, DAYS.strftime("%Y-%m-%dT12:30")],
    ids=["pandas", "iso", "python", "iso with time"],
)
def test_dates_name_the_rows(dates: Any) -> None:
    found = _dataset(dates).dates
    assert np.array_equal(found, DAYS.to_numpy().astype("datetime64[D]"))


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York", "UTC"])
def test_a_day_of_a_time_zone_is_its_local_day(zone: str) -> None:
    found = _dataset(DAYS.tz_localize(zone)).dates
    assert np.array_equal(found, DAYS.to_numpy().astype("datetime64[D]"))


def test_the_hour_that_clocks_repeat_is_no_date_that_repeats() -> None:
    hours = pd.date_range("2024-11-02T20:00", periods=20, freq="h", tz="America/New_York")
    assert hours.tz_localize(None).has_duplicates
    assert (np.diff(_dataset(hours[::-1]).contexts[:, 0]) == -1).all()


def test_a_date_that_repeats_is_refused_in_time_and_allowed_in_a_shuffle() -> None:
    dates = DAYS[np.arange(20) // 2]
    with pytest.raises(DataError, match="2024-01-25 00:00:00 more than once .row 1; 10 such rows"):
        _dataset(dates)
    assert _dataset(dates, "shuffled").dates is not None


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        (DAYS.strftime("%Y%m%d").astype(int), r"number 20240125 in row 0.*pandas.to_datetime"),
        (np.arange(20.0), r"number 0.0 in row 0.*pandas.to_datetime"),
        ([20240125, *DAYS[1:]], r"number 20240125 in row 0"),
        (DAYS.strftime("%d/%m/%Y"), r"no dates in ISO form.*25/01/2024.*format="),
        (DAYS.strftime("%d.%m.%Y"), r"no dates in ISO form.*format="),
        (DAYS.strftime("%m/%d/%Y"), r"no dates in ISO form"),
        (
            ["2024-01-01T00:00", *(f"2024-02-{d:02d}T00:00+02:00" for d in range(1, 20))],
            "without the offset from UTC",
        ),
        ([None, *DAYS[1:]], "no value in row 0"),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(dates: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _dataset(dates)
