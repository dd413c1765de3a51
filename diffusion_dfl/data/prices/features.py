"""What is known at the close of a day: the contexts of the portfolio task (appendix A.11).

The paper names the ingredients (the last five days of returns and of volumes, aggregates, the
leading principal components of the last five days' return matrix) and the count, d_x = 28 at
n = 50, but no list. This one has 28 numbers at any n >= 3:

- 5 `return_lag0..4`: mean return over the assets on each of the last five days (0 is day t);
- 5 `volume_lag0..4`: mean log change of volume over the assets, the same days;
- 10 `pca_0..9`: scores of the leading principal components of the last five days' returns in
  excess of the day's mean over the assets, each asset in units of its training deviation: 5 n
  numbers a day, of which the mean is left out because it stands above already;
- 2 `dispersion`, `dispersion_5`: deviation of returns across assets, on day t and its mean over
  five days;
- 1 `breadth`: share of assets that rose on day t;
- 2 `return_mean_20`, `return_mean_60`: mean of the assets' mean return over 20 and 60 days;
- 2 `volatility_20`, `volatility_60`: its deviation over the same days;
- 1 `asset_volatility_20`: mean over the assets of their own deviation over 20 days.

Without volumes the five of them are left out (23 numbers). Nothing is scaled across time here: a
predictor standardises with the statistics of its training rows, and the principal components are
fitted on training rows alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.data.prices.panel import PricePanel

Array = NDArray[np.float64]

NUM_LAGS = 5
NUM_COMPONENTS = 10
SHORT_WINDOW, LONG_WINDOW = 20, 60
# Rows need this many returns of history, day t's own among them.
HISTORY = LONG_WINDOW


@dataclass(frozen=True, eq=False)
class PriceFeatures:
    """Rows of the portfolio task: row i pairs the close of day t with the return of day t + 1.

    Attributes:
        contexts: (N, d_x), known at the close of day t = HISTORY + i of the panel.
        outcomes: (N, n), return of each ticker from day t to day t + 1, a fraction.
        names: d_x names.
    """

    contexts: Array
    outcomes: Array
    names: tuple[str, ...]


def target_dates(panel: PricePanel) -> NDArray[np.datetime64]:
    """(N,) day t + 1 of every row: the day its outcome belongs to.

    Raises DataError where the panel is too short to have a row.
    """
    if len(panel.dates) < HISTORY + 2:
        raise DataError(
            f"prices: {len(panel.dates)} days; a row looks back on {HISTORY} returns and forward "
            f"on one, so at least {HISTORY + 2} days are needed: widen task.first_day and "
            "task.last_day (data.num_days for data=simulated)."
        )
    return panel.dates[HISTORY + 1 :]


def price_features(panel: PricePanel, train: NDArray[np.int64]) -> PriceFeatures:
    """Contexts and outcomes of all N = T - 61 rows.

    Args:
        panel: T days of n >= 2 tickers.
        train: rows the principal components are fitted on.

    Raises:
        DataError: too few days, too few training rows, or fewer than two tickers.
    """
    num_rows = len(target_dates(panel))
    returns = panel.returns
    if returns.shape[1] < 2:
        raise DataError("task.num_assets=1: a portfolio chooses between assets; take at least 2.")
    # Row i of every column below ends with return HISTORY - 1 + i, which is that of day t.
    columns: dict[str, Array] = {}
    market = returns.mean(axis=1)
    columns.update(_lags("return", market, num_rows))
    if panel.volume is not None:
        columns.update(_lags("volume", _log_changes(panel.volume).mean(axis=1), num_rows))
    scores = _principal_scores(returns - market[:, None], num_rows, train)
    columns.update({f"pca_{k}": scores[:, k] for k in range(scores.shape[1])})
    dispersion = returns.std(axis=1)
    columns["dispersion"] = _window(dispersion, 1, num_rows)[:, 0]
    columns["dispersion_5"] = _window(dispersion, NUM_LAGS, num_rows).mean(axis=1)
    columns["breadth"] = _window((returns > 0).mean(axis=1), 1, num_rows)[:, 0]
    for days in (SHORT_WINDOW, LONG_WINDOW):
        past = _window(market, days, num_rows)
        columns[f"return_mean_{days}"] = past.mean(axis=1)
        columns[f"volatility_{days}"] = past.std(axis=1, ddof=1)
    own = _window(returns, SHORT_WINDOW, num_rows).std(axis=-1, ddof=1)
    columns[f"asset_volatility_{SHORT_WINDOW}"] = own.mean(axis=1)
    return PriceFeatures(
        contexts=np.column_stack(list(columns.values())),
        outcomes=returns[HISTORY:].copy(),
        names=tuple(columns),
    )


def _window(series: Array, days: int, num_rows: int) -> Array:
    """The last `days` values up to day t of every row: (N, days), or (N, n, days) for (T - 1, n).

    Windows of returns [i, i + days) end before i + days; the row of day t needs the one that ends
    with return HISTORY - 1 + i, so the first HISTORY - days windows are too early.
    """
    windows = np.lib.stride_tricks.sliding_window_view(series, days, axis=0)
    result: Array = windows[HISTORY - days : HISTORY - days + num_rows]
    return result


def _lags(name: str, series: Array, num_rows: int) -> dict[str, Array]:
    past = _window(series, NUM_LAGS, num_rows)
    return {f"{name}_lag{lag}": past[:, NUM_LAGS - 1 - lag] for lag in range(NUM_LAGS)}


def _log_changes(volume: Array) -> Array:
    """(T - 1, n) log change of volume from day to day.

    A day without trade keeps the last volume that was traded, so its own change is zero; the same
    holds as long as nothing has been traded yet.
    """
    known = np.where(volume > 0, np.arange(len(volume))[:, None], -1)
    last = np.maximum.accumulate(known, axis=0)
    filled = np.take_along_axis(volume, np.maximum(last, 0), axis=0)
    level = np.log(np.where(last >= 0, filled, 1.0))
    return np.where(last[:-1] >= 0, np.diff(level, axis=0), 0.0)


def _principal_scores(excess: Array, num_rows: int, train: NDArray[np.int64]) -> Array:
    """(N, k) scores of the five-day windows of excess returns; k = min(10, 5 (n - 1)).

    Excess returns sum to zero on every day, so n - 1 numbers a day are free. Signs are fixed by
    the largest loading of each component, which is positive.
    """
    size = excess.shape[1]
    components = min(NUM_COMPONENTS, NUM_LAGS * (size - 1))
    if len(train) <= components:
        raise DataError(
            f"prices: {len(train)} training days are too few for {components} principal "
            "components; set task.first_day earlier or task.validation_start later."
        )
    windows = _window(excess, NUM_LAGS, num_rows)
    scale = windows[train, :, -1].std(axis=0)
    flat = (windows / np.where(scale > 0, scale, 1.0)[:, None]).reshape(num_rows, -1)
    centred = flat - flat[train].mean(axis=0)
    _, _, axes = np.linalg.svd(centred[train], full_matrices=False)
    axes = axes[:components]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    scores: Array = centred @ (axes * np.sign(largest)).T
    return scores
