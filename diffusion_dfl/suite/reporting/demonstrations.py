"""Numbers of the audit that are no run's: what the released protocol alone does, on the same data."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.runs.compile import make_task
from diffusion_dfl.tasks import (
    ReleasedPortfolioTask,
    ReleasedPowerTask,
    ReleasedSyntheticTask,
    Task,
)

_SEEDS = range(5)


def demonstrations() -> dict[str, Any]:
    """All of them; about a minute, from the raw files."""
    return {**_synthetic(), **_power(), **_portfolio()}


@cache
def _task(*words: str) -> Task:
    return make_task(compose_config(words))


def _cost(task: Task, decisions: np.ndarray) -> float:
    return task.judge(task.dataset.test, decisions).task


def _synthetic() -> dict[str, float]:
    """200 fixed test points, against the expectation."""
    task = _task("task=synthetic_released")
    assert isinstance(task, ReleasedSyntheticTask)
    baselines = task.baselines()
    rows = len(task.dataset.test)
    expected = _task("task=synthetic_released", "task.fixed_test_points=false")
    full = np.full((len(expected.dataset.test), 10), 2.0)
    return {
        "synthetic_capacity": _cost(task, baselines["capacity"]),
        "synthetic_capacity_expected": _cost(expected, full),
        "synthetic_saa": _cost(task, baselines["saa_all"]),
        "synthetic_optimum_on_points": _cost(task, np.full((rows, 10), task.optimum[0])),
        "synthetic_optimum": float(task.optimal_cost),
    }


def _power() -> dict[str, float]:
    """One forecast without any learning of decisions, at several numbers of scenarios."""
    task = _task("task=power_released", "task.temperatures=false")
    assert isinstance(task, ReleasedPowerTask)
    forecast, residuals = task.forecast()
    found = {"power_ols_offsets": _cost(task, task.baselines()["ols_offsets"])}
    with_temperatures = _task("task=power_released")
    assert isinstance(with_temperatures, ReleasedPowerTask)
    found["power_ols_offsets_temperatures"] = _cost(
        with_temperatures, with_temperatures.baselines()["ols_offsets"]
    )
    layer = DecisionLayer(task.program, 0.0)
    for count in (10, 25, 50, 500):
        costs = []
        for seed in _SEEDS:
            drawn = np.random.default_rng(seed).integers(
                len(residuals), size=(len(forecast), count)
            )
            scenarios = torch.as_tensor(forecast[:, None] + residuals[drawn])
            with torch.no_grad():
                costs.append(_cost(task, layer(scenarios).numpy()))
        found[f"power_bootstrap_{count}"] = float(np.mean(costs))
    return found


def _portfolio() -> dict[str, float]:
    """A ridge regression that puts everything on its best asset, in both layouts."""
    found: dict[str, float] = {}
    right = "task.symbol_major=false"
    for name, words, baseline in (
        ("portfolio_leak", (), "ridge_argmax"),
        ("portfolio_right", (right,), "ridge_argmax"),
        ("portfolio_mismatch", (), "ridge_argmax_fit"),
    ):
        values = []
        for seed in _SEEDS:
            task = _task("task=portfolio_released", f"seed={seed}", *words)
            assert isinstance(task, ReleasedPortfolioTask)
            values.append(_cost(task, _baselines(task)[baseline]))
        found[name] = float(np.mean(values))
    task = _task("task=portfolio_released", "seed=0", right)
    equal = _baselines(task)["equal_weight"]
    judged = task.judge(task.dataset.test, equal)
    found["portfolio_foresight"] = float(judged.metrics["hindsight_return"])
    chosen = _baselines(task)["saa_train"]
    found["portfolio_assets_released"] = float((chosen > 0.01).sum(axis=1).mean())
    sound = _task("task=portfolio_released", "seed=0", right, "task.risk_aversion=10.0")
    found["portfolio_assets_sound"] = float(
        (_baselines(sound)["saa_train"] > 0.01).sum(axis=1).mean()
    )
    simulated = _task(
        "task=portfolio_released", "data=simulated", "data.num_days=600", "task.longest_window=130"
    )
    found["portfolio_leak_simulated"] = _cost(simulated, _baselines(simulated)["ridge_argmax"])
    return found


_made: dict[int, Mapping[str, np.ndarray]] = {}


def _baselines(task: Task) -> Mapping[str, np.ndarray]:
    if id(task) not in _made:
        _made[id(task)] = task.baselines()
    return _made[id(task)]
