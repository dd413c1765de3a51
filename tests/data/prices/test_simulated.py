"""The generator: one data set, longer tables begin like shorter ones, one forecastable thing."""

from __future__ import annotations

import numpy as np
import pytest

from diffusion_dfl.data import DataError
from diffusion_dfl.data.prices import EVERY_DAY, find_jumps, price_panel, simulated_prices
from diffusion_dfl.data.prices.simulated import NUM_SECTORS, NUM_TICKERS


def test_a_longer_table_begins_like_a_shorter_one() -> None:
    short, long = simulated_prices(40), simulated_prices(90)
    assert short.equals(long.iloc[: len(short)])
    assert not simulated_prices(40, seed=1)["adj_close"].equals(short["adj_close"])


def test_prices_pass_the_checks_and_look_like_stocks() -> None:
    panel = price_panel(simulated_prices(1200), EVERY_DAY)
    returns = panel.returns
    assert panel.close.shape == (1200, NUM_TICKERS)
    assert find_jumps(panel) == []
    assert 0.01 < returns.std() < 0.03
    assert 0.1 < np.corrcoef(returns.T).mean() < 0.6
    standard = (returns - returns.mean(0)) / returns.std(0)
    assert (standard**4).mean() > 4.0


def test_sectors_remember_a_tenth_of_the_day_before() -> None:
    returns = price_panel(simulated_prices(2500), EVERY_DAY).returns
    excess = returns - returns.mean(axis=1, keepdims=True)
    sectors = excess.reshape(len(excess), -1, NUM_SECTORS).mean(axis=1)
    memory = [np.corrcoef(s[1:], s[:-1])[0, 1] for s in sectors.T]
    assert 0.0 < np.mean(memory) < 0.1


def test_no_day_is_too_few() -> None:
    with pytest.raises(DataError, match=r"data.num_days=0"):
        simulated_prices(0)
