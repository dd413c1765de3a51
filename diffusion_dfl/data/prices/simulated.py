"""Prices from a small factor model, for trying things where no real prices can be had.

What it is: 100 tickers in ten sectors. A day's return is drift + exposure x market + sector + own
noise; market and own noise have heavy tails and volatility that moves slowly; a sector's return
carries a tenth of the day before on, which is the only thing that can be forecast. Volumes rise
with the size of the day's return.

What it is not: a fit to any market. No number obtained on it says anything about the paper's
results; runs on it are recorded with source "simulated".
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from diffusion_dfl.data.dataset import DataError

# A data set is a data set: runs differ in their own seed, not in this one.
DATA_SEED = 20040102
FIRST_DAY = "2010-01-01"
NUM_TICKERS, NUM_SECTORS = 100, 10
TICKERS = tuple(f"S{number:03d}" for number in range(NUM_TICKERS))
SECTOR_MEMORY, VOLATILITY_MEMORY = 0.1, 0.97
_DEGREES = 4.0  # of Student's t


def simulated_prices(num_days: int = 1200, seed: int = DATA_SEED) -> pd.DataFrame:
    """Tidy frame of `num_days` weekdays from 2010-01-01 on: date, ticker, adj_close, volume.

    Each noise has a stream of its own and is drawn day by day, so the first days of a longer table
    are those of a shorter one. Prices are rounded to six significant digits, volumes to shares.

    Raises:
        DataError: `num_days` below 1.
    """
    if num_days < 1:
        raise DataError(f"data.num_days={num_days}: it must be 1 or more, e.g. 1200.")
    children = np.random.SeedSequence(seed).spawn(6)
    fixed, market_draw, sector_draw, own_draw, state_draw, volume_draw = (
        np.random.Generator(np.random.PCG64(child)) for child in children
    )
    exposure = fixed.normal(1.0, 0.25, NUM_TICKERS)
    spread = fixed.uniform(0.008, 0.018, NUM_TICKERS)
    drift = fixed.normal(4e-4, 2e-4, NUM_TICKERS)
    start = fixed.uniform(15.0, 120.0, NUM_TICKERS)
    trade = fixed.normal(14.5, 0.8, NUM_TICKERS)
    sector = np.arange(NUM_TICKERS) % NUM_SECTORS

    to_unit = np.sqrt((_DEGREES - 2.0) / _DEGREES)
    volatility = np.exp(
        0.35 * _autoregressive(state_draw.standard_normal((num_days, 1)), VOLATILITY_MEMORY)
    )
    market = 0.008 * volatility[:, 0] * to_unit * market_draw.standard_t(_DEGREES, num_days)
    sectors = 0.005 * _autoregressive(
        sector_draw.standard_normal((num_days, NUM_SECTORS)), SECTOR_MEMORY
    )
    own = to_unit * own_draw.standard_t(_DEGREES, (num_days, NUM_TICKERS))
    # A return below -100 % has no price; t with four degrees of freedom would get there one day.
    returns = drift + np.outer(market, exposure) + sectors[:, sector] + spread * volatility * own
    close = start * np.exp(np.cumsum(np.log1p(np.maximum(returns, -0.25)), axis=0))
    noise = _autoregressive(volume_draw.standard_normal((num_days, NUM_TICKERS)), 0.6)
    volume = np.exp(trade + 0.3 * noise + 8.0 * np.abs(returns))

    dates = pd.date_range(FIRST_DAY, periods=num_days, freq="B", unit="s")
    digits = 5 - np.floor(np.log10(close)).astype(int)
    rounded = np.round(close * 10.0**digits) / 10.0**digits
    return pd.DataFrame(
        {
            "date": np.repeat(dates.to_numpy(), NUM_TICKERS),
            "ticker": np.tile(np.array(TICKERS, dtype=object), num_days),
            "adj_close": rounded.ravel(),
            "volume": np.round(volume).ravel(),
        }
    )


def _autoregressive(noise: np.ndarray, memory: float) -> np.ndarray:
    """Stationary a_t = memory a_(t-1) + sqrt(1 - memory^2) noise_t down the columns, variance 1."""
    series = np.empty_like(noise)
    series[0] = noise[0]
    innovation = np.sqrt(1.0 - memory**2)
    for day in range(1, len(noise)):
        series[day] = memory * series[day - 1] + innovation * noise[day]
    return series
