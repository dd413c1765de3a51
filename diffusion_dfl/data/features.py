"""What is known the evening before: the contexts of the day-ahead scheduling task.

The features are those the paper lists (past loads, lagged and rolling statistics, calendar), made
from past loads and the calendar alone. No load of the target day or later enters, and nothing is
scaled here: a predictor standardises with the statistics of its training days.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.holiday import USFederalHolidayCalendar

from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.data.pjm import HOURS, TIME_ZONE, check_daily

LONGEST_LAG = 28
ROLLING_WINDOWS = (7, LONGEST_LAG)
HARMONICS = (1, 2, 3)
DAYS_A_YEAR = 365.25
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def load_features(daily: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pair every day's loads with what was known the day before.

    Args:
        daily: (days, 24) loads at consecutive dates, as `daily_load` gives them.

    Returns:
        contexts (days - 28, 53) and outcomes (days - 28, 24), float64, both indexed by the target
        day. The first 28 days have no full history and are contexts only.

    Raises:
        DataError: a gap between days, a load that is not finite and positive, or fewer than 29
            days.
    """
    check_daily(daily)
    if len(daily) <= LONGEST_LAG:
        raise DataError(
            f"daily loads: {len(daily)} days; features look {LONGEST_LAG} days back, so at least "
            f"{LONGEST_LAG + 1} are needed (data.num_days for data=simulated)."
        )
    dates = pd.DatetimeIndex(daily.index)
    targets = dates[LONGEST_LAG:]
    columns = {
        **_load_columns(daily.to_numpy(dtype=np.float64)),
        **_calendar_columns(targets),
    }
    contexts = pd.DataFrame(columns, index=targets)
    outcomes = pd.DataFrame(
        daily.to_numpy(dtype=np.float64)[LONGEST_LAG:], index=targets, columns=list(HOURS)
    )
    return contexts, outcomes


def federal_holidays(dates: pd.DatetimeIndex) -> NDArray[np.bool_]:
    """(days,) whether a US federal holiday is observed on each date."""
    calendar = USFederalHolidayCalendar()
    # A margin: an observed holiday may fall a day or two from its rule's date.
    margin = pd.Timedelta(days=7)
    holidays = calendar.holidays(start=dates.min() - margin, end=dates.max() + margin)
    return np.asarray(dates.isin(holidays), dtype=np.bool_)


def daylight_saving(dates: pd.DatetimeIndex) -> NDArray[np.bool_]:
    """(days,) whether daylight saving holds at noon, that is for most of the day."""
    noon = (dates + pd.Timedelta(hours=12)).tz_localize(TIME_ZONE)
    utc = noon.tz_convert("UTC").tz_localize(None)
    return np.asarray(noon.tz_localize(None) - utc == pd.Timedelta(hours=-4), dtype=np.bool_)


def year_angle(dates: pd.DatetimeIndex) -> NDArray[np.float64]:
    """(days,) 2 pi times the day of the year (1 on 1 January) over 365.25."""
    return 2.0 * np.pi * dates.day_of_year.to_numpy(dtype=np.float64) / DAYS_A_YEAR


def _load_columns(loads: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Features from past loads; `loads` is (days, 24), each column has days - 28 values.

    Every column is a slice that ends at least one day before its target, so that the future
    cannot enter: lag k of the target rows is loads[28 - k : days - k].
    """

    def lagged(values: NDArray[np.float64], days_back: int) -> NDArray[np.float64]:
        result: NDArray[np.float64] = values[LONGEST_LAG - days_back : len(values) - days_back]
        return result

    previous = lagged(loads, 1)
    columns = {f"prev_{name}": previous[:, hour] for hour, name in enumerate(HOURS)}
    columns["prev_mean"] = previous.mean(axis=1)
    columns["prev_max"] = previous.max(axis=1)
    columns["prev_min"] = previous.min(axis=1)
    daily_mean = loads.mean(axis=1)
    columns["lag2_mean"] = lagged(daily_mean, 2)
    columns["lag3_mean"] = lagged(daily_mean, 3)
    columns["lag7_mean"] = lagged(daily_mean, 7)
    for window in ROLLING_WINDOWS:
        # windows[i] covers days i .. i + window - 1; that of target t starts at t - window.
        # Each is summed on its own: a running sum would carry rounding from one to the next.
        windows = np.lib.stride_tricks.sliding_window_view(daily_mean, window)
        past = windows[LONGEST_LAG - window : len(loads) - window]
        columns[f"roll{window}_mean"] = past.mean(axis=1)
        columns[f"roll{window}_std"] = past.std(axis=1, ddof=1)
        columns[f"roll{window}_max"] = past.max(axis=1)
    return columns


def _calendar_columns(dates: pd.DatetimeIndex) -> dict[str, NDArray[np.float64]]:
    """Features of the target days' calendar, known years ahead."""
    weekday = dates.day_of_week.to_numpy()
    one_day = pd.Timedelta(days=1)
    flags = {f"weekday_{name}": weekday == number for number, name in enumerate(WEEKDAYS)}
    flags["holiday"] = federal_holidays(dates)
    flags["holiday_before"] = federal_holidays(dates - one_day)
    flags["holiday_after"] = federal_holidays(dates + one_day)
    flags["daylight_saving"] = daylight_saving(dates)
    columns = {name: flag.astype(np.float64) for name, flag in flags.items()}
    angle = year_angle(dates)
    for k in HARMONICS:
        columns[f"year_sin{k}"] = np.sin(k * angle)
        columns[f"year_cos{k}"] = np.cos(k * angle)
    return columns
