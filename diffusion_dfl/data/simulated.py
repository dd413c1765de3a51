"""Days of load from a small generator, for trying things where the real files cannot be had.

What it is: hourly loads with the level (about 1.0 to 3.1, mean near 1.67, standard deviation near
0.27), daily and weekly shape, seasons, slow drift, persistent day-to-day noise that is larger in
summer, and hot spells whose size is skewed to the right, so that the cost of a shortage sits in a
rare tail as it does in the real data. The largest within-day
ramp is near 0.25 an hour; in the real data six days of nine years exceed 0.3.

What it is not: a fit to any grid. The shape was chosen by hand. No number obtained on it says
anything about the paper's results; runs on it are recorded with source "simulated".
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.data.features import DAYS_A_YEAR, federal_holidays, year_angle
from diffusion_dfl.data.pjm import HOURS

# A data set is a data set: runs differ in their own seed, not in this one.
DATA_SEED = 20080101
FIRST_DAY = "2010-01-01"
LOWEST_LOAD = 0.9

# Share of the day's mean at each hour: one afternoon peak in summer, two peaks in winter.
_SUMMER_SHAPE = np.array(
    [0.93, 0.86, 0.82, 0.79, 0.77, 0.77, 0.79, 0.83, 0.89, 0.95, 1.00, 1.05]
    + [1.08, 1.11, 1.14, 1.16, 1.17, 1.18, 1.17, 1.15, 1.12, 1.10, 1.08, 1.01]
)
_WINTER_SHAPE = np.array(
    [0.92, 0.89, 0.87, 0.86, 0.86, 0.88, 0.92, 0.98, 1.02, 1.04, 1.05, 1.06]
    + [1.06, 1.05, 1.05, 1.04, 1.04, 1.06, 1.10, 1.12, 1.11, 1.08, 1.05, 1.00]
)
# Load against a weekday's mean; Monday first.
_WEEK = np.array([0.00, 0.02, 0.025, 0.02, 0.00, -0.13, -0.17])
_HOLIDAY = -0.10
_HOTTEST_DAY = 205
# A spell cannot grow without bound: this keeps loads near the real maximum.
_HIGHEST_SPELL = 0.80


def simulated_daily(num_days: int = 1200, seed: int = DATA_SEED) -> pd.DataFrame:
    """Generate consecutive days of hourly load in the form of `daily_load`.

    Each noise has a PCG64 stream of its own and is drawn day by day, so the first days of a longer
    table are the days of a shorter one. Loads are rounded to six decimals, which hides the last
    bits in which the sines and exponentials of different machines may differ.

    Args:
        num_days: days to make, from 2010-01-01 on; at least 1.
        seed: seed of the data set; the default is the data set that runs use.

    Returns:
        (num_days, 24) loads, index of local dates named "date", columns h00..h23.

    Raises:
        DataError: `num_days` below 1.
    """
    if num_days < 1:
        raise DataError(f"data.num_days={num_days}: it must be 1 or more, e.g. 1200.")
    # One day more than asked for: the last evening runs towards the next day's level.
    days = num_days + 1
    dates = pd.date_range(FIRST_DAY, periods=days, freq="D", name="date", unit="s")
    children = np.random.SeedSequence(seed).spawn(5)
    streams = [np.random.Generator(np.random.PCG64(child)) for child in children]
    level_noise, hour_noise, start_draw, stop_draw, size_draw = streams

    angle = year_angle(dates) - 2.0 * np.pi * _HOTTEST_DAY / DAYS_A_YEAR
    summer = 0.5 * (1.0 + np.cos(angle))  # 1 in late July, 0 in late January
    years = np.arange(days) / DAYS_A_YEAR
    level = (
        1.71
        + 0.05 * np.cos(angle)
        + 0.13 * np.cos(2.0 * angle)
        - 0.012 * years
        + 0.03 * np.sin(2.0 * np.pi * years / 3.7)
        + _WEEK[dates.day_of_week.to_numpy()]
        + _HOLIDAY * federal_holidays(dates)
    )
    spread = 0.062 + 0.060 * summer**2
    level = level + spread * _autoregressive(level_noise.standard_normal(days), 0.60)
    heat = _spells(start_draw.random(days), stop_draw.random(days), size_draw, 0.13 * summer**2)

    weight = _by_hour(summer**2)
    shape = weight * _SUMMER_SHAPE + (1.0 - weight) * _WINTER_SHAPE
    # Noise within a day runs on through midnight: one long hourly series, folded into days.
    within = _autoregressive(hour_noise.standard_normal(24 * days), 0.93).reshape(days, 24)
    bump = 0.35 + 0.65 * np.exp(-0.5 * ((np.arange(24) - 16.0) / 4.5) ** 2)
    loads = _by_hour(level) * shape + 0.5 * _by_hour(spread) * within + _by_hour(heat) * bump
    loads = np.round(np.maximum(loads, LOWEST_LOAD), 6)
    return pd.DataFrame(loads[:-1], index=dates[:-1], columns=list(HOURS))


def _by_hour(at_noon: NDArray[np.float64]) -> NDArray[np.float64]:
    """(days, 24) values of a quantity given at each noon; straight lines, no jump at midnight."""
    days = len(at_noon)
    hours = np.arange(24 * days)
    return np.interp(hours, 24 * np.arange(days) + 12, at_noon).reshape(days, 24)


def _autoregressive(noise: NDArray[np.float64], memory: float) -> NDArray[np.float64]:
    """Stationary series a_t = memory a_(t-1) + sqrt(1 - memory^2) noise_t, unit variance."""
    series = np.empty_like(noise)
    state = noise[0]
    innovation = np.sqrt(1.0 - memory**2)
    series[0] = state
    for step in range(1, len(noise)):
        state = memory * state + innovation * noise[step]
        series[step] = state
    return series


def _spells(
    start: NDArray[np.float64],
    stop: NDArray[np.float64],
    size: np.random.Generator,
    chance: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(days,) height of hot spells: zero on most days, gamma-distributed in a spell.

    A spell begins with probability `chance` of the day and ends with probability 0.35 a day. Its
    scale is drawn when it begins; every day of it adds a factor of its own around that scale.
    """
    scales = size.gamma(1.3, 0.33, size=(len(chance), 2))
    heights = np.zeros(len(chance))
    scale = 0.0
    for day in range(len(chance)):
        if scale > 0.0 and stop[day] < 0.35:
            scale = 0.0
        elif scale == 0.0 and start[day] < chance[day]:
            scale = scales[day, 0]
        if scale > 0.0:
            heights[day] = min(0.7 * scale + 0.3 * scales[day, 1], _HIGHEST_SPELL)
    return heights
