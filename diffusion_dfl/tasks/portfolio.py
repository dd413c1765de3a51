"""Mean-variance portfolio of stocks, one day ahead (sections 6.3 and A.11), sound protocol.

The headline number is the paper's: the mean over days of the return ``y'z`` in percent, where y
are the next day's returns and z the weights chosen the evening before. Nothing is compounded and
no cost of trading is taken off.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_dfl.data.portfolio import PortfolioDataset, portfolio_dataset
from diffusion_dfl.programs import MeanVariancePortfolio
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks.task import Judgement, Task

Array = NDArray[np.float64]

TRADING_DAYS_A_YEAR = 252
# Two-sided 95 % of the normal distribution.
_NORMAL_95 = 1.959963984540054
_RIDGE_PENALTIES = np.logspace(-1, 7, 33)


def portfolio_task(
    source: str,
    rng: np.random.Generator,
    *,
    num_assets: int = 50,
    risk_aversion: float = 10.0,
    first_day: str | None = None,
    last_day: str | None = None,
    validation_start: str | None = None,
    test_start: str | None = None,
    strict: bool = True,
    exclude: Sequence[str] = (),
    root: str | None = None,
    url: str | None = None,
    directory: str = "data",
    file: str | None = None,
    num_days: int = 1200,
) -> "PortfolioTask":
    """Program and data of ``task=portfolio``.

    Args:
        source: ``sp500`` (``real`` is its other name), ``skfolio``, ``csv``, ``quandl``,
            ``simulated``.
        rng: stream that draws the assets.
        num_assets: n, assets drawn by the seed; the same for every phase and method.
        risk_aversion: alpha of the mean-variance objective, in units of 1/return.
        first_day: first day of the prices used; null: 2004-01-01, or a file's first.
        last_day: last day of the prices used; null: 2017-12-29, or a file's last.
        validation_start: training ends before it; null: 2013-07-01, or 70 % into a file.
        test_start: first day of the test; null: 2015-01-01, or 80 % into a file.
        root, url, directory, file, num_days: see there.
        strict: sp500 only: draw from the tickers that agree with a second vendor.
        exclude: tickers never drawn, e.g. [AIG,HIG].

    Raises:
        DataError: see there.
    """
    dataset = portfolio_dataset(
        source,
        rng,
        num_assets=num_assets,
        first_day=first_day,
        last_day=last_day,
        validation_start=validation_start,
        test_start=test_start,
        strict=strict,
        exclude=exclude,
        root=root,
        url=url,
        directory=directory,
        file=file,
        num_days=num_days,
    )
    return PortfolioTask(dataset, MeanVariancePortfolio(num_assets, risk_aversion))


class PortfolioTask(Task):
    """Portfolios judged by the return they made, and by what it cost in risk.

    Metrics beside ``task``, all over the days that have a decision; percent means percent of the
    capital a day, and None stands where there are too few days:

    - ``interval_95``: normal interval of the mean return over days, ``mean -+ 1.96 sd / sqrt(N)``,
      percent. Daily returns have next to no autocorrelation, so blocks would add nothing;
    - ``mean_variance``: mean of ``f(y, z) = alpha/2 (y'z)^2 - y'z``, percent, lower is better;
    - ``volatility``: standard deviation of the daily return, percent;
    - ``sharpe``: mean over standard deviation times sqrt(252), no riskless rate taken off;
    - ``turnover``: mean of ``sum_i |z_t,i - z_t-1,i|`` over days whose neighbour is there too
      (0 never trades, 2 sells everything); the drift of the weights between is left out;
    - ``hindsight_return``: mean return of the day's best asset, percent: perfect foresight;
    - ``hindsight_regret``: mean of ``f(y, z) - min_z' f(y, z')``, percent: what the best decision
      for the same day's returns would have done better (closed form, see `hindsight_cost`).
    """

    name = "portfolio"
    higher_is_better = True
    dataset: PortfolioDataset
    program: MeanVariancePortfolio

    def __init__(self, dataset: PortfolioDataset, program: MeanVariancePortfolio) -> None:
        self.dataset, self.program = dataset, program
        self.assets = dataset.assets

    def judge(self, rows: NDArray[np.int64], decisions: NDArray[np.float64]) -> Judgement:
        outcomes = self.dataset.outcomes[rows]
        gains = (outcomes * decisions).sum(axis=1)
        made = np.isfinite(gains)
        cost = self.program.cost(torch.as_tensor(outcomes), torch.as_tensor(decisions)).numpy()
        best = hindsight_cost(outcomes, self.program.risk_aversion)
        percent = 100.0 * gains[made]
        count = len(percent)
        metrics: dict[str, Any] = {
            "mean_variance": _mean(100.0 * cost[made]),
            "hindsight_return": _mean(100.0 * outcomes[made].max(axis=1)),
            "hindsight_regret": _mean(100.0 * (cost - best)[made]),
            "turnover": _mean(_turnover(rows, decisions)),
            "interval_95": None,
            "volatility": None,
            "sharpe": None,
        }
        if count > 1:
            mean, deviation = float(percent.mean()), float(percent.std(ddof=1))
            half = _NORMAL_95 * deviation / count**0.5
            metrics["interval_95"] = [mean - half, mean + half]
            metrics["volatility"] = deviation
            if deviation > 0:
                metrics["sharpe"] = mean / deviation * TRADING_DAYS_A_YEAR**0.5
        return Judgement(100.0 * gains, metrics)

    @property
    def decision_names(self) -> tuple[str, ...]:
        return self.assets

    def baselines(self) -> dict[str, NDArray[np.float64]]:
        """Plain portfolios on the test days, made from all days before them.

        - ``equal_weight``: 1/n of everything;
        - ``saa_train``: the program solved once, with all of them as scenarios;
        - ``ridge``: a linear forecast of every asset's return from the contexts, and the program
          solved each day with the forecast plus the residuals as scenarios;
        - ``ridge_argmax``: everything on the asset of the largest forecast.
        """
        data = self.dataset
        days, size = len(data.test), self.program.num_decisions
        forecast, residuals = ridge_forecast(data, data.known)
        one_hot = np.zeros((days, size))
        one_hot[np.arange(days), forecast.argmax(axis=1)] = 1.0
        pooled = self._solve(data.outcomes[data.known][None])
        return {
            "equal_weight": np.full((days, size), 1.0 / size),
            "saa_train": np.repeat(pooled, days, axis=0),
            "ridge": self._solve(forecast[:, None, :] + moment_scenarios(residuals)),
            "ridge_argmax": one_hot,
        }

    def _solve(self, scenarios: Array) -> Array:
        decision: Array = solve(self.program, torch.as_tensor(scenarios)).decision.numpy()
        return decision


def hindsight_cost(outcomes: Array, risk_aversion: float) -> Array:
    """``min_z f(y, z)`` over the simplex for each row of returns, ``(N, n) -> (N,)``.

    For one scenario f depends on the return r = y'z alone, and portfolios reach every r between
    the worst and the best asset's: the optimum is ``r = 1/alpha``, cut off at these two.
    """
    wanted = 1.0 / risk_aversion if risk_aversion > 0 else np.inf
    reached = np.clip(wanted, outcomes.min(axis=1), outcomes.max(axis=1))
    result: Array = 0.5 * risk_aversion * reached**2 - reached
    return result


def ridge_forecast(data: PortfolioDataset, rows: NDArray[np.int64]) -> tuple[Array, Array]:
    """Ridge regression of all assets' returns on the contexts, fitted on ``rows``.

    Contexts are standardised and returns centred with these rows. One penalty for all assets,
    the one with the least leave-one-out squared error, from its closed form
    ``e_i / (1 - H_ii)`` with the hat matrix H of the rows.

    Returns:
        forecasts of the test rows ``(N_test, n)`` and residuals of ``rows`` ``(N, n)``.
    """
    known = data.contexts[rows]
    centre, scale = known.mean(axis=0), known.std(axis=0)
    standard = (data.contexts - centre) / np.where(scale > 0, scale, 1.0)
    mean = data.outcomes[rows].mean(axis=0)
    target = data.outcomes[rows] - mean
    left, size, right = np.linalg.svd(standard[rows], full_matrices=False)
    projected = left.T @ target

    def score(penalty: float) -> float:
        shrink = size**2 / (size**2 + penalty)
        # The mean is fitted too: it takes 1/N of every row's leverage.
        leverage = (left**2) @ shrink + 1.0 / len(left)
        residual = target - (left * shrink) @ projected
        return float(((residual / (1.0 - leverage)[:, None]) ** 2).mean())

    penalty = min(_RIDGE_PENALTIES, key=score)
    weights = right.T @ ((size / (size**2 + penalty))[:, None] * projected)
    fitted = standard @ weights + mean
    return fitted[data.test], data.outcomes[rows] - fitted[rows]


def moment_scenarios(residuals: Array) -> Array:
    """2 n equally likely scenarios with mean zero and the residuals' second moment, ``(2n, n)``.

    The program is quadratic in y, so two moments are all it sees: ``+- sqrt(n) l_k`` over the
    columns of a root ``L L' = E[e e']`` decides exactly as all residuals would (whose mean is zero,
    since the forecast has an intercept), at a fiftieth of the size.
    """
    moment = residuals.T @ residuals / len(residuals)
    values, vectors = np.linalg.eigh(moment)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))).T * len(values) ** 0.5
    return np.concatenate([root, -root])


def _turnover(rows: NDArray[np.int64], decisions: Array) -> Array:
    """``sum_i |z_t,i - z_t-1,i|`` of every judged day whose predecessor is judged too."""
    order = np.argsort(rows)
    change = np.abs(np.diff(decisions[order], axis=0)).sum(axis=1)
    neighbours = np.diff(rows[order]) == 1
    kept: Array = change[neighbours & np.isfinite(change)]
    return kept


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None
