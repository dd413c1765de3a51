"""Mean-variance portfolio as the paper's released code runs it (section 6.3, appendix A.11).

The data are those of :mod:`diffusion_dfl.data.released_portfolio`; in their symbol-major layout a
linear model earns 4 % a "day". With ``alpha = 1e-6`` the program is a linear one: everything goes
on the asset whose mean scenario is largest, and the decision has no gradient. Forecasters are
fitted on one draw of assets and judged on another (``subset_mismatch``), which is why, in the
release, only what is trained again on the second draw profits from the leak.
"""

import numpy as np
from numpy.typing import NDArray

from diffusion_dfl.data.portfolio import PortfolioDataset
from diffusion_dfl.data.released_portfolio import (
    draw_assets,
    released_portfolio_dataset,
    released_prices,
)
from diffusion_dfl.programs import MeanVariancePortfolio
from diffusion_dfl.tasks.portfolio import PortfolioTask, moment_scenarios

Array = NDArray[np.float64]

#: Of the ridge baselines: fixed, so that a switch moves them through the data alone.
RIDGE_PENALTY = 1e4


def released_portfolio_task(
    source: str,
    rng: np.random.Generator,
    *,
    num_assets: int = 50,
    risk_aversion: float = 1e-6,
    symbol_major: bool = True,
    subset_mismatch: bool = True,
    statistics_of_test_days: bool = True,
    first_day: str = "2004-01-01",
    last_day: str = "2016-12-30",
    longest_window: int = 365,
    root: str | None = None,
    url: str | None = None,
    directory: str = "data",
    num_days: int = 1200,
) -> "ReleasedPortfolioTask":
    """Program and data of ``task=portfolio_released``; the defaults are the release.

    Args:
        source: ``sp500`` (``real`` is its other name) or ``simulated``.
        rng: stream that draws the assets, first those of the task, then those of the fit.
        num_assets: n, assets drawn by the seed.
        risk_aversion: alpha: the program is a linear one.
        symbol_major: the layout that leaks; false: day by day.
        subset_mismatch: the two-stage fit has other assets than everything after it.
        statistics_of_test_days: features are standardised with all rows.
        root, url, directory, num_days: see
            :func:`diffusion_dfl.data.released_portfolio.released_prices`.
        first_day: first day of the prices used.
        last_day: last day of the prices used.
        longest_window: rows of the longest feature; lower it for short histories.

    Raises:
        DataError: see there.
    """
    prices = released_prices(
        source,
        first_day=first_day,
        last_day=last_day,
        longest_window=longest_window,
        root=root,
        url=url,
        directory=directory,
        num_days=num_days,
    )
    drawn = [draw_assets(prices, num_assets, rng) for _ in range(2 if subset_mismatch else 1)]
    datasets = [
        released_portfolio_dataset(
            prices,
            source,
            columns,
            symbol_major=symbol_major,
            statistics_of_test_days=statistics_of_test_days,
        )
        for columns in drawn
    ]
    program = MeanVariancePortfolio(num_assets, risk_aversion)
    return ReleasedPortfolioTask(datasets[0], program, datasets[-1])


class ReleasedPortfolioTask(PortfolioTask):
    """Portfolios judged by the return of their row, as those of ``task=portfolio``.

    Attributes:
        fit_dataset: what forecasters are fitted on: ``dataset``, or one of other assets.
    """

    name = "portfolio_released"
    fit_dataset: PortfolioDataset

    def __init__(
        self,
        dataset: PortfolioDataset,
        program: MeanVariancePortfolio,
        fit_dataset: PortfolioDataset | None = None,
    ) -> None:
        super().__init__(dataset, program)
        self.fit_dataset = fit_dataset or dataset

    def baselines(self) -> dict[str, Array]:
        """Plain portfolios on the test rows.

        - ``equal_weight``: 1/n of everything;
        - ``ridge_argmax``: everything on the asset of the largest ridge forecast, fitted on the
          training rows of the task's assets;
        - ``ridge_argmax_fit``: the same, fitted on the assets of the two-stage fit;
        - ``saa_train``: the program solved once, with all training rows as scenarios;
        - ``ridge``: the program solved with the first forecast plus the training residuals.
        """
        forecast, residuals = penalised_forecast(self.dataset, self.dataset)
        other, _ = penalised_forecast(self.fit_dataset, self.dataset)
        days, size = forecast.shape
        pooled = self._solve(self.dataset.outcomes[self.dataset.train][None])
        return {
            "equal_weight": np.full((days, size), 1.0 / size),
            "ridge_argmax": _argmax(forecast),
            "ridge_argmax_fit": _argmax(other),
            "saa_train": np.repeat(pooled, days, axis=0),
            "ridge": self._solve(forecast[:, None, :] + moment_scenarios(residuals)),
        }


def penalised_forecast(
    fitted: PortfolioDataset, judged: PortfolioDataset, penalty: float = RIDGE_PENALTY
) -> tuple[Array, Array]:
    """Ridge regression of returns on the contexts as they are, less their training means.

    Args:
        fitted: its training rows give ``W = (X'X + penalty I)^-1 X'Y``.
        judged: its test rows are forecast.
        penalty: on features in units of their deviation.

    Returns:
        forecasts of the test rows ``(N_test, n)`` and residuals of the training rows
        ``(N_train, n)``.
    """
    contexts, outcomes = fitted.contexts[fitted.train], fitted.outcomes[fitted.train]
    centre, mean = contexts.mean(axis=0), outcomes.mean(axis=0)
    inputs, targets = contexts - centre, outcomes - mean
    gram = inputs.T @ inputs
    gram[np.diag_indices_from(gram)] += penalty
    weights = np.linalg.solve(gram, inputs.T @ targets)
    forecast: Array = (judged.contexts[judged.test] - centre) @ weights + mean
    return forecast, targets - inputs @ weights


def _argmax(forecast: Array) -> Array:
    one_hot = np.zeros_like(forecast)
    one_hot[np.arange(len(forecast)), forecast.argmax(axis=1)] = 1.0
    return one_hot
