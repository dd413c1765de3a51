"""Dates of a frame: what they are is never guessed, and one date is on one side of a border."""

from datetime import datetime
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


def _over_a_change(kind: str, start: str = "2024-03-30T20:00") -> list[Any]:
    """Twenty hours in Berlin, in one of which the clock goes on, each with its own offset."""
    hours = pd.date_range(start, periods=20, freq="h", tz="Europe/Berlin")
    if kind == "text":
        return [hour.isoformat() for hour in hours]
    if kind == "pandas":
        return [pd.Timestamp(hour.isoformat()) for hour in hours]
    return [datetime.fromisoformat(hour.isoformat()) for hour in hours]


@pytest.mark.parametrize("kind", ["text", "pandas", "python"])
@pytest.mark.parametrize("start", ["2024-03-30T20:00", "2024-10-26T20:00"])
def test_offsets_that_change_with_the_clock_are_ordered_as_moments(
    kind: str, start: str, caplog: pytest.LogCaptureFixture
) -> None:
    dates = _over_a_change(kind, start)
    backwards = pd.Series(dates[::-1], dtype=object)
    with caplog.at_level("INFO"):
        data = _dataset(backwards)
    assert data.contexts[:, 0].tolist() == list(range(20))[::-1]
    assert data.dates is not None
    assert list(data.dates.astype(str)) == [start[:10]] * 4 + [str(data.dates[-1])] * 16
    assert str(data.dates[-1]) == start[:8] + str(int(start[8:10]) + 1)
    (line,) = caplog.messages
    assert "date column day has several offsets from UTC: rows are ordered as moments" in line


@pytest.mark.parametrize("place", [0, 19])
def test_an_offset_that_some_rows_lack_is_refused(place: int) -> None:
    dates = _over_a_change("text")
    dates[place] = dates[place][:-6]
    with pytest.raises(DataError, match=rf"no offset from UTC in row {place} .*write all of them"):
        _dataset(dates)


def test_a_word_among_times_of_several_offsets_is_no_time() -> None:
    with pytest.raises(DataError, match=r"no dates in ISO form"):
        _dataset([*_over_a_change("text")[:-1], "noon"])


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
        ([None, *DAYS[1:]], "no value in row 0"),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(dates: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _dataset(dates)


def _weighted(weights: Any, column: Any = None, date: str | None = None) -> Dataset:
    column = np.arange(20.0) if column is None else column
    frame = pd.DataFrame({"x": np.arange(20.0), "y": np.arange(20.0), "n": column, "day": DAYS})
    return frame_dataset(
        "sales", frame[::-1], ["x"], ["y"], np.random.default_rng(0), date=date, weights=weights
    )


@pytest.mark.parametrize("date", [None, "day"])
def test_weights_are_a_column_that_is_sorted_with_its_rows(date: str | None) -> None:
    data = _weighted("n", date=date)
    assert np.array_equal(data.weights, data.contexts[:, 0])
    assert data.contexts[0, 0] == (19.0 if date is None else 0.0)
    assert _weighted(None).weights is None


@pytest.mark.parametrize(
    ("weights", "column", "message"),
    [
        ("count", None, "expected the weights columns count; found no count"),
        ("n", ["many"] * 20, "weights column n is .*found 'many' in it; expected numbers"),
        ("n", [np.nan] + [1.0] * 19, r"weights column n is nan in row 0 .*finite number"),
        ("n", [1.0] * 19 + [-1.0], r"weights: that of row 0 is -1\.0 \(1 such values"),
        ("n", [0.0] * 20, "weights: those of all 12 train rows are 0"),
        (
            np.ones(20),
            None,
            r"weights is a ndarray; expected the name of a column, .*frame\.assign",
        ),
    ],
)
def test_weights_that_are_none_are_refused_by_column_and_row(
    weights: Any, column: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _weighted(weights, column)
