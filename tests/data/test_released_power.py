"""The released preparation of the load files, and the years with a thermometer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl.data import DataError, daily_load, weather_dataset
from diffusion_dfl.data.dataset import Dataset
from diffusion_dfl.data.pjm import HOURS, PJM_FILES
from diffusion_dfl.data.released_power import (
    fill_as_released,
    hourly_tables,
    released_features,
    released_power_dataset,
)


def simulated(**values: Any) -> Dataset:
    values = {"temperatures": False, "num_days": 101, **values}
    return released_power_dataset("simulated", np.random.default_rng(0), **values)


def days(first: str, count: int) -> pd.DataFrame:
    index = pd.date_range(first, periods=count)
    loads = 1.0 + np.arange(24.0 * count).reshape(count, 24) / 100
    return pd.DataFrame(loads, index=index, columns=list(HOURS))


# The files


def test_a_repeated_row_is_used_once_and_a_skipped_hour_is_missing(tmp_path: Path) -> None:
    start = int(pd.Timestamp("2010-03-14 00:00", tz="America/New_York").timestamp())
    rows = [f" {start + 3600 * hour} {1 + hour / 10} {50 + hour}" for hour in range(23)]
    path = tmp_path / "load.txt"
    path.write_text("\n".join([*rows[:4], rows[3], *rows[4:]]) + "\n")
    tables = hourly_tables(path)
    load = tables.load.to_numpy()
    assert load.shape == (1, 24) and np.isnan(load[0, 2])
    assert load[0, [0, 1, 3, 4, 23]].tolist() == [1.0, 1.1, 1.2, 1.3, 3.2]
    assert tables.temperature.to_numpy()[0, 3] == 52.0


def test_missing_hours_are_filled_from_later_ones_first() -> None:
    table = pd.DataFrame([[np.nan, 1.0, np.nan, 3.0], [5.0, np.nan, np.nan, np.nan]])
    assert fill_as_released(table).to_numpy().tolist() == [[1, 1, 3, 3], [5, 5, 5, 5]]


# The features


def test_149_features_are_the_day_before_the_weather_of_both_days_and_the_calendar() -> None:
    load, temperature = days("2010-07-02", 3), 10 * days("2010-07-02", 3)
    features = released_features(load, temperature)
    assert features.shape == (2, 149)
    assert released_features(load, None).shape == (2, 29)
    values = features.to_numpy()
    np.testing.assert_array_equal(values[:, :24], load.to_numpy()[:-1])
    blocks = values[:, 24:144].reshape(2, 5, 24)
    before, target = temperature.to_numpy()[:-1], temperature.to_numpy()[1:]
    expected = [before, before**2, target, target**2, target**3]
    np.testing.assert_allclose(blocks, np.stack(expected, axis=1))
    calendar = features[["weekend", "holiday", "daylight_saving"]].to_numpy()
    # Saturday 3 July and Sunday 4 July 2010, whose holiday is kept on Monday the 5th.
    assert calendar.tolist() == [[1, 0, 1], [1, 0, 1]]
    angle = 2 * np.pi * np.array([184, 185]) / 365
    np.testing.assert_allclose(features["year_cos"], np.cos(angle))
    np.testing.assert_allclose(features["year_sin"], np.sin(angle))


def test_daylight_saving_is_that_of_midnight() -> None:
    # It begins at 2h on 2010-03-14 and ends at 2h on 2010-11-07.
    spring = released_features(days("2010-03-13", 3), None)["daylight_saving"]
    autumn = released_features(days("2010-11-06", 3), None)["daylight_saving"]
    assert (spring.tolist(), autumn.tolist()) == ([0, 1], [1, 0])


# The switches


def test_columns_are_standardised_with_all_days_or_with_those_before_the_test() -> None:
    every, before = simulated(), simulated(statistics_of_test_days=False)
    np.testing.assert_allclose(every.contexts.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(before.contexts[:80].mean(0), 0, atol=1e-12)
    assert np.abs(before.contexts.mean(0)).max() > 0.05
    np.testing.assert_array_equal(every.outcomes, before.outcomes)


def test_validation_days_are_drawn_by_the_seed_one_by_one_or_in_blocks() -> None:
    single, blocks = simulated(), simulated(random_validation_days=False)
    for data in (single, blocks):
        assert data.test.tolist() == list(range(80, 100))
    assert len(single.train) + len(single.validation) == 80
    assert len(single.validation) == 16
    assert np.diff(single.validation).max() > 1
    assert np.count_nonzero(np.diff(blocks.validation) > 1) == len(blocks.validation) // 14 - 1


def test_without_the_last_day_the_split_stays() -> None:
    whole, shorter = simulated(), simulated(last_flat_day=False)
    assert len(whole.test) - len(shorter.test) == 1
    assert whole.test[0] == shorter.test[0]
    np.testing.assert_array_equal(whole.train, shorter.train)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperatures": True}, r"data=simulated: .*task\.temperatures=false"),
        ({"num_days": 3}, r"data\.num_days=3: "),
        ({"validation_fraction": 1.0}, r"task\.validation_fraction=1\.0: "),
    ],
)
def test_what_cannot_be_made_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        simulated(**values)


def test_other_sources_are_refused() -> None:
    with pytest.raises(DataError, match=r"data=csv: .*real or simulated"):
        released_power_dataset("csv", np.random.default_rng(0))
    with pytest.raises(DataError, match=r"data=simulated: .*data=real"):
        weather_dataset("simulated", np.random.default_rng(0))


# Golden numbers of the real files


def real(root: Path, **values: Any) -> Dataset:
    return released_power_dataset("real", np.random.default_rng(0), root=root, **values)


def test_release_has_3192_days_of_which_639_are_for_the_test(real_root: Path) -> None:
    data = real(real_root)
    assert data.contexts.shape == (3192, 149)
    assert len(data.train) + len(data.validation) == 2553
    assert (len(data.train), len(data.validation), len(data.test)) == (2042, 511, 639)
    assert data.dates is not None
    ends = [str(data.dates[row]) for row in (0, 2552, data.test[0], -1)]
    assert ends == ["2008-01-02", "2014-12-29", "2014-12-30", "2016-09-28"]
    # Only the pair across the end of the first file is lost.
    assert np.count_nonzero(np.diff(data.dates) != np.timedelta64(1, "D")) == 1


def test_last_day_is_flat_and_can_be_left_out(real_root: Path) -> None:
    assert np.ptp(real(real_root).outcomes[-1]) == 0
    shorter = real(real_root, last_flat_day=False)
    assert (len(shorter.contexts), len(shorter.test)) == (3191, 638)
    assert np.ptp(shorter.outcomes[-1]) > 0.1


def test_no_temperature_moves_in_the_test_period(real_root: Path) -> None:
    data = real(real_root)
    still = np.ptp(data.contexts[data.test], axis=0) == 0
    names = np.array(data.feature_names)
    assert np.count_nonzero(still) == 120
    assert all("_temp" in name for name in names[still])


def test_statistics_of_all_days_shift_features_by_a_third_of_a_deviation(real_root: Path) -> None:
    data = real(real_root)
    known = data.contexts[:2553]
    deviation = known.std(axis=0)
    assert np.abs(known.mean(axis=0) / deviation).max() == pytest.approx(0.33, abs=0.01)
    ratios = 1 / deviation
    assert (ratios.min(), ratios.max()) == pytest.approx((0.95, 1.11), abs=0.01)
    own = real(real_root, statistics_of_test_days=False).contexts[:2553]
    np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-12)


def test_weather_is_judged_on_2011_and_its_loads_are_the_sound_ones(real_root: Path) -> None:
    data = weather_dataset("real", np.random.default_rng(0), root=real_root)
    assert data.contexts.shape == (1459, 149)
    assert data.dates is not None
    assert [str(data.dates[row]) for row in data.test[[0, -1]]] == ["2011-01-01", "2011-12-30"]
    assert len(data.test) == 364
    assert min(len(data.train), len(data.validation)) > 200
    sound = daily_load([real_root / name for name in PJM_FILES])
    np.testing.assert_array_equal(data.outcomes, sound.loc["2008-01-02":"2011-12-30"].to_numpy())
    assert (np.ptp(data.contexts[data.test], axis=0) > 0).all()
