"""Contexts hold what they say and nothing of the day they are for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_dfl.data import DataError, load_features, simulated_daily
from diffusion_dfl.data.features import LONGEST_LAG, daylight_saving, federal_holidays

DAYS = 120
DAILY = simulated_daily(DAYS)
CONTEXTS, OUTCOMES = load_features(DAILY)


@settings(max_examples=20, deadline=None)
@given(day=st.integers(LONGEST_LAG, DAYS - 1), seed=st.integers(0, 2**32 - 1))
def test_loads_of_the_day_and_later_do_not_enter_its_context(day: int, seed: int) -> None:
    changed = DAILY.copy()
    noise = np.random.default_rng(seed).uniform(0.1, 1e6, size=(DAYS - day, 24))
    changed.iloc[day:] = noise
    contexts, outcomes = load_features(changed)
    known = day - LONGEST_LAG + 1  # the contexts of days up to and with `day`
    pd.testing.assert_frame_equal(contexts.iloc[:known], CONTEXTS.iloc[:known], check_exact=True)
    assert np.array_equal(outcomes.iloc[known - 1].to_numpy(), noise[0])


@settings(max_examples=15, deadline=None)
@given(day=st.integers(LONGEST_LAG, DAYS - 1), back=st.integers(1, LONGEST_LAG))
def test_every_one_of_the_last_28_days_enters(day: int, back: int) -> None:
    changed = DAILY.copy()
    changed.iloc[day - back] *= 1.5
    contexts, _ = load_features(changed)
    row = day - LONGEST_LAG
    assert not np.array_equal(contexts.iloc[row].to_numpy(), CONTEXTS.iloc[row].to_numpy())


@settings(max_examples=30, deadline=None)
@given(day=st.integers(LONGEST_LAG, DAYS - 1))
def test_load_columns_equal_their_definition(day: int) -> None:
    row = CONTEXTS.iloc[day - LONGEST_LAG]
    loads = DAILY.to_numpy()
    assert CONTEXTS.index[day - LONGEST_LAG] == DAILY.index[day]
    assert np.array_equal(row.filter(like="prev_h"), loads[day - 1])
    assert row["lag7_mean"] == pytest.approx(loads[day - 7].mean())
    assert row["prev_mean"] == pytest.approx(loads[day - 1].mean())
    assert (row["prev_max"], row["prev_min"]) == (loads[day - 1].max(), loads[day - 1].min())
    assert row["lag2_mean"] == pytest.approx(loads[day - 2].mean())
    assert row["lag3_mean"] == pytest.approx(loads[day - 3].mean())
    for window in (7, 28):
        past = loads[day - window : day].mean(axis=1)
        assert row[f"roll{window}_mean"] == pytest.approx(past.mean())
        assert row[f"roll{window}_std"] == pytest.approx(past.std(ddof=1))
        assert row[f"roll{window}_max"] == pytest.approx(past.max())


def test_last_week_is_the_same_weekday() -> None:
    friday = pd.Timestamp("2010-02-05")
    row = CONTEXTS.loc[friday]
    assert row["lag7_mean"] == pytest.approx(DAILY.loc["2010-01-29"].mean())
    assert row["weekday_fri"] == 1.0
    assert row.filter(like="weekday_").sum() == 1.0


def test_names_are_stable() -> None:
    names = list(CONTEXTS.columns)
    assert len(names) == 53
    assert names[0] == "prev_h00" and names[24] == "prev_mean"
    assert names[24:36] == (
        ["prev_mean", "prev_max", "prev_min", "lag2_mean", "lag3_mean", "lag7_mean"]
        + ["roll7_mean", "roll7_std", "roll7_max", "roll28_mean", "roll28_std", "roll28_max"]
    )
    assert names[36:47] == (
        [f"weekday_{day}" for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")]
        + ["holiday", "holiday_before", "holiday_after", "daylight_saving"]
    )
    assert names[47:] == [f"year_{f}{k}" for k in (1, 2, 3) for f in ("sin", "cos")]


def test_holiday_flags_stand_on_the_right_days() -> None:
    # Presidents' Day 2010 was Monday 15 February
    flags = CONTEXTS.loc["2010-02-13":"2010-02-17", ["holiday", "holiday_before", "holiday_after"]]
    assert flags["holiday"].tolist() == [0, 0, 1, 0, 0]
    assert flags["holiday_before"].tolist() == [0, 0, 0, 1, 0]
    assert flags["holiday_after"].tolist() == [0, 1, 0, 0, 0]


def test_observed_holidays_count_even_at_the_end_of_the_range() -> None:
    # 4 July 2009 was a Saturday, 1 January 2011 too: both observed on the Friday before
    days = pd.DatetimeIndex(["2009-07-02", "2009-07-03"])
    assert federal_holidays(days).tolist() == [False, True]
    assert federal_holidays(pd.DatetimeIndex(["2010-12-31"])).tolist() == [True]


def test_daylight_saving_is_that_of_noon() -> None:
    days = pd.DatetimeIndex(["2016-03-12", "2016-03-13", "2016-11-05", "2016-11-06"])
    assert daylight_saving(days).tolist() == [False, True, True, False]


def test_yearly_harmonics_have_their_period() -> None:
    # day 36 of the year 2010 is 5 February
    angle = 2 * np.pi * 36 / 365.25
    row = CONTEXTS.loc["2010-02-05"]
    for k in (1, 2, 3):
        assert row[f"year_sin{k}"] == pytest.approx(np.sin(k * angle))
        assert row[f"year_cos{k}"] == pytest.approx(np.cos(k * angle))


def test_gap_between_days_is_refused() -> None:
    with pytest.raises(DataError, match=r"2010-02-09 is followed by 2010-02-11"):
        load_features(DAILY.drop(index=pd.Timestamp("2010-02-10")))


def test_too_short_a_history_is_refused() -> None:
    with pytest.raises(DataError, match=r"at least 29"):
        load_features(DAILY.iloc[:28])
    assert len(load_features(DAILY.iloc[:29])[0]) == 1
