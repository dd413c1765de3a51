"""The Clarabel reference itself: its duals, its kinks and what it refuses."""

import math
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.layers.decision import LayerSolver
from diffusion_dfl.programs import PowerProgram, TorchProgram
from diffusion_dfl.solvers import Solution, Status, solve


def by_clarabel(
    program: PowerProgram, scenarios: Tensor, bandwidth: Tensor | None = None
) -> Solution:
    return solve(program, scenarios, None, bandwidth, solver="cvxpy")


def _scenarios(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    hours = torch.arange(12, dtype=torch.float64)
    noise = torch.randn(3, 6, 12, dtype=torch.float64, generator=generator)
    return 2 * torch.sin(hours / 4) + 0.4 * noise


@pytest.mark.parametrize("ramp", [0.4, 0.05, 0.0])
def test_reference_is_stationary_and_finds_the_same_kinks(ramp: float) -> None:
    program, scenarios = PowerProgram(ramp=ramp, num_decisions=12), _scenarios()
    reference, fast = by_clarabel(program, scenarios), solve(program, scenarios)
    assert (reference.status == Status.SOLVED).all() and (reference.iterations > 0).all()
    assert float(reference.residuals.max()) <= 1e-7
    assert torch.equal(reference.at_kink, fast.at_kink)
    net = [s.duals[:, :11] - s.duals[:, 11:] for s in (reference, fast)]
    assert torch.allclose(*net, rtol=0, atol=1e-6)
    assert torch.allclose(reference.subgradients, fast.subgradients, rtol=0, atol=1e-5)


def test_reference_orders_its_duals_rises_then_falls() -> None:
    program = PowerProgram(ramp=0.1, num_decisions=3)
    up = torch.tensor([[[0.0, 1.0, 2.0]]], dtype=torch.float64)
    duals = by_clarabel(program, torch.cat([up, -up])).duals
    assert bool((duals[0, :2] > 0.1).all() and (duals[0, 2:] < 1e-8).all())
    assert bool((duals[1, :2] < 1e-8).all() and (duals[1, 2:] > 0.1).all())


def test_reference_solves_a_single_hour() -> None:
    scenarios = torch.tensor([[[0.0], [2.0]]], dtype=torch.float64)
    solution = by_clarabel(PowerProgram(num_decisions=1), scenarios)
    assert float(solution.decision) == pytest.approx(2.0, abs=1e-8)
    assert solution.duals.shape == (1, 0)


def test_reference_refuses_a_positive_bandwidth_and_takes_a_zero_one() -> None:
    program, scenarios = PowerProgram(num_decisions=12), _scenarios()
    zero = torch.zeros(3, 12, dtype=torch.float64)
    plain = by_clarabel(program, scenarios).decision
    assert torch.equal(by_clarabel(program, scenarios, zero).decision, plain)
    with pytest.raises(ValueError, match="exact programs only"):
        by_clarabel(program, scenarios, zero + 0.1)


def test_reference_reports_a_bad_instance_and_solves_the_others() -> None:
    program, scenarios = PowerProgram(num_decisions=12), _scenarios()
    clean = by_clarabel(program, scenarios)
    scenarios[1, 0, 0] = math.nan
    solution = by_clarabel(program, scenarios)
    assert solution.status.tolist() == [0, int(Status.INVALID_INPUT), 0]
    assert bool(solution.decision[1].isnan().all())
    assert torch.equal(solution.decision[[0, 2]], clean.decision[[0, 2]])


@pytest.mark.parametrize("solver", ["cvxpy", "cvxpylayers"])
def test_a_statement_that_knows_no_context_is_not_solved_where_a_constraint_depends_on_it(
    solver: LayerSolver,
) -> None:
    scenarios = torch.full((2, 3, 2), 2.0, dtype=torch.float64)
    context = torch.ones(2, 1, dtype=torch.float64)

    def reference(values: Any, weights: Any) -> tuple[Any, Any, list[Any]]:
        z = cp.Variable(2)
        limits = [cp.sum(z) <= 100.0]
        cost = sum(cp.sum_squares(z - values[m]) for m in range(3)) / 3
        return cp.Problem(cp.Minimize(cost), limits), z, limits

    def program(
        inequality: Callable[[Tensor | None, Tensor], Tensor], **parts: Any
    ) -> TorchProgram:
        return TorchProgram(
            2,
            2,
            smooth=lambda y, z: ((z - y) ** 2).sum(),
            inequality=inequality,
            num_inequalities=1,
            reference=reference,
            **parts,
        )

    def decide(stated: TorchProgram) -> Tensor:
        return DecisionLayer(stated, solver=solver)(scenarios, context=context)

    for depends in (
        lambda x, z: z.sum() - x[0],
        lambda x, z: z.sum() - (100.0 if x is None else x[0]),
    ):
        with pytest.raises(TypeError, match=f"solver='{solver}'.*no context.*use solver='auto'"):
            decide(program(depends))
    with pytest.raises(ValueError, match="context"):
        decide(program(lambda x, z: z.sum() - 100.0, upper=lambda x: x[0]))
    assert torch.allclose(decide(program(lambda x, z: z.sum() - 100.0)), scenarios[:, 0])
