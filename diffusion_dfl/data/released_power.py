"""Load and temperature as the paper's released code prepares them (section 6.2, appendix A.10).

The release treats its two files one after the other, so the pair of days between them is lost; it
fills an hour the clock skips from the hours after it; it keeps the last day, of which one hour is
known; its 149 features have the temperatures of both days in powers; and it standardises them with
the mean and deviation of all days, the test days among them. Sound data: :mod:`.power`.

In the first file, 2008 to 2011, temperatures are measurements. In the second they are straight
ramps and, from 2014-01-24 on, the constant 1.4: 120 of the 149 features never change over the test.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import Dataset, require
from diffusion_dfl.data.features import federal_holidays
from diffusion_dfl.data.pjm import DEFAULT_DIRECTORY, HOURS, PJM_URL, TIME_ZONE, fetch_pjm
from diffusion_dfl.data.simulated import simulated_daily
from diffusion_dfl.data.splits import Split, daily_dataset, split_days

Array = NDArray[np.float64]

#: The release trains and validates on the first four fifths of its 3,192 days.
TEST_FRACTION = 0.2
_DAYS_A_YEAR = 365.0
_TEMPERATURE_POWERS = {"today": (1, 2), "target": (1, 2, 3)}


@dataclass(frozen=True, eq=False)
class HourlyTables:
    """Loads and temperatures of one file by local day and hour, as read.

    Attributes:
        load, temperature: (days, 24), indexed by date; NaN where the file has no row.
    """

    load: pd.DataFrame
    temperature: pd.DataFrame


def hourly_tables(path: Path) -> HourlyTables:
    """Read a file of "epoch load temperature" lines (degrees Fahrenheit).

    The four rows that stand in the file twice are used once.
    """
    table = pd.read_csv(path, sep=r"\s+", header=None, names=["epoch", "load", "temperature"])
    # The files print nine digits of the epoch, so a stamp is off by seconds.
    seconds = (table["epoch"] / 3600).round().astype(np.int64) * 3600
    local = pd.DatetimeIndex(pd.to_datetime(seconds, unit="s", utc=True)).tz_convert(TIME_ZONE)
    table["date"] = local.tz_localize(None).normalize()
    table["hour"] = local.hour
    table = table[~local.duplicated()]

    def by_hour(column: str) -> pd.DataFrame:
        daily = table.pivot(index="date", columns="hour", values=column)
        daily = daily.reindex(columns=range(24)).astype(np.float64)
        daily.columns = pd.Index(HOURS)
        return daily

    return HourlyTables(by_hour("load"), by_hour("temperature"))


def fill_as_released(table: pd.DataFrame) -> pd.DataFrame:
    """A missing hour takes the value of the next one of its day, the last of the one before."""
    return table.bfill(axis=1).ffill(axis=1)


def released_features(load: pd.DataFrame, temperature: pd.DataFrame | None) -> pd.DataFrame:
    """Features of the target days, all days but the first: (days - 1, 149), or 29 without weather.

    In this order: 24 loads of the day before; its 24 temperatures and their squares; the 24
    temperatures of the target day, which the paper calls a forecast and which are the measured
    ones, their squares and cubes; weekend, US federal holiday, daylight saving (at midnight) and
    cosine and sine of ``2 pi d / 365`` with d the day of the year, all of the target day.
    """
    target = pd.DatetimeIndex(load.index)[1:]
    columns = {f"prev_{name}": load[name].to_numpy()[:-1] for name in HOURS}
    if temperature is not None:
        days = {"today": temperature.iloc[:-1], "target": temperature.iloc[1:]}
        for day, powers in _TEMPERATURE_POWERS.items():
            for power in powers:
                values = days[day].to_numpy() ** power
                columns |= {
                    f"{day}_temp{power}_{name}": values[:, hour] for hour, name in enumerate(HOURS)
                }
    midnight = target.tz_localize(TIME_ZONE)
    standard = pd.Timedelta(hours=-5)
    offset = midnight.tz_localize(None) - midnight.tz_convert("UTC").tz_localize(None)
    angle = 2.0 * np.pi * target.day_of_year.to_numpy(dtype=np.float64) / _DAYS_A_YEAR
    columns["weekend"] = (target.day_of_week >= 5).astype(np.float64)
    columns["holiday"] = federal_holidays(target).astype(np.float64)
    columns["daylight_saving"] = np.asarray(offset != standard, dtype=np.float64)
    columns["year_cos"], columns["year_sin"] = np.cos(angle), np.sin(angle)
    return pd.DataFrame(columns, index=target)


def released_power_dataset(
    source: str,
    rng: np.random.Generator,
    *,
    temperatures: bool = True,
    last_flat_day: bool = True,
    statistics_of_test_days: bool = True,
    random_validation_days: bool = True,
    validation_fraction: float = 0.2,
    root: str | Path | None = None,
    url: str = PJM_URL,
    directory: str | Path = DEFAULT_DIRECTORY,
    num_days: int = 1200,
) -> Dataset:
    """The released data of ``task=power_released``: 3,192 days, the last 639 for the test.

    Every switch is a quirk of the release; all true is the release.

    Args:
        source: "real"; "simulated" loads, which have no temperature, are for trying things.
        rng: draws the validation days.
        temperatures: the 120 features of the temperature, broken as they are (149 in all);
            False leaves 29.
        last_flat_day: keep the last day, 2016-09-28, of which hour 0 alone is known and stands
            for all 24.
        statistics_of_test_days: standardise features with all days; False: with those before the
            test.
        random_validation_days: validation is single days drawn at random; False: blocks of two
            weeks with a day between (:func:`diffusion_dfl.data.splits.split_days`).
        validation_fraction: share of the days before the test.
        root, url, directory: see :func:`diffusion_dfl.data.fetch`.
        num_days: simulated days.

    Raises:
        DataError: an unknown source, temperatures of simulated load, files that cannot be had, a
            fraction out of range, or too few days.
    """
    if source == "simulated":
        require(
            not temperatures,
            "data",
            source,
            "simulated load has no temperature; add task.temperatures=false",
        )
        require(num_days >= 10, "data.num_days", num_days, "take at least 10 days, e.g. 1200")
        load = simulated_daily(num_days)
        features, targets = released_features(load, None), load.iloc[1:]
    else:
        require(source == "real", "data", source, "there is no such source; use real or simulated")
        pairs = [_released_pairs(path, temperatures) for path in fetch_pjm(root, url, directory)]
        features = pd.concat([contexts for contexts, _ in pairs])
        targets = pd.concat([outcomes for _, outcomes in pairs])
    # The days of the split are the same with and without the last one.
    first_test = int((1.0 - TEST_FRACTION) * len(features))
    if not last_flat_day:
        features, targets = features.iloc[:-1], targets.iloc[:-1]
    if random_validation_days:
        split = _random_days(len(features), first_test, rng, validation_fraction)
    else:
        split = split_days(len(features), first_test, rng, validation_fraction=validation_fraction)
    rows = slice(None) if statistics_of_test_days else slice(0, first_test)
    return daily_dataset("power_released", source, _standardised(features, rows), targets, split)


def _released_pairs(path: Path, temperatures: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features and loads of a file's target days, all days of the file but its first."""
    tables = hourly_tables(path)
    load, temperature = fill_as_released(tables.load), fill_as_released(tables.temperature)
    return released_features(load, temperature if temperatures else None), load.iloc[1:]


def _random_days(
    num_days: int, first_test: int, rng: np.random.Generator, validation_fraction: float
) -> Split:
    require(
        0.0 < validation_fraction < 1.0,
        "task.validation_fraction",
        validation_fraction,
        "it must lie between 0 and 1, e.g. 0.2",
    )
    order = rng.permutation(first_test)
    train = int((1.0 - validation_fraction) * first_test)
    return Split(np.sort(order[:train]), np.sort(order[train:]), np.arange(first_test, num_days))


def _standardised(features: pd.DataFrame, rows: slice) -> pd.DataFrame:
    """Columns less their mean over ``rows``, in units of their deviation there, if there is any."""
    known = features.iloc[rows]
    deviation = known.std(axis=0, ddof=0)
    return (features - known.mean(axis=0)) / deviation.where(deviation > 0, 1.0)
