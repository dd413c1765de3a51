"""The data sets of the power scheduling task: real PJM loads, a file of the user's, or the simulated
stand-in.

`weather_dataset` has the temperatures too, for the years in which they were measured.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from diffusion_dfl.data.dataset import SOURCES, DataError, Dataset
from diffusion_dfl.data.features import load_features
from diffusion_dfl.data.loads import file_loads
from diffusion_dfl.data.pjm import DEFAULT_DIRECTORY, PJM_URL, daily_load, fetch_pjm
from diffusion_dfl.data.released_power import hourly_tables, released_features
from diffusion_dfl.data.simulated import simulated_daily
from diffusion_dfl.data.splits import daily_dataset, split_days

FIRST_TEST_DAY = np.datetime64("2014-12-30", "D")
TEST_FRACTION = 0.2
# The last year with a thermometer, whole, so that all seasons are judged.
FIRST_WEATHER_TEST_DAY = np.datetime64("2011-01-01", "D")

FEATURE_SETS = ("compact", "full")
# The day before and the calendar. Lags and rolling statistics of a level that drifts over the years
# cost 3-6 % on validation days (scripts/feature_study.py, results/search/features.md).
_COMPACT = ("weekday_sat", "weekday_sun", "holiday", "daylight_saving", "year_sin1", "year_cos1")


def power_dataset(
    source: str,
    rng: np.random.Generator,
    *,
    features: str = "compact",
    root: str | Path | None = None,
    url: str = PJM_URL,
    directory: str | Path = DEFAULT_DIRECTORY,
    file: str | Path | None = None,
    num_days: int = 1200,
    validation_fraction: float = 0.2,
    block_weeks: int = 2,
    gap_days: int = 1,
) -> Dataset:
    """Contexts (N, 30 or 53), next-day loads (N, 24) and a split of the days.

    Real: N = 3165 target days, 2008-01-29 to 2016-09-27; test is 2014-12-30 to the end (638 days).
    Simulated: N = num_days - 28; a file: N = its days - 28; test is the last fifth. Validation is drawn by `rng` (see
    `split_days`), which is the only thing that differs between seeds.

    Args:
        source: "real", "csv" or "simulated"; real is never replaced by simulated.
        rng: the run's generator for the split.
        features: "compact" (30: the loads of the day before, weekend, holiday, daylight saving and
            the yearly harmonic) or "full" (53: `load_features`).
        root: the user's folder with the real files (see `fetch`).
        url: address of the folder of the real files.
        directory: where downloads land.
        file: the user's file, for source csv (see `file_loads`).
        num_days: simulated days before the first 28 are spent as history.
        validation_fraction, block_weeks, gap_days: see `split_days`.

    Raises:
        DataError: an unknown source or set of features, files that cannot be had or are not the pinned ones, or
            values out of range.
    """
    if features not in FEATURE_SETS:
        raise DataError(
            f"task.features={features}: there is no such set; use {' or '.join(FEATURE_SETS)}."
        )
    if source == "real":
        daily = daily_load(fetch_pjm(root, url, directory))
    elif source == "simulated":
        daily = simulated_daily(num_days)
    elif source == "csv":
        if not file:
            raise DataError("data=csv: set data.file=FILE to your file of hourly loads.")
        daily = file_loads(Path(file))
    else:
        raise DataError(
            f"data={source} is no source of loads (sp500, skfolio and quandl hold prices, for "
            f"task=portfolio); use one of {', '.join(SOURCES)}, or data=csv data.file=FILE for hourly "
            "loads of your own (other problems of your own: docs/extend.md)."
        )
    contexts, outcomes = load_features(daily)
    if features == "compact":
        previous = [name for name in contexts.columns if name.startswith("prev_h")]
        contexts = contexts[[*previous, *_COMPACT]]
    dates = pd.DatetimeIndex(contexts.index).to_numpy().astype("datetime64[D]")
    if source == "real":
        first_test = int(np.searchsorted(dates, FIRST_TEST_DAY))
    else:
        first_test = len(dates) - round(TEST_FRACTION * len(dates))
    split = split_days(
        len(dates),
        first_test,
        rng,
        validation_fraction=validation_fraction,
        block_weeks=block_weeks,
        gap_days=gap_days,
    )
    kind = "simulated" if source == "simulated" else "real"
    return daily_dataset("power", kind, contexts, outcomes, split)


def weather_dataset(
    source: str,
    rng: np.random.Generator,
    *,
    validation_fraction: float = 0.2,
    block_weeks: int = 2,
    gap_days: int = 1,
    root: str | Path | None = None,
    url: str = PJM_URL,
    directory: str | Path = DEFAULT_DIRECTORY,
) -> Dataset:
    """Data of ``task=power_weather``: 2008 to 2011, where temperatures are measurements.

    The released code's 149 features (:func:`.released_power.released_features`) in raw units, an
    hour the clock skips on the line between its neighbours, validation in blocks, and the 364
    target days of 2011 for the test. Temperatures of the target day are the measured ones: a
    perfect forecast of the weather, which no one has.

    Args:
        source: "real"; simulated load has no weather.
        rng: draws the validation blocks.
        validation_fraction, block_weeks, gap_days: see
            :func:`diffusion_dfl.data.splits.split_days`.
        root, url, directory: see :func:`diffusion_dfl.data.fetch`.

    Raises:
        DataError: a source other than real, files that cannot be had, values out of range.
    """
    if source != "real":
        raise DataError(
            f"data={source}: task=power_weather needs measured temperatures; use data=real."
        )
    tables = hourly_tables(fetch_pjm(root, url, directory)[0])
    load, temperature = (
        # Hours are missing where the clock skips one and at the very first; neither day has two.
        table.interpolate(axis=1, limit_direction="both")
        for table in (tables.load, tables.temperature)
    )
    features, targets = released_features(load, temperature), load.iloc[1:]
    dates = pd.DatetimeIndex(features.index).to_numpy().astype("datetime64[D]")
    first_test = int(np.searchsorted(dates, FIRST_WEATHER_TEST_DAY))
    split = split_days(
        len(features),
        first_test,
        rng,
        validation_fraction=validation_fraction,
        block_weeks=block_weeks,
        gap_days=gap_days,
    )
    return daily_dataset("power_weather", source, features, targets, split)
