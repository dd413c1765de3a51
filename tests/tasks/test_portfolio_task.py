"""`task=portfolio`: what a portfolio is judged by, its baselines, and the published numbers."""

from __future__ import annotations

import os
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from diffusion_dfl.data.portfolio import PortfolioDataset
from diffusion_dfl.programs import MeanVariancePortfolio
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks.portfolio import (
    PortfolioTask,
    hindsight_cost,
    moment_scenarios,
    portfolio_task,
    ridge_forecast,
)

CONF = Path(__file__).parents[2] / "conf"
REAL_ROOT = os.environ.get("DIFFUSION_DFL_DATA", "")


@cache
def simulated(size: int = 6, days: int = 400, seed: int = 0) -> PortfolioTask:
    return portfolio_task("simulated", np.random.default_rng(seed), num_assets=size, num_days=days)


def random_decisions(task: PortfolioTask, rows: np.ndarray, seed: int = 0) -> np.ndarray:
    size = task.program.num_decisions
    return np.random.default_rng(seed).dirichlet(np.ones(size), size=len(rows))


def table(outcomes: np.ndarray, contexts: np.ndarray | None = None, test: int = 4) -> PortfolioTask:
    """A task from a table of returns; the last rows are the test days."""
    days, size = outcomes.shape
    contexts = np.zeros((days, 1)) if contexts is None else contexts
    rows = np.arange(days)
    data = PortfolioDataset(
        name="portfolio",
        source="simulated",
        contexts=contexts,
        outcomes=outcomes,
        dates=np.datetime64("2010-01-01", "D") + rows,
        feature_names=tuple(f"x{k}" for k in range(contexts.shape[1])),
        train=rows[: days - test - 2],
        validation=rows[days - test - 2 : days - test],
        test=rows[days - test :],
        price_source="simulated",
        assets=tuple(f"A{k}" for k in range(size)),
    )
    return PortfolioTask(data, MeanVariancePortfolio(size))


class TestConfiguration:
    def test_the_configured_address_is_the_built_in_one(self) -> None:
        from diffusion_dfl.data.prices.quandl import QUANDL_URL

        assert OmegaConf.load(CONF / "data/sp500.yaml").url is None  # the pinned one
        assert OmegaConf.load(CONF / "data/quandl.yaml").url == QUANDL_URL

    def test_program_and_data_fit(self) -> None:
        task = simulated()
        assert (task.name, task.higher_is_better, task.pooled) == ("portfolio", True, False)
        assert task.program == MeanVariancePortfolio(6, risk_aversion=10.0)
        assert task.dataset.outcomes.shape[1] == 6 == len(task.assets)


class TestJudge:
    def test_task_is_the_mean_return_in_percent(self) -> None:
        task = table(np.array([[0.01, -0.02]] * 8))
        decisions = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
        judged = task.judge(task.dataset.test, decisions)
        assert judged.per_row == pytest.approx([1.0, -2.0, -0.5, 1.0])
        assert judged.task == pytest.approx(-0.125)

    def test_metrics_are_their_definitions(self) -> None:
        task = simulated()
        rows = task.dataset.test
        z, y = random_decisions(task, rows), task.dataset.outcomes[task.dataset.test]
        got = task.judge(rows, z).metrics
        gain = pd.Series([float(a @ b) for a, b in zip(y, z, strict=True)])
        half = 1.96 * gain.std() / np.sqrt(len(gain))
        assert got["volatility"] == pytest.approx(100 * gain.std())
        assert got["sharpe"] == pytest.approx(gain.mean() / gain.std() * np.sqrt(252))
        assert got["interval_95"] == pytest.approx(
            [100 * (gain.mean() - half), 100 * (gain.mean() + half)], rel=1e-4
        )
        assert got["mean_variance"] == pytest.approx(100 * (5.0 * gain**2 - gain).mean())
        assert got["turnover"] == pytest.approx(np.abs(z[1:] - z[:-1]).sum(axis=1).mean())
        assert got["hindsight_return"] == pytest.approx(100 * y.max(axis=1).mean())

    def test_numbers_do_not_depend_on_the_order_of_the_rows(self) -> None:
        task = simulated()
        rows, z = task.dataset.test, random_decisions(task, task.dataset.test)
        order = np.random.default_rng(1).permutation(len(rows))
        one, two = task.judge(rows, z).metrics, task.judge(rows[order], z[order]).metrics
        assert {k: pytest.approx(v) for k, v in one.items()} == dict(two)

    def test_a_decision_that_was_not_made_counts_in_no_number(self) -> None:
        task = simulated()
        rows, z = task.dataset.test, random_decisions(task, task.dataset.test)
        holes = z.copy()
        holes[[0, 10, 11]] = np.nan
        judged = task.judge(rows, holes)
        assert np.isnan(judged.per_row).sum() == 3
        kept = np.delete(np.arange(len(rows)), [0, 10, 11])
        same = task.judge(rows[kept], z[kept])
        assert judged.task == pytest.approx(same.task)
        assert {k: pytest.approx(v) for k, v in judged.metrics.items()} == dict(same.metrics)

    def test_turnover_is_0_for_one_portfolio_and_2_for_selling_everything(self) -> None:
        task = simulated()
        rows = task.dataset.test
        still = np.eye(6)[np.zeros(len(rows), dtype=int)]
        restless = np.eye(6)[np.arange(len(rows)) % 2]
        assert task.judge(rows, still).metrics["turnover"] == 0.0
        assert task.judge(rows, restless).metrics["turnover"] == pytest.approx(2.0)

    def test_a_single_day_has_no_spread(self) -> None:
        task = simulated()
        rows = task.dataset.test[:1]
        metrics = task.judge(rows, random_decisions(task, rows)).metrics
        assert [metrics[k] for k in ("volatility", "sharpe", "interval_95", "turnover")] == [
            None
        ] * 4

    @pytest.mark.parametrize("alpha", [0.0, 1.0, 10.0, 100.0, 1000.0])
    def test_hindsight_is_what_the_program_finds_for_the_day_itself(self, alpha: float) -> None:
        outcomes = np.random.default_rng(0).normal(0.0, 0.02, (200, 5))
        program = MeanVariancePortfolio(5, alpha)
        y = torch.as_tensor(outcomes)
        solution = solve(program, y.unsqueeze(1))
        expected = program.cost(y, solution.decision).numpy()
        assert hindsight_cost(outcomes, alpha) == pytest.approx(expected, abs=1e-8)

    def test_hindsight_regret_is_zero_in_hindsight_and_positive_otherwise(self) -> None:
        task = simulated()
        rows = task.dataset.test
        y = torch.as_tensor(task.dataset.outcomes[rows])
        best = solve(task.program, y.unsqueeze(1)).decision.numpy()
        assert task.judge(rows, best).metrics["hindsight_regret"] == pytest.approx(0.0, abs=1e-6)
        other = random_decisions(task, rows)
        assert task.judge(rows, other).metrics["hindsight_regret"] > 0.1


class TestBaselines:
    def test_all_are_portfolios_on_the_test_days(self) -> None:
        task = simulated()
        baselines = task.baselines()
        assert set(baselines) == {"equal_weight", "saa_train", "ridge", "ridge_argmax"}
        for decisions in baselines.values():
            assert decisions.shape == (len(task.dataset.test), 6)
            assert decisions.min() >= -1e-9
            assert decisions.sum(axis=1) == pytest.approx(1.0, abs=1e-8)

    def test_saa_is_best_among_fixed_portfolios_on_the_days_before_the_test(self) -> None:
        task = simulated()
        rows = task.dataset.known
        fixed = task.baselines()["saa_train"][0]
        assert np.ptp(task.baselines()["saa_train"], axis=0).max() == 0.0

        def cost(z: np.ndarray) -> float:
            value = task.judge(rows, np.tile(z, (len(rows), 1))).metrics["mean_variance"]
            return float(value)

        for z in random_decisions(task, np.arange(50)):
            assert cost(fixed) <= cost(z) + 1e-9

    def test_baselines_see_every_day_before_the_test_and_none_of_it(self) -> None:
        rng = np.random.default_rng(0)
        outcomes, contexts = rng.normal(0, 0.02, (80, 4)), rng.normal(size=(80, 3))
        one = table(outcomes, contexts, test=10).baselines()
        outcomes = outcomes.copy()
        outcomes[70:] = rng.normal(0, 0.5, (10, 4))
        two = table(outcomes, contexts, test=10).baselines()
        assert all(np.array_equal(one[name], two[name]) for name in one)
        outcomes[69] = 0.5  # a validation day
        three = table(outcomes, contexts, test=10).baselines()
        assert not np.allclose(one["saa_train"], three["saa_train"])
        assert not np.allclose(one["ridge"], three["ridge"])

    def test_ridge_finds_what_can_be_forecast(self) -> None:
        rng = np.random.default_rng(0)
        contexts = rng.normal(size=(600, 3))
        outcomes = 0.01 * contexts @ rng.normal(size=(3, 4)) + rng.normal(0, 0.005, (600, 4))
        task = table(outcomes, contexts, test=200)
        made = task.baselines()
        returns = {k: task.judge(task.dataset.test, z).task for k, z in made.items()}
        assert returns["ridge"] > 0.5 > abs(returns["equal_weight"])
        assert returns["ridge_argmax"] > 0.9 * 100 * outcomes[-200:].max(axis=1).mean()

    def test_ridge_gives_up_where_nothing_can_be_forecast(self) -> None:
        rng = np.random.default_rng(1)
        task = table(rng.normal(0, 0.02, (600, 4)), rng.normal(size=(600, 20)), test=100)
        forecast, _ = ridge_forecast(task.dataset, task.dataset.known)
        assert forecast.std(axis=0).max() < 1e-3

    def test_leave_one_out_error_is_that_of_refitting(self) -> None:
        rng = np.random.default_rng(2)
        task = table(rng.normal(0, 1, (20, 2)), rng.normal(size=(20, 3)))
        rows = task.dataset.train
        x = task.dataset.contexts[rows]
        x = (x - x.mean(0)) / x.std(0)
        y = task.dataset.outcomes[rows]
        forecast, residuals = ridge_forecast(task.dataset, rows)

        def fit(keep: np.ndarray, penalty: float) -> np.ndarray:
            a = np.column_stack([x[keep], np.ones(len(keep))])
            return np.linalg.solve(a.T @ a + penalty * np.diag([1, 1, 1, 0]), a.T @ y[keep])

        every = np.arange(len(rows))
        inputs = np.column_stack([x, np.ones(len(rows))])
        errors = []
        penalties = np.logspace(-1, 7, 33)
        for penalty in penalties:
            left_out = [
                y[i] - inputs[i] @ fit(np.delete(every, i), penalty) for i in range(len(rows))
            ]
            errors.append(np.mean(np.square(left_out)))
        best = fit(every, float(penalties[int(np.argmin(errors))]))
        assert residuals == pytest.approx(y - inputs @ best, abs=1e-10)
        assert forecast.shape == (4, 2)

    def test_moment_scenarios_decide_as_all_residuals_do(self) -> None:
        rng = np.random.default_rng(0)
        residuals = rng.normal(0, 0.02, (300, 5)) * rng.gamma(1.0, 1.0, (300, 1))
        residuals -= residuals.mean(axis=0)
        forecast = rng.normal(0, 0.005, (7, 1, 5))
        program = MeanVariancePortfolio(5)
        few = solve(program, torch.as_tensor(forecast + moment_scenarios(residuals))).decision
        all_of_them = solve(program, torch.as_tensor(forecast + residuals)).decision
        assert few.numpy() == pytest.approx(all_of_them.numpy(), abs=1e-8)


def test_returns_that_cannot_be_forecast_earn_nothing() -> None:
    """The fence against leaks: random walks, where a table laid out by ticker earns percents a day."""
    rng = np.random.default_rng(0)
    days, size = 700, 20
    steps = rng.normal(0, 0.02, (days, size))
    frame = pd.DataFrame(
        {
            "date": np.repeat(pd.bdate_range("2010-01-01", periods=days).to_numpy(), size),
            "ticker": np.tile([f"T{k:02d}" for k in range(size)], days),
            "adj_close": (100 * np.exp(np.cumsum(steps, axis=0))).ravel(),
            "volume": rng.lognormal(10, 1, days * size),
        }
    )
    from diffusion_dfl.data.prices import EVERY_DAY, price_features, price_panel

    panel = price_panel(frame.sort_values(["ticker", "date"], ignore_index=True), EVERY_DAY)
    rows = np.arange(450)
    features = price_features(panel, rows)
    task = table(features.outcomes, features.contexts, test=len(features.outcomes) - 452)
    made = task.baselines()["ridge_argmax"]
    judged = task.judge(task.dataset.test, made)
    deviation = judged.metrics["volatility"] / np.sqrt(len(judged.per_row))
    assert abs(judged.task) < 4 * deviation < 0.2 * judged.metrics["hindsight_return"]

    # The same returns read ticker by ticker: a column's target is the next column's last return.
    series = panel.returns.T.ravel()
    length = (len(series) - 1) // size * size
    targets, known = series[1 : length + 1], series[:length]
    leaky = table(targets.reshape(-1, size), known.reshape(-1, size), test=200)
    earned = leaky.judge(leaky.dataset.test, leaky.baselines()["ridge_argmax"])
    assert earned.task > 0.5 * earned.metrics["hindsight_return"]


@pytest.mark.slow
@pytest.mark.skipif(not REAL_ROOT, reason="DIFFUSION_DFL_DATA is not set: no real prices")
class TestRealPrices:
    """The release's 581 test days (its prices end on 2016-12-30, and it drops the days that lack a
    ten-day outlook), all 392 tickers: what explains the published 4 % a day."""

    RELEASED_DAYS: dict[str, Any] = {  # noqa: RUF012
        "root": REAL_ROOT,
        "strict": False,
        "last_day": "2016-12-15",
        "test_start": "2014-08-28",
    }

    @pytest.mark.parametrize(
        ("size", "percent"), [(10, 2.00), (25, 3.01), (50, 3.80), (75, 4.45), (100, 4.94)]
    )
    def test_perfect_foresight_over_all_subsets(self, size: int, percent: float) -> None:
        """Against means over 40 drawn subsets (standard error about 0.05): the exact mean over all
        subsets, by the chance that the k-th smallest of 392 returns is the largest of n."""
        outcomes, test = every_ticker()
        assert len(test) == 581
        ordered = np.sort(outcomes[test], axis=1)
        total = ordered.shape[1]
        chance = [comb(k - 1, size - 1) / comb(total, size) for k in range(1, total + 1)]
        assert sum(chance) == pytest.approx(1.0)
        assert 100 * (ordered @ np.array(chance)).mean() == pytest.approx(percent, abs=0.1)

    def test_the_published_return_exceeds_perfect_foresight_and_ridge_earns_nothing(self) -> None:
        foresight, ridge, equal = [], [], []
        for seed in range(10):
            task = portfolio_task("sp500", np.random.default_rng(seed), **self.RELEASED_DAYS)
            made = task.baselines()
            judged = task.judge(task.dataset.test, made["ridge_argmax"])
            foresight.append(judged.metrics["hindsight_return"])
            ridge.append(judged.task)
            equal.append(task.judge(task.dataset.test, made["equal_weight"]).task)
        assert np.mean(foresight) == pytest.approx(3.8, abs=0.2)
        assert min(foresight) > 3.0 and max(foresight) < 4.6
        assert np.mean(foresight) < 4.17
        assert -0.05 < np.mean(ridge) < 0.15
        assert np.mean(equal) == pytest.approx(0.05, abs=0.01)

    def test_an_unadjusted_split_of_the_source_is_found(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        portfolio_task("sp500", np.random.default_rng(0), num_assets=392, **self.RELEASED_DAYS)
        assert "WST 2004-09-30 -49.3% (looks like an unadjusted split, 2:1)" in caplog.text


@cache
def every_ticker() -> tuple[np.ndarray, np.ndarray]:
    values = TestRealPrices.RELEASED_DAYS
    data = portfolio_task("sp500", np.random.default_rng(0), num_assets=392, **values).dataset
    return data.outcomes, data.test
