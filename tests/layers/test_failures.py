"""What the layer does about instances a solver gives up on."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer, SolverFailure, failures
from diffusion_dfl.programs import Newsvendor, PowerProgram
from diffusion_dfl.solvers import Solution, Status, solve
from diffusion_dfl.solvers.dispatch import solve_instances

BAD = [0, 2]


def _scenarios() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 1.5 + 0.4 * torch.randn(5, 9, 4, dtype=torch.float64, generator=generator)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first solve of a batch gives up on the instances BAD; the solvers asked, in order."""
    asked: list[str] = []

    def give_up(*arguments: Any, **options: Any) -> Solution:
        asked.append(options["solver"])
        solution = solve_instances(*arguments, **options)
        if len(asked) > 1:
            return solution
        status, decision = solution.status.clone(), solution.decision.clone()
        status[BAD], decision[BAD] = int(Status.NOT_CONVERGED), torch.nan
        return dataclasses.replace(solution, status=status, decision=decision)

    monkeypatch.setattr(failures, "solve_instances", give_up)
    return asked


def _layer(**options: Any) -> DecisionLayer:
    options = {"curvature": "saa", **options}
    return DecisionLayer(PowerProgram(ramp=0.2, num_decisions=4), max_failure_share=0.5, **options)


def test_retry_solves_the_instance_by_the_other_solver(broken: list[str]) -> None:
    layer, scenarios = _layer(on_failure="retry"), _scenarios().requires_grad_()
    decision = layer(scenarios)
    assert broken == ["auto", "interior_point"]
    expected = solve(layer.program, scenarios.detach())
    assert torch.allclose(decision, expected.decision, atol=1e-7)
    counts = layer.statistics
    assert (counts.retried, counts.by_retry, counts.by_reference, counts.failures) == (2, 2, 0, 0)
    decision.sum().backward()
    other = _scenarios().requires_grad_()
    _layer()(other).sum().backward()
    assert scenarios.grad is not None and other.grad is not None
    assert torch.allclose(scenarios.grad, other.grad, atol=1e-6)


def test_reference_asks_cvxpy_when_the_retry_fails_too(
    broken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = failures.solve_instances

    def stubborn(*arguments: Any, **options: Any) -> Solution:
        solution = first(*arguments, **options)
        if options["solver"] == "interior_point":
            return dataclasses.replace(solution, status=torch.ones_like(solution.status))
        return solution

    monkeypatch.setattr(failures, "solve_instances", stubborn)
    layer, scenarios = _layer(on_failure="reference"), _scenarios()
    decision = layer(scenarios)
    assert broken == ["auto", "interior_point", "cvxpy"]
    assert torch.allclose(decision, solve(layer.program, scenarios).decision, atol=1e-6)
    counts = layer.statistics
    assert (counts.retried, counts.by_retry, counts.by_reference, counts.failures) == (2, 0, 2, 0)


def test_drop_leaves_the_instances_out_and_counts_them(broken: list[str]) -> None:
    layer = _layer(on_failure="drop")
    decision = layer(_scenarios())
    assert decision[BAD].isnan().all() and not decision[[1, 3, 4]].isnan().any()
    assert layer.statistics.failures == 2 and broken == ["auto"]


def test_raise_names_the_instances(broken: list[str]) -> None:
    with pytest.raises(SolverFailure, match=r"instances 0, 2 \(2 of 5\): not converged"):
        _layer(on_failure="raise")(_scenarios())


def test_more_failures_than_the_threshold_stop_the_run(broken: list[str]) -> None:
    layer = DecisionLayer(PowerProgram(ramp=0.2, num_decisions=4), max_failure_share=0.3)
    with pytest.raises(SolverFailure, match="2 of 5"):
        layer(_scenarios())


def test_invalid_scenarios_are_not_tried_again() -> None:
    layer, scenarios = _layer(on_failure="retry"), _scenarios()
    scenarios[1, 0, 0] = torch.inf
    layer(scenarios)
    assert layer.statistics.retried == 0 and layer.statistics.failures == 1


def test_vertices_are_counted() -> None:
    """Demand far above z_max: the decision is the bound, whatever the demand."""
    layer = DecisionLayer(Newsvendor(z_max=1.0))
    scenarios = torch.full((2, 5, 1), 4.0, dtype=torch.float64)
    scenarios[1] = torch.tensor([[0.1], [0.2], [0.3], [0.4], [0.5]])
    scenarios.requires_grad_()
    layer(scenarios).sum().backward()
    assert layer.statistics.vertices == 1
    assert scenarios.grad is not None and not scenarios.grad[0].any() and scenarios.grad[1].any()
