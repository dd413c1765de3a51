"""`task=power_released`: the numbers of the release, and what each of its switches moves."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Instances
from diffusion_dfl.solvers import solve
from diffusion_dfl.suite.runs.compile import make_task
from diffusion_dfl.tasks import PowerTask, ReleasedPowerTask
from tests.configs import composed

# The golden numbers of the release start from its raw files.
pytestmark = pytest.mark.slow

on_real_data = pytest.mark.skipif(
    "DIFFUSION_DFL_DATA" not in os.environ, reason="no real data to test on"
)
SIMULATED = ("data=simulated", "data.num_days=150", "task.temperatures=false")


def configured(*overrides: str) -> ReleasedPowerTask:
    """The task as `python train.py task=power_released ...` makes it."""
    task = make_task(composed(["task=power_released", *overrides]))
    assert isinstance(task, ReleasedPowerTask)
    return task


def cost(task: PowerTask, plans: np.ndarray) -> float:
    return task.judge(task.dataset.test, plans).task


def offsets(task: PowerTask) -> np.ndarray:
    return PowerTask.baselines(task)["ols_offsets"]


def layer(task: ReleasedPowerTask, *overrides: str) -> DecisionLayer:
    """The decision rule of the configuration."""
    rule = composed(["task=power_released", *overrides]).decision
    return DecisionLayer(task.program, rule.bandwidth_scale, curvature=rule.curvature)


def scenarios(task: ReleasedPowerTask, num_scenarios: int) -> torch.Tensor:
    """Least squares forecasts of the test days plus residuals drawn from the days before."""
    forecast, residuals = task.forecast()
    drawn = np.random.default_rng(0).integers(len(residuals), size=(len(forecast), num_scenarios))
    return torch.as_tensor(forecast[:, None] + residuals[drawn])


# Without real data


def test_released_decision_rule_is_the_exact_one_on_25_scenarios() -> None:
    rule = composed(["task=power_released"]).decision
    assert (rule.num_scenarios, rule.bandwidth_scale, rule.curvature) == (25, 0.0, "paper")


def test_every_baseline_is_made_from_days_before_the_test() -> None:
    task = configured(*SIMULATED)
    outcomes = task.dataset.outcomes.copy()
    outcomes[task.dataset.test] += 3.0
    other = ReleasedPowerTask(dataclasses.replace(task.dataset, outcomes=outcomes), task.program)
    before = task.baselines()
    for name, plans in other.baselines().items():
        assert plans.shape == (len(task.dataset.test), 24)
        np.testing.assert_array_equal(plans, before[name])


def test_subgradients_without_the_mask_are_those_of_the_solver() -> None:
    task = configured(*SIMULATED, "task.kink_mask=false", "task.ramp=0.02")
    drawn = scenarios(task, 7)
    exact = solve(task.program, drawn)
    assert (exact.duals > 1e-6).any()  # some ramps bind
    found = task.program.masked_gradients(Instances.of(drawn), exact.decision)
    torch.testing.assert_close(found, exact.subgradients)


# Golden numbers of the real files


@on_real_data
def test_golden_costs_without_temperatures() -> None:
    task = configured("task.temperatures=false")
    assert cost(task, offsets(task)) == pytest.approx(3.709, abs=2e-3)
    assert cost(task, task.forecast()[0]) == pytest.approx(34.95, abs=1e-2)
    forecast, _ = task.forecast()
    error = forecast - task.dataset.outcomes[task.dataset.test]
    assert np.sqrt((error**2).mean(0)).sum() == pytest.approx(2.022, abs=1e-3)
    assert np.sqrt((error**2).mean()) == pytest.approx(0.0944, abs=1e-4)


@on_real_data
@pytest.mark.parametrize(
    ("num_scenarios", "golden", "tolerance"),
    [(10, 8.4, 0.6), (25, 5.2, 0.2), (50, 4.4, 0.2), (500, 3.8, 0.1)],
)
def test_scenarios_at_test_time_alone_move_the_cost_of_one_forecast(
    num_scenarios: int, golden: float, tolerance: float
) -> None:
    task = configured("task.temperatures=false")
    seeds = range(1 if num_scenarios == 500 else 12)
    costs = [cost(task, task.bootstrap(num_scenarios, seed)) for seed in seeds]
    assert np.mean(costs) == pytest.approx(golden, abs=tolerance)


@on_real_data
def test_broken_temperatures_cost_more_than_they_tell() -> None:
    task = configured()
    assert cost(task, offsets(task)) == pytest.approx(4.782, abs=2e-3)
    forecast, _ = task.forecast()
    error = forecast - task.dataset.outcomes[task.dataset.test]
    assert np.sqrt((error**2).mean(0)).sum() == pytest.approx(2.086, abs=1e-3)


@on_real_data
def test_flat_last_day_costs_nearly_three_hundredths_of_the_mean() -> None:
    task = configured("task.temperatures=false")
    without = configured("task.temperatures=false", "task.last_flat_day=false")
    per_row = task.judge(task.dataset.test, offsets(task)).per_row
    assert per_row[-1] == pytest.approx(20, abs=1)
    assert cost(without, offsets(without)) == pytest.approx(3.683, abs=2e-3)


@on_real_data
def test_statistics_of_test_days_move_what_reads_the_scale_of_features() -> None:
    released = configured("task.temperatures=false")
    sound = configured("task.temperatures=false", "task.statistics_of_test_days=false")
    assert cost(released, released.nearest()) == pytest.approx(4.794, abs=2e-3)
    assert cost(sound, sound.nearest()) == pytest.approx(4.771, abs=2e-3)
    # Least squares does not.
    assert cost(sound, offsets(sound)) == pytest.approx(3.709, abs=2e-3)


@on_real_data
def test_plain_baselines_know_the_days_in_the_gaps_of_validation_blocks() -> None:
    blocks = configured("task.temperatures=false", "task.random_validation_days=false")
    # The gaps are in no split.
    assert len(blocks.dataset.train) + len(blocks.dataset.validation) < 2553 - 2 * 20
    assert len(blocks.dataset.known) >= 2553 - 1
    assert cost(blocks, offsets(blocks)) == pytest.approx(3.709, abs=2e-3)


@on_real_data
def test_unit_hessian_gives_every_scenario_the_same_share_and_misses_the_spread() -> None:
    """dz/ds of scenarios ``forecast + s residual``: the schedule is the largest, s times one."""
    task = configured("task.temperatures=false")
    drawn = scenarios(task, 25)
    residual = drawn - torch.as_tensor(task.forecast()[0]).unsqueeze(1)

    def sensitivity(*overrides: str) -> tuple[torch.Tensor, float]:
        given = drawn.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(layer(task, *overrides)(given).sum(), given)
        return gradient, float((gradient * residual).sum((1, 2)).mean() / 24)

    released, miss = sensitivity()
    torch.testing.assert_close(released, torch.full_like(released, 1 / 25))
    assert abs(miss) < 0.001
    exact, truth = sensitivity("decision.curvature=saa")
    assert truth == pytest.approx(float(residual.amax(1).mean()), abs=1e-3)
    assert truth == pytest.approx(0.163, abs=3e-3)
    assert float(exact.amax(1).mean()) > 0.99
    convolved = ("decision.curvature=convolved", "decision.bandwidth_scale=1.5")
    assert sensitivity(*convolved)[1] == pytest.approx(0.195, abs=5e-3)


@on_real_data
def test_kink_mask_leaves_a_mean_subgradient_where_stationarity_has_none() -> None:
    """Score weights of dL/dz = 1 under H = I are minus the subgradients of the scenarios."""
    means = {}
    for mask in ("true", "false"):
        task = configured("task.temperatures=false", f"task.kink_mask={mask}")
        drawn = scenarios(task, 25)
        weights = torch.full(drawn.shape[:2], 1 / 25, dtype=torch.float64, requires_grad=True)
        decision = layer(task)(drawn, weights)
        (gradient,) = torch.autograd.grad(decision.sum(), weights)
        means[mask] = -gradient.mean(1) / 24
        surplus = float((decision.detach() - drawn.mean(1)).mean())
    assert float(means["true"].mean()) == pytest.approx(0.5 + surplus, abs=2e-3)
    assert float(means["true"].mean()) == pytest.approx(0.663, abs=5e-3)
    assert float(means["false"].abs().max()) < 1e-9


@on_real_data
def test_offsets_pay_less_where_the_weather_is_known() -> None:
    task = make_task(composed(["task=power_weather"]))
    assert isinstance(task, PowerTask) and task.name == "power_weather"
    assert cost(task, offsets(task)) == pytest.approx(2.760, abs=2e-2)
