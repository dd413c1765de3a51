"""Prices as the paper's released code prepares them (section 6.3, appendix A.11), leak included.

The release makes 28 features an asset and stacks them asset by asset: all days of the first ticker,
then all days of the second. It then reads this table as if it were stacked day by day. With N
tickers its "sample i" is rows i N .. i N + N - 1, that is N *consecutive days of one ticker*, and
its "asset j" is the j-th of these days. So the outcome of an asset, the next day's return, is the
feature "return of the day" of the asset after it: a linear model of the features finds the outcome.
Its split by time is then one by the alphabet.

``symbol_major=False`` reads the same table day by day.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import DataError, require
from diffusion_dfl.data.portfolio import PortfolioDataset, _day
from diffusion_dfl.data.prices import (
    EVERY_DAY,
    PricePanel,
    PriceSource,
    SimulatedPrices,
    Sp500Prices,
    Window,
    price_panel,
    report_jumps,
)
from diffusion_dfl.data.prices.sources import SP500_URL

Array = NDArray[np.float64]

NUM_LAGS = 10
#: Days of price history of the longest feature, and of the returns that no method reads but that
#: every row must have.
LONGEST_WINDOW, LONGEST_LEAD = 365, 10
CHANGE_WINDOWS = (120, 30, 7)
LEVEL_WINDOWS = (120, 30, 7, 3)
RETURN_WINDOW = 7
TRAIN_SHARE, VALIDATION_SHARE = 0.7, 0.1
_NEAR_ZERO = 1e-5


@dataclass(frozen=True, eq=False)
class ReleasedPrices:
    """All tickers' features and next-day returns, made once and laid out for any choice of assets.

    Attributes:
        panel: N tickers on T days.
        longest_window: days of history before the first row.
    """

    panel: PricePanel
    longest_window: int = LONGEST_WINDOW

    @property
    def num_rows(self) -> int:
        """Days with a full history and ten more days after them."""
        return len(self.panel.dates) - self.longest_window - LONGEST_LEAD

    @property
    def dates(self) -> NDArray[np.datetime64]:
        """(rows,) the day each next-day return belongs to, read day by day."""
        start = self.longest_window + 1
        return self.panel.dates[start : start + self.num_rows]

    def assets(self, columns: NDArray[np.int64], symbol_major: bool) -> tuple[Array, Array]:
        """Features ``(rows, n, 28)`` and next-day returns ``(rows, n)`` of the chosen columns."""
        rows = slice(self.longest_window, self.longest_window + self.num_rows)
        unknown = np.full_like(self.panel.close[:1], np.nan)
        returns = np.vstack([unknown, self.panel.returns])
        ahead = np.vstack([self.panel.returns, unknown])
        parts = [
            lay_out(table[rows], symbol_major)[:, columns]
            for table in asset_features(self.panel.close, returns, self.longest_window)
        ]
        return np.stack(parts, axis=2), lay_out(ahead[rows], symbol_major)[:, columns]


def lay_out(table: Array, symbol_major: bool) -> Array:
    """A table of days x tickers as samples x assets.

    Day by day it stays as it is. ``symbol_major`` is the release's mistake: the ticker's columns
    joined end to end and cut into rows as long as there are tickers.
    """
    return table.T.reshape(table.shape) if symbol_major else table


def asset_features(close: Array, returns: Array, longest: int) -> Iterator[Array]:
    """The 28 features of every day and ticker, ``(T, N)`` each, NaN where history is short.

    In this order: return of the day; returns of the ten days before; change of the price over 365
    (``longest``), 120, 30 and 7 rows; mean and variance of 7 returns; mean and variance of the
    price over 365, 120, 30, 7 and 3 rows; the price.
    """
    price, change = pd.DataFrame(close), pd.DataFrame(returns)
    for lag in range(NUM_LAGS + 1):
        yield change.shift(lag).to_numpy()
    for days in (longest, *CHANGE_WINDOWS):
        yield price.pct_change(days, fill_method=None).to_numpy()
    yield change.rolling(RETURN_WINDOW).mean().to_numpy()
    yield change.rolling(RETURN_WINDOW).var().to_numpy()
    for days in (longest, *LEVEL_WINDOWS):
        yield price.rolling(days).mean().to_numpy()
        yield price.rolling(days).var().to_numpy()
    yield close


def feature_names(longest: int) -> tuple[str, ...]:
    """Names of the 28 features, in order."""
    return (
        *(f"return_lag{lag}" for lag in range(NUM_LAGS + 1)),
        *(f"change_{days}" for days in (longest, *CHANGE_WINDOWS)),
        f"return_mean_{RETURN_WINDOW}",
        f"return_variance_{RETURN_WINDOW}",
        *(
            f"price_{statistic}_{days}"
            for days in (longest, *LEVEL_WINDOWS)
            for statistic in ("mean", "variance")
        ),
        "price",
    )


def released_prices(
    source: str,
    *,
    first_day: str = "2004-01-01",
    last_day: str = "2016-12-30",
    longest_window: int = LONGEST_WINDOW,
    root: str | Path | None = None,
    url: str | None = None,
    directory: str | Path = "data",
    num_days: int = 1200,
) -> ReleasedPrices:
    """Prices of all tickers of a source, for any choice of assets.

    Args:
        source: "sp500" (or "real"), 392 tickers, or "simulated", 100.
        first_day, last_day: of the prices used; not read by "simulated".
        longest_window: rows of the longest feature (the release: 365), more than 120.
        root, url, directory: see :class:`diffusion_dfl.data.prices.Sp500Prices`.
        num_days: simulated days.

    Raises:
        DataError: another source, files that cannot be had, or too few days.
    """
    known = "the release has a symbol's whole history; use sp500 or simulated"
    require(source in ("sp500", "real", "simulated"), "data", source, known)
    require(
        longest_window > max(CHANGE_WINDOWS),
        "task.longest_window",
        longest_window,
        f"take more than {max(CHANGE_WINDOWS)} days; the release has {LONGEST_WINDOW}",
    )
    prices: PriceSource = SimulatedPrices(num_days)
    window = EVERY_DAY
    if source != "simulated":
        folder = Path(root) if root else None
        prices = Sp500Prices(folder, url or SP500_URL, Path(directory), strict=False)
        window = Window(_day("task.first_day", first_day), _day("task.last_day", last_day))
    panel = price_panel(prices.frame(prices.tickers()), window)
    report_jumps(panel)
    made = ReleasedPrices(panel, longest_window)
    if made.num_rows < 10:
        raise DataError(
            f"prices: {len(panel.dates)} days leave {max(0, made.num_rows)} rows after "
            f"{longest_window} of history and {LONGEST_LEAD} ahead; widen task.first_day and "
            "task.last_day, lower task.longest_window, or raise data.num_days for data=simulated."
        )
    return made


def draw_assets(
    prices: ReleasedPrices, num_assets: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Columns of ``num_assets`` assets, drawn without replacement, in the order drawn.

    Raises:
        DataError: fewer than 2, or more than there are.
    """
    tickers = len(prices.panel.tickers)
    require(
        2 <= num_assets <= tickers,
        "task.num_assets",
        num_assets,
        f"the source has {tickers} tickers; take 2 to {tickers}",
    )
    return rng.choice(tickers, size=num_assets, replace=False)


def released_portfolio_dataset(
    prices: ReleasedPrices,
    source: str,
    columns: NDArray[np.int64],
    *,
    symbol_major: bool = True,
    statistics_of_test_days: bool = True,
) -> PortfolioDataset:
    """Contexts ``(rows, 28 n)`` and next-day returns ``(rows, n)`` of some assets.

    The first 70 % of the rows are for training, the next 10 % for validation. Each of the 28
    features is standardised once for all assets, ``(x - mean) / (deviation + 1e-5)``; returns are
    raw.

    Args:
        prices: of all tickers.
        source: as given to :func:`released_prices`.
        columns: assets, as :func:`draw_assets` has them.
        symbol_major: read the table of tickers as if it were one of days. Rows and assets then
            belong to no day and no ticker.
        statistics_of_test_days: standardise with all rows; False: with training rows.
    """
    features, outcomes = prices.assets(columns, symbol_major)
    rows = len(features)
    edges = np.cumsum([int(TRAIN_SHARE * rows), int(VALIDATION_SHARE * rows)])
    known = features if statistics_of_test_days else features[: edges[0]]
    centre, deviation = known.mean(axis=(0, 1)), known.std(axis=(0, 1))
    standard = (features - centre) / (deviation + _NEAR_ZERO)
    tickers = tuple(prices.panel.tickers[column] for column in columns)
    assets = tuple(f"column {column}" for column in columns) if symbol_major else tickers
    names = feature_names(prices.longest_window)
    train, validation, test = np.split(np.arange(rows), edges)
    return PortfolioDataset(
        name="portfolio_released",
        source="simulated" if source == "simulated" else "real",
        contexts=standard.reshape(rows, -1),
        outcomes=outcomes,
        dates=None if symbol_major else prices.dates,
        feature_names=tuple(f"{asset} {name}" for asset in assets for name in names),
        train=train,
        validation=validation,
        test=test,
        price_source="sp500" if source == "real" else source,
        assets=assets,
    )
