"""`task=portfolio_released`: the numbers of the release, and what each of its switches moves."""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import pytest

from diffusion_dfl.suite.runs.compile import make_task
from diffusion_dfl.tasks import ReleasedPortfolioTask
from tests.configs import composed

# The golden numbers of the release start from its raw files.
pytestmark = pytest.mark.slow

on_real_data = pytest.mark.skipif(
    "DIFFUSION_DFL_DATA" not in os.environ, reason="no real data to test on"
)
SIMULATED = ("data=simulated", "data.num_days=600", "task.longest_window=130")


@cache
def configured(*overrides: str) -> ReleasedPortfolioTask:
    """The task as `python train.py task=portfolio_released ...` makes it."""
    task = make_task(composed(["task=portfolio_released", *overrides]))
    assert isinstance(task, ReleasedPortfolioTask)
    return task


@cache
def baselines(*overrides: str) -> dict[str, np.ndarray]:
    return configured(*overrides).baselines()


def earned(baseline: str, *overrides: str) -> float:
    """Percent a day."""
    task = configured(*overrides)
    return task.judge(task.dataset.test, baselines(*overrides)[baseline]).task


def foresight(*overrides: str) -> float:
    task = configured(*overrides)
    decisions = baselines(*overrides)["equal_weight"]
    return task.judge(task.dataset.test, decisions).metrics["hindsight_return"]


def num_assets(baseline: str, *overrides: str) -> float:
    """Mean number of assets with more than 1 %."""
    return float((baselines(*overrides)[baseline] > 0.01).sum(axis=1).mean())


def test_released_program_is_linear_in_all_but_name() -> None:
    assert configured(*SIMULATED).program.risk_aversion == 1e-6
    assert configured(*SIMULATED).higher_is_better


def test_layout_alone_earns_percents_a_day_even_on_simulated_prices() -> None:
    assert earned("ridge_argmax", *SIMULATED) > 2.0
    assert abs(earned("ridge_argmax", *SIMULATED, "task.symbol_major=false")) < 0.6


def test_fit_on_other_assets_does_not_find_the_leak() -> None:
    task = configured(*SIMULATED)
    assert task.fit_dataset.assets != task.dataset.assets
    assert earned("ridge_argmax_fit", *SIMULATED) < 0.6
    shared = (*SIMULATED, "task.subset_mismatch=false")
    assert configured(*shared).fit_dataset is configured(*shared).dataset
    assert earned("ridge_argmax_fit", *shared) == earned("ridge_argmax", *SIMULATED)


def test_plain_portfolios_are_portfolios() -> None:
    for decisions in baselines(*SIMULATED).values():
        np.testing.assert_allclose(decisions.sum(axis=1), 1, atol=1e-9)
        assert decisions.min() > -1e-9


# Golden numbers of the real prices


@on_real_data
def test_golden_ridge_earns_four_percent_a_day_in_the_released_layout() -> None:
    assert earned("ridge_argmax") == pytest.approx(4.1, abs=0.35)
    assert earned("ridge_argmax", "task.symbol_major=false") == pytest.approx(0.06, abs=0.2)
    # A leak beats what perfect foresight earns on days.
    assert 3.18 < foresight("task.symbol_major=false") < 4.39
    assert earned("ridge_argmax") > foresight("task.symbol_major=false")


@pytest.mark.slow
@on_real_data
def test_golden_numbers_hold_on_average_over_draws_of_assets() -> None:
    right = "task.symbol_major=false"
    seeds = [f"seed={seed}" for seed in range(5)]
    assert np.mean([earned("ridge_argmax", seed) for seed in seeds]) == pytest.approx(4.2, abs=0.2)
    mean = np.mean([earned("ridge_argmax", right, seed) for seed in seeds])
    assert mean == pytest.approx(0.06, abs=0.12)


@pytest.mark.slow
@on_real_data
def test_golden_subset_mismatch_hides_the_leak_from_the_fit() -> None:
    assert abs(earned("ridge_argmax_fit")) < 0.35
    assert earned("ridge_argmax_fit", "task.subset_mismatch=false") == pytest.approx(4.1, abs=0.35)


@on_real_data
def test_golden_alpha_puts_everything_on_one_asset() -> None:
    right = "task.symbol_major=false"
    assert num_assets("saa_train", right) == num_assets("ridge", right) == 1
    sound = (right, "task.risk_aversion=10.0")
    assert num_assets("saa_train", *sound) == pytest.approx(10, abs=4)
    assert num_assets("ridge", *sound) > 2
    assert earned("ridge", right) == earned("ridge_argmax", right)
    assert earned("ridge", *sound) != earned("ridge", right)


@pytest.mark.slow
@on_real_data
def test_golden_statistics_of_test_days_move_the_ridge_a_little() -> None:
    moved = earned("ridge_argmax", "task.statistics_of_test_days=false") - earned("ridge_argmax")
    assert 1e-4 < abs(moved) < 0.1
