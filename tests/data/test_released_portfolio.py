"""The released layout of prices: what the mistake does to a table, and to its shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusion_dfl.data import DataError
from diffusion_dfl.data.portfolio import PortfolioDataset
from diffusion_dfl.data.prices import PricePanel
from diffusion_dfl.data.released_portfolio import (
    ReleasedPrices,
    draw_assets,
    feature_names,
    lay_out,
    released_portfolio_dataset,
    released_prices,
)

# The golden numbers of the release start from its raw files.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prices() -> ReleasedPrices:
    return released_prices("simulated", num_days=300, longest_window=130)


@pytest.fixture(scope="module")
def real_prices(real_root: Path) -> ReleasedPrices:
    return released_prices("sp500", root=real_root)


def made(prices: ReleasedPrices, num_assets: int = 8, **values: Any) -> PortfolioDataset:
    columns = draw_assets(prices, num_assets, np.random.default_rng(0))
    return released_portfolio_dataset(prices, "simulated", columns, **values)


def test_symbol_major_rows_are_days_of_one_ticker() -> None:
    day, ticker = np.meshgrid(np.arange(6.0), np.arange(3.0), indexing="ij")
    scrambled = lay_out(10 * ticker + day, symbol_major=True)
    assert scrambled.tolist() == [
        [0, 1, 2],
        [3, 4, 5],
        [10, 11, 12],
        [13, 14, 15],
        [20, 21, 22],
        [23, 24, 25],
    ]
    np.testing.assert_array_equal(lay_out(day, symbol_major=False), day)


def test_features_of_a_day_are_those_of_its_own_prices(prices: ReleasedPrices) -> None:
    columns = np.array([5, 2])
    features, outcomes = prices.assets(columns, symbol_major=False)
    assert features.shape == (160, 2, 28) and outcomes.shape == (160, 2)
    close, names = prices.panel.close[:, 5], feature_names(130)
    assert len(set(names)) == 28
    found = dict(zip(names, features[7, 0], strict=True))
    today = 130 + 7
    returns = close[1:] / close[:-1] - 1
    assert found["price"] == close[today]
    for lag in range(11):
        assert found[f"return_lag{lag}"] == pytest.approx(returns[today - 1 - lag])
    for window in (130, 120, 30, 7):
        assert found[f"change_{window}"] == pytest.approx(close[today] / close[today - window] - 1)
    assert found["return_mean_7"] == pytest.approx(returns[today - 7 : today].mean())
    assert found["return_variance_7"] == pytest.approx(returns[today - 7 : today].var(ddof=1))
    for window in (130, 120, 30, 7, 3):
        past = close[today - window + 1 : today + 1]
        assert found[f"price_mean_{window}"] == pytest.approx(past.mean())
        assert found[f"price_variance_{window}"] == pytest.approx(past.var(ddof=1))
    assert outcomes[7, 0] == pytest.approx(returns[today])
    assert prices.dates[7] == prices.panel.dates[today + 1]


def outcome_is_the_next_column_s_feature(prices: ReleasedPrices, symbol_major: bool) -> float:
    """Share of cells whose outcome stands among the features of the column after it."""
    columns = np.arange(len(prices.panel.tickers))
    features, outcomes = prices.assets(columns, symbol_major)
    return float((outcomes[:, :-1] == features[:, 1:, 0]).mean())


def test_only_the_symbol_major_layout_shows_an_outcome_to_its_neighbour(
    prices: ReleasedPrices,
) -> None:
    assert outcome_is_the_next_column_s_feature(prices, symbol_major=True) > 0.98
    assert outcome_is_the_next_column_s_feature(prices, symbol_major=False) < 0.01


def test_features_are_standardised_once_for_all_assets(prices: ReleasedPrices) -> None:
    every = made(prices, symbol_major=False).contexts.reshape(160, 8, 28)
    np.testing.assert_allclose(every.mean(axis=(0, 1)), 0, atol=1e-9)
    known = made(prices, symbol_major=False, statistics_of_test_days=False)
    train = known.contexts.reshape(160, 8, 28)[: len(known.train)]
    np.testing.assert_allclose(train.mean(axis=(0, 1)), 0, atol=1e-9)
    assert np.abs(known.contexts.reshape(160, 8, 28).mean(axis=(0, 1))).max() > 0.01


def test_layouts_share_their_split_and_only_one_has_days(prices: ReleasedPrices) -> None:
    scrambled, right = made(prices), made(prices, symbol_major=False)
    for part, size in (("train", 112), ("validation", 16), ("test", 32)):
        np.testing.assert_array_equal(getattr(scrambled, part), getattr(right, part))
        assert len(getattr(right, part)) == size
    assert scrambled.dates is None
    assert right.dates is not None and (np.diff(right.dates).astype(int) > 0).all()
    assert right.assets == tuple(f"S{name[1:]}" for name in right.assets)
    assert right.contexts.shape[1] == len(right.feature_names) == 8 * 28


def test_assets_are_drawn_without_replacement(prices: ReleasedPrices) -> None:
    drawn = draw_assets(prices, 100, np.random.default_rng(3))
    assert sorted(drawn) == list(range(100))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "csv"}, r"data=csv: .*sp500 or simulated"),
        ({"longest_window": 60}, r"task\.longest_window=60: "),
        ({"num_days": 200}, r"prices: 200 days leave 0 rows .*longest_window.*num_days"),
    ],
)
def test_what_cannot_be_made_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        released_prices(**{"source": "simulated", **values})


@pytest.mark.parametrize("num_assets", [1, 101])
def test_too_few_or_too_many_assets_are_refused(prices: ReleasedPrices, num_assets: int) -> None:
    with pytest.raises(DataError, match=rf"task\.num_assets={num_assets}: .*2 to 100"):
        draw_assets(prices, num_assets, np.random.default_rng(0))


def test_panel_is_what_prices_are_made_of(prices: ReleasedPrices) -> None:
    assert isinstance(prices.panel, PricePanel) and len(prices.panel.tickers) == 100


# Golden numbers of the real prices


def test_release_has_2898_rows_split_2028_289_581(real_prices: ReleasedPrices) -> None:
    assert (len(real_prices.panel.dates), len(real_prices.panel.tickers)) == (3273, 392)
    columns = draw_assets(real_prices, 50, np.random.default_rng(0))
    data = released_portfolio_dataset(real_prices, "sp500", columns, symbol_major=False)
    assert data.contexts.shape == (2898, 1400)
    assert [len(data.train), len(data.validation), len(data.test)] == [2028, 289, 581]
    assert data.dates is not None
    assert [str(data.dates[part[0]]) for part in (data.train, data.validation, data.test)] == [
        "2005-06-16",
        "2013-07-09",
        "2014-08-29",
    ]


def test_nearly_every_outcome_of_the_release_is_a_feature_beside_it(
    real_prices: ReleasedPrices,
) -> None:
    assert outcome_is_the_next_column_s_feature(real_prices, True) == pytest.approx(0.998, abs=2e-3)


def test_perfect_foresight_of_50_assets_earns_3_8_percent_on_a_test_day(
    real_prices: ReleasedPrices,
) -> None:
    _, outcomes = real_prices.assets(np.arange(392), symbol_major=False)
    test = outcomes[2028 + 289 :]
    best = [
        100 * test[:, draw_assets(real_prices, 50, np.random.default_rng(seed))].max(axis=1).mean()
        for seed in range(100)
    ]
    assert np.mean(best) == pytest.approx(3.8, abs=0.1)
