"""Conditional value at risk as a program, against its definition and against cvxpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.programs import bandwidth, conditional_value_at_risk
from diffusion_dfl.solvers import solve

D: dict[str, Any] = {"dtype": torch.float64}
ASSETS = 5


def portfolio(level: float, **parts: Any) -> Any:
    return conditional_value_at_risk(
        lambda y, z: -(y @ z),
        level,
        ASSETS,
        ASSETS,
        lower=0.0,
        equality_matrix=torch.ones(1, ASSETS, **D),
        equality_value=1.0,
        **parts,
    )


def returns(batch: int = 4, num_scenarios: int = 40, scale: float = 0.02) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, num_scenarios, ASSETS, generator=generator, **D)
    return scale * (0.1 + noise)


def clarabel(y: Tensor, level: float) -> tuple[float, np.ndarray]:
    import cvxpy as cp

    z, t = cp.Variable(ASSETS), cp.Variable()
    tail = cp.sum(cp.pos(-y.numpy() @ z - t)) / len(y) / (1 - level)
    problem = cp.Problem(cp.Minimize(t + tail), [z >= 0, cp.sum(z) == 1])
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return float(problem.value), z.value


def test_cost_at_the_quantile_is_the_mean_of_the_worst_losses() -> None:
    program = portfolio(0.9)
    y, z = returns(1)[0], torch.full((ASSETS,), 1 / ASSETS, **D)
    losses = torch.sort(-(y @ z), descending=True).values
    decision = torch.cat([z, losses[4:5]])
    assert float(program.cost(y, decision).mean()) == pytest.approx(float(losses[:4].mean()))


@pytest.mark.parametrize("level", [0.1, 0.7, 0.9])
@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_exact_portfolio_has_the_objective_cvxpy_finds(level: float, scale: float) -> None:
    program, y = portfolio(level), returns(scale=scale)
    solution = solve(program, y)
    assert bool(solution.solved.all()), solution.report()
    cost = program.cost(y, solution.decision.unsqueeze(1)).mean(1)
    for b in range(len(y)):
        value, _ = clarabel(y[b], level)
        assert float(cost[b]) == pytest.approx(value, abs=1e-9 * max(scale, 1e-2))


@pytest.mark.parametrize(
    "scale, width",
    [(1.0, 1.0)]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in ((1.0, 0.3), (0.02, 1.0), (0.02, 0.3))
    ],
)
def test_convolved_portfolio_is_solved_and_near_the_exact_one(scale: float, width: float) -> None:
    program, y = portfolio(0.9), returns(scale=scale)
    solution = solve(program, y, None, width * bandwidth(y))
    assert bool(solution.solved.all()), solution.report()
    cost = program.cost(y, solution.decision.unsqueeze(1)).mean(1)
    for b in range(len(y)):
        value, _ = clarabel(y[b], 0.9)
        assert value - 1e-9 <= float(cost[b]) <= value + 0.5 * scale


def test_gaussian_losses_have_their_closed_form_tail() -> None:
    program = conditional_value_at_risk(lambda y, z: y[0] - z[0], 0.95, 1, 1, lower=0.0, upper=1.0)
    s = torch.full((1, 1), 0.3, **D)
    solution = solve(program, torch.full((1, 1, 1), 2.0, **D), None, s)
    assert bool(solution.solved.all()), solution.report()
    quantile = 1.6448536269514722
    tail = math.exp(-0.5 * quantile**2) / math.sqrt(2 * math.pi) / 0.05
    y, w = torch.full((1, 1, 1), 2.0, **D), torch.ones(1, 1, **D)
    risk = program.objective(y, w, s, solution.decision)
    assert float(risk) == pytest.approx(1.0 + 0.3 * tail, rel=1e-10)
    assert solution.decision[0].tolist() == pytest.approx([1.0, 1.0 + 0.3 * quantile], abs=1e-8)


@pytest.mark.parametrize("level", [1.0, 0.0, -0.1, math.nan])
def test_a_level_lies_between_zero_and_one(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        portfolio(level)


def test_a_loss_curved_in_the_decision_is_refused() -> None:
    program = conditional_value_at_risk(lambda y, z: (y - z).square().sum(), 0.9, 1, 1)
    with pytest.raises(ValueError, match="not affine in z"):
        program.validate(torch.ones(1, 3, 1, **D), None)
