"""Contexts know the close of day t and no more; outcomes are the next day's returns of the same
assets. These tests fail on a table laid out by ticker, which is how a release once leaked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffusion_dfl.data import DataError
from diffusion_dfl.data.prices import (
    EVERY_DAY,
    PricePanel,
    price_features,
    price_panel,
    simulated_prices,
    target_dates,
)
from diffusion_dfl.data.prices.features import HISTORY

NUM_DAYS, SIZE = 200, 6
TRAIN = np.arange(80)


@pytest.fixture(scope="module")
def tidy() -> pd.DataFrame:
    frame = simulated_prices(NUM_DAYS)
    return frame[frame.ticker.isin(sorted(frame.ticker.unique())[:SIZE])]


@pytest.fixture(scope="module")
def panel(tidy: pd.DataFrame) -> PricePanel:
    return price_panel(tidy, EVERY_DAY)


def column(name: str, panel: PricePanel) -> np.ndarray:
    features = price_features(panel, TRAIN)
    return features.contexts[:, features.names.index(name)]


def test_there_are_28_numbers_a_day_and_23_without_volumes(panel: PricePanel) -> None:
    features = price_features(panel, TRAIN)
    assert features.contexts.shape == (NUM_DAYS - HISTORY - 1, 28) and len(features.names) == 28
    silent = PricePanel(panel.dates, panel.tickers, panel.close, None)
    assert price_features(silent, TRAIN).contexts.shape[1] == 23


def test_every_row_matches_the_source_by_ticker_and_date(
    tidy: pd.DataFrame, panel: PricePanel
) -> None:
    price = {(r.ticker, r.date.date()): r.adj_close for r in tidy.itertuples()}
    volume = {(r.ticker, r.date.date()): r.volume for r in tidy.itertuples()}
    days = sorted({day for _, day in price})
    features = price_features(panel, TRAIN)
    targets = target_dates(panel)

    def mean_return(day: int) -> float:
        here, before = days[day], days[day - 1]
        return float(np.mean([price[t, here] / price[t, before] - 1 for t in panel.tickers]))

    for row in (0, 1, 57, len(targets) - 1):
        today = days.index(targets[row].item()) - 1
        assert today == HISTORY + row
        for j, ticker in enumerate(panel.tickers):
            expected = price[ticker, days[today + 1]] / price[ticker, days[today]] - 1
            assert features.outcomes[row, j] == pytest.approx(expected, abs=1e-12)
        for lag in range(5):
            got = features.contexts[row, features.names.index(f"return_lag{lag}")]
            assert got == pytest.approx(mean_return(today - lag), abs=1e-12)
            here, before = days[today - lag], days[today - lag - 1]
            change = [np.log(volume[t, here] / volume[t, before]) for t in panel.tickers]
            got = features.contexts[row, features.names.index(f"volume_lag{lag}")]
            assert got == pytest.approx(np.mean(change), abs=1e-12)
        for days_back in (20, 60):
            past = [mean_return(today - lag) for lag in range(days_back)]
            mean = features.contexts[row, features.names.index(f"return_mean_{days_back}")]
            spread = features.contexts[row, features.names.index(f"volatility_{days_back}")]
            assert mean == pytest.approx(np.mean(past), abs=1e-12)
            assert spread == pytest.approx(np.std(past, ddof=1), abs=1e-12)


def test_other_aggregates_are_those_of_day_t(panel: PricePanel) -> None:
    returns = panel.returns
    for row in (0, 40):
        last = HISTORY - 1 + row
        assert column("dispersion", panel)[row] == pytest.approx(returns[last].std())
        five = returns[last - 4 : last + 1].std(axis=1).mean()
        assert column("dispersion_5", panel)[row] == pytest.approx(five)
        assert column("breadth", panel)[row] == pytest.approx((returns[last] > 0).mean())
        own = returns[last - 19 : last + 1].std(axis=0, ddof=1).mean()
        assert column("asset_volatility_20", panel)[row] == pytest.approx(own)


def test_no_target_stands_among_the_features_of_its_row(panel: PricePanel) -> None:
    features = price_features(panel, TRAIN)
    known = np.concatenate([features.contexts, panel.returns[HISTORY - 1 : -1]], axis=1)
    joint = np.corrcoef(known.T, features.outcomes.T)[: known.shape[1], known.shape[1] :]
    assert np.abs(joint).max() < 0.5
    assert not np.isclose(known[:, :, None], features.outcomes[:, None, :], atol=1e-9).any()


@pytest.mark.parametrize("day", [120, 150, NUM_DAYS - 1])
def test_prices_after_day_t_change_nothing_known_at_its_close(panel: PricePanel, day: int) -> None:
    rng = np.random.default_rng(0)
    close, volume = panel.close.copy(), panel.volume.copy()
    later = np.arange(day, NUM_DAYS)
    close[later], volume[later] = close[rng.permutation(later)] * 1.3, volume[later] * 7.0
    other = price_features(PricePanel(panel.dates, panel.tickers, close, volume), np.arange(50))
    same = price_features(panel, np.arange(50))
    known = day - HISTORY  # rows whose day t lies before `day`
    assert np.array_equal(same.contexts[:known], other.contexts[:known])
    assert np.array_equal(same.outcomes[: known - 1], other.outcomes[: known - 1])
    assert not np.allclose(same.outcomes[known - 1], other.outcomes[known - 1])


def test_components_are_fitted_on_training_rows_alone(panel: PricePanel) -> None:
    close = panel.close.copy()
    close[HISTORY + 90 :, 0] *= 3.0  # far from the 80 training rows
    other = price_features(PricePanel(panel.dates, panel.tickers, close, panel.volume), TRAIN)
    assert np.array_equal(price_features(panel, TRAIN).contexts[:80], other.contexts[:80])


def test_components_are_centred_and_uncorrelated_on_training_rows(panel: PricePanel) -> None:
    features = price_features(panel, TRAIN)
    scores = features.contexts[TRAIN][:, [n.startswith("pca_") for n in features.names]]
    covariance = np.cov(scores.T)
    assert scores.shape[1] == 10
    assert np.abs(scores.mean(axis=0)).max() < 1e-10
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-10 * covariance[0, 0]
    assert np.all(np.diff(np.diag(covariance)) <= 0)


def test_components_do_not_see_what_moves_all_assets_alike(panel: PricePanel) -> None:
    lift = np.exp(np.cumsum(np.random.default_rng(0).normal(0.0, 1e-3, NUM_DAYS)))[:, None]
    shift = lift[1:] / lift[:-1] - 1.0
    close = np.vstack([panel.close[:1], np.ones((NUM_DAYS - 1, SIZE))])
    for day in range(1, NUM_DAYS):  # the same number added to every return of a day
        close[day] = close[day - 1] * (1.0 + panel.returns[day - 1] + shift[day - 1])
    moved = PricePanel(panel.dates, panel.tickers, close, panel.volume)
    assert column("pca_0", moved) == pytest.approx(column("pca_0", panel), abs=1e-8)
    assert column("return_lag0", moved) != pytest.approx(column("return_lag0", panel), abs=1e-6)


def test_a_day_without_trade_keeps_the_last_volume() -> None:
    close = np.ones((70, 2)).cumsum(axis=0)
    volume = np.full((70, 2), 100.0)
    volume[:3, 0] = 0.0  # nothing traded yet
    volume[66, 1], volume[67:, 1] = 0.0, 200.0
    dates = np.arange("2010-01-01", "2010-03-12", dtype="datetime64[D]")
    panel = PricePanel(dates, ("A", "B"), close, volume)
    features = price_features(panel, np.arange(8))
    newest = features.contexts[:, features.names.index("volume_lag0")]
    assert newest.tolist() == pytest.approx([0, 0, 0, 0, 0, 0, 0, np.log(2.0) / 2, 0])


def test_prices_that_never_move_are_no_division_by_zero() -> None:
    dates = np.arange("2010-01-01", "2010-04-11", dtype="datetime64[D]")
    panel = PricePanel(dates, ("A", "B", "C"), np.full((100, 3), 5.0), None)
    assert not price_features(panel, np.arange(20)).contexts.any()


def test_too_short_a_history_names_what_to_widen(panel: PricePanel) -> None:
    short = PricePanel(panel.dates[:61], panel.tickers, panel.close[:61], None)
    with pytest.raises(DataError, match=r"61 days.*at least 62.*task.first_day"):
        target_dates(short)
    with pytest.raises(DataError, match=r"10 training days are too few"):
        price_features(panel, np.arange(10))
    one = PricePanel(panel.dates, ("A",), panel.close[:, :1], None)
    with pytest.raises(DataError, match=r"task.num_assets=1"):
        price_features(one, TRAIN)
