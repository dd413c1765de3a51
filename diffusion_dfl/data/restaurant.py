"""Demand for seven ingredients of a restaurant in Stuttgart, 765 days of 2013-2015 (YAZ).

The two files are those of the public repository opimwue/ddop (BSD-3-Clause) at a fixed commit: a row a
day with the calendar, holidays, closed days and the weather, and the demands of the day. Contexts and
split are those of a public study, d3group/A-structured-evaluation-of-data-driven-newsvendor-approaches
(its data preparation and ``get_results.py``), but for one thing. Its lag features are statistics of the
7, 14 and 28 days that *end with the target day*: the demand that is to be met is known to them. Here
windows end the day before, unless ``published_lags`` asks for theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from diffusion_dfl.data.dataset import DataError, Dataset, require
from diffusion_dfl.data.download import fetch, fetch_own
from diffusion_dfl.data.pjm import DEFAULT_DIRECTORY
from diffusion_dfl.data.splits import daily_dataset, split_days

YAZ_URL = (
    "https://raw.githubusercontent.com/opimwue/ddop/"
    "fad8f7f319ad1afb96fe7962cd146cb423d178be/ddop/datasets/data/"
)
#: Where a folder of data has the files: in its subfolder of this name.
YAZ_FOLDER = "yaz"
YAZ_FILES = {
    "yaz_data.csv": "fc857e32e4338817a7c184d157cd884f63866347d2efc02dd96c8cd2877d75d9",
    "yaz_target.csv": "961f9202379aacb941ccc480a9ca33d56682646518a70a78e6bdf361e306b657",
}
ITEMS = ("calamari", "fish", "shrimp", "chicken", "koefte", "lamb", "steak")
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
#: What the study calls special: known days and the weather of the target day.
SPECIAL = ("is_holiday", "is_closed", "wind", "clouds", "rain", "sunshine", "temperature")
_DAY_COLUMNS = ("date", "weekday", "month", "year", "is_holiday", "is_closed", "weekend")
_COLUMNS = {"yaz_data.csv": (*_DAY_COLUMNS, *SPECIAL[2:]), "yaz_target.csv": ITEMS}

Features = Literal["calendar", "lag", "special"]
WINDOWS = (7, 14, 28)
# The first days have no full window of their own and are history; 738 are left, as in the study.
_HISTORY = WINDOWS[-1] - 1
#: Share of the days, the first of them, that is before the test.
TRAIN_FRACTION = 0.75


def fetch_yaz(
    root: str | Path | None = None,
    url: str = YAZ_URL,
    directory: str | Path = DEFAULT_DIRECTORY,
) -> list[Path]:
    """Paths of the two pinned files, found or downloaded as `fetch` says; `url` is their folder.

    Raises DataError when one of them cannot be had.
    """
    base = url.rstrip("/") + "/"
    return [
        fetch(f"{YAZ_FOLDER}/{name}", base + name, sha256, directory, root)
        for name, sha256 in YAZ_FILES.items()
    ]


def download_yaz(directory: str | Path, url: str = YAZ_URL) -> list[Path]:
    """Paths of the two pinned files in `directory`, downloaded where they are not there."""
    base = url.rstrip("/") + "/"
    return [
        fetch_own(f"{YAZ_FOLDER}/{name}", base + name, sha256, directory)
        for name, sha256 in YAZ_FILES.items()
    ]


def read_yaz(days: str | Path, demands: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The calendar and weather ``(765, 11)`` and the demands ``(765, 7)``, indexed by date.

    Raises:
        DataError: columns that are not those of the two files, a gap between days, or a demand that
            is not a finite number of at least 0.
    """
    day = _read(Path(days), "yaz_data.csv")
    demand = _read(Path(demands), "yaz_target.csv").astype(np.float64)
    dates = pd.DatetimeIndex(pd.to_datetime(day["date"], format="%Y-%m-%d"))
    if len(day) != len(demand):
        raise DataError(
            f"{days} has {len(day)} days and {demands} {len(demand)}; each day is one row."
        )
    gaps = np.flatnonzero(np.diff(dates.to_numpy()) != np.timedelta64(1, "D"))
    if len(gaps):
        raise DataError(
            f"{days}: {dates[gaps[0]].date()} is followed by {dates[gaps[0] + 1].date()}; every day must "
            "have its row."
        )
    bad = np.argwhere(~(np.isfinite(demand.to_numpy()) & (demand.to_numpy() >= 0)))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{demands}: {ITEMS[column]} is {demand.iloc[row, column]} on {dates[row].date()}; a demand "
            "must be a finite number of at least 0."
        )
    return day.set_index(dates).drop(columns="date"), demand.set_index(dates)


def _read(path: Path, name: str) -> pd.DataFrame:
    table = pd.read_csv(path)
    wanted = _COLUMNS[name]
    missing = [column for column in wanted if column not in table.columns]
    foreign = [str(column) for column in table.columns if column not in wanted]
    if missing or foreign:
        told = [f"lacks {', '.join(missing)}"] if missing else []
        told += [f"has {', '.join(foreign)}, which is none of its columns"] if foreign else []
        raise DataError(f"{path}: it {' and '.join(told)}; take the {name} of {YAZ_URL}{name}.")
    return table[list(wanted)]


def restaurant_features(
    days: pd.DataFrame, demand: pd.DataFrame, features: Features, published_lags: bool = False
) -> pd.DataFrame:
    """Contexts of the 738 target days, by name: ``(738, 20)``, with lags 209, with all 216.

    ``calendar``: weekday and month one-hot, and the year. ``lag`` has those and, of the last 7, 14 and
    28 days of each of the seven demands, sum, median, mean, standard deviation and variance (over n),
    root mean square, maximum, absolute maximum and minimum: 27 an item, all 189 for a model of all
    items. ``special`` has those and holidays, closed days and the weather of the target day, which is
    the measured one: a perfect forecast, as in the study.

    Args:
        days, demand: of :func:`read_yaz`.
        features: which set.
        published_lags: windows end with the target day, whose demand they so know. Else with the day
            before; the first target day, which has 27 days before it, has its window of 28 from them.
    """
    columns: dict[str, pd.Series] = {}
    for group, labels in (("weekday", WEEKDAYS), ("month", MONTHS)):
        columns |= {f"{group}_{label}": (days[group] == label).astype(float) for label in labels}
    columns["year"] = days["year"].astype(float)
    if features != "calendar":
        seen = demand if published_lags else demand.shift(1)
        for item in ITEMS:
            columns |= _lags(item, seen[item])
    if features == "special":
        columns |= {name: days[name].astype(float) for name in SPECIAL}
    return pd.DataFrame(columns)[_HISTORY:]


def _lags(item: str, seen: pd.Series) -> dict[str, pd.Series]:
    found: dict[str, pd.Series] = {}
    for window in WINDOWS:
        rolling = seen.rolling(window, min_periods=min(window, _HISTORY))
        mean = rolling.mean()
        statistics = {
            "sum": rolling.sum(),
            "median": rolling.median(),
            "mean": mean,
            "std": rolling.std(ddof=0),
            "variance": rolling.var(ddof=0),
            "rms": (seen**2).rolling(window, min_periods=min(window, _HISTORY)).mean() ** 0.5,
            "max": rolling.max(),
            # Of demands, which are not negative, the same.
            "absmax": rolling.max(),
            "min": rolling.min(),
        }
        found |= {f"{item}_{name}_{window}": value for name, value in statistics.items()}
    return found


def restaurant_dataset(
    source: str,
    rng: np.random.Generator,
    *,
    features: Features = "special",
    published_lags: bool = False,
    validation_fraction: float = 0.2,
    block_weeks: int = 2,
    gap_days: int = 1,
    root: str | Path | None = None,
    url: str = YAZ_URL,
    directory: str | Path = DEFAULT_DIRECTORY,
) -> Dataset:
    """Data of ``task=restaurant``: 738 target days, 2013-10-31 to 2015-11-07, and their seven demands.

    The test is the last quarter, 185 days from 2015-05-07 on, as in the study; validation is drawn in
    blocks from the 553 days before.

    Args:
        source: "real"; there is no other.
        rng: draws the validation blocks.
        features, published_lags: see :func:`restaurant_features`.
        validation_fraction, block_weeks, gap_days: see
            :func:`diffusion_dfl.data.splits.split_days`.
        root, url, directory: see :func:`diffusion_dfl.data.fetch`; `root` has a folder ``yaz``.

    Raises:
        DataError: another source, an unknown set of features, files that cannot be had, values out of
            range.
    """
    require(source == "real", "data", source, "task=restaurant has real demand only; use data=real")
    known = get_args(Features)
    require(features in known, "task.features", features, f"use one of {', '.join(known)}")
    days, demand = read_yaz(*fetch_yaz(root, url, directory))
    contexts = restaurant_features(days, demand, features, published_lags)
    split = split_days(
        len(contexts),
        int(TRAIN_FRACTION * len(contexts)),
        rng,
        validation_fraction=validation_fraction,
        block_weeks=block_weeks,
        gap_days=gap_days,
    )
    return daily_dataset("restaurant", source, contexts, demand[_HISTORY:], split)
