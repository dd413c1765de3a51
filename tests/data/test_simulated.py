"""The generated days look like load, and are the same days everywhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl.data import DataError, simulated_daily
from diffusion_dfl.data.pjm import HOURS

DAILY = simulated_daily()


def test_form_is_that_of_daily_load() -> None:
    assert DAILY.shape == (1200, 24)
    assert list(DAILY.columns) == list(HOURS)
    assert DAILY.index.name == "date"
    assert DAILY.index.freqstr == "D"


def test_data_set_is_pinned() -> None:
    expected = [1.549604, 2.459893, 1.471882]
    np.testing.assert_allclose(DAILY.to_numpy()[[0, 200, 1199], [0, 12, 23]], expected, atol=2e-6)
    assert not np.array_equal(simulated_daily(30, seed=1), simulated_daily(30, seed=2))


def test_shorter_table_is_the_beginning_of_the_longer() -> None:
    pd.testing.assert_frame_equal(simulated_daily(300), DAILY.iloc[:300], check_freq=False)


def test_level_spread_and_ramps_are_like_the_real_load() -> None:
    loads = DAILY.to_numpy()
    assert 1.55 < loads.mean() < 1.80
    assert 0.22 < loads.std() < 0.35
    assert 0.9 <= loads.min() < 1.15 and 2.6 < loads.max() < 3.2
    assert np.abs(np.diff(loads, axis=1)).max() < 0.46
    # nothing jumps at midnight: every step in the long hourly series is bounded alike
    assert np.abs(np.diff(loads.ravel())).max() < 0.46


def test_week_and_season_show() -> None:
    mean = DAILY.mean(axis=1)
    weekday = mean.index.day_of_week
    assert mean[weekday < 5].mean() > mean[weekday >= 5].mean() + 0.08
    assert mean[mean.index.month == 7].mean() > mean[mean.index.month == 10].mean() + 0.1


def test_summer_afternoons_vary_more_and_have_a_right_tail() -> None:
    afternoon = DAILY["h16"]
    month = afternoon.index.month
    summer = afternoon[np.isin(month, (6, 7, 8))]
    winter = afternoon[np.isin(month, (12, 1, 2))]
    assert summer.std() > 1.5 * winter.std()
    assert summer.skew() > 0.4


def test_hours_of_a_day_move_together() -> None:
    change = DAILY.diff(7).dropna()  # against the same weekday a week before
    assert change["h12"].corr(change["h16"]) > 0.6


def test_no_days_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.num_days=0"):
        simulated_daily(0)
