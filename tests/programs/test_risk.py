"""Conditional value at risk as a program, against its definition and against cvxpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.programs import Hinge, Instances, bandwidth, conditional_value_at_risk
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
    y = torch.full((1, 1, 1), 2.0, **D)
    solution = solve(program, y, None, s)
    assert bool(solution.solved.all()), solution.report()
    quantile = 1.6448536269514722
    tail = math.exp(-0.5 * quantile**2) / math.sqrt(2 * math.pi) / 0.05
    risk = program.objective(Instances.of(y, None, s), solution.decision)
    assert float(risk) == pytest.approx(1.0 + 0.3 * tail, rel=1e-10)
    assert solution.decision[0].tolist() == pytest.approx([1.0, 1.0 + 0.3 * quantile], abs=1e-8)


@pytest.mark.parametrize("level", [1.0, 0.0, -0.1, math.nan])
def test_a_level_lies_between_zero_and_one(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        portfolio(level)


def test_a_loss_curved_in_the_decision_is_refused() -> None:
    program = conditional_value_at_risk(lambda y, z: (y - z).square().sum(), 0.9, 1, 1)
    with pytest.raises(ValueError, match="not affine in z"):
        program.validate(Instances.of(torch.ones(1, 3, 1, **D)))


KINKS = [Hinge(5.0, lambda y, z: y - z), Hinge([1.0, 2.0], lambda y, z: z - y)]


def kinked_tail(y: Tensor, level: float) -> float:
    import cvxpy as cp

    z, t = cp.Variable(2, nonneg=True), cp.Variable()
    apart = y.numpy() - np.ones((len(y), 1)) @ cp.reshape(z, (1, 2), order="C")
    loss = cp.pos(apart) @ np.full(2, 5.0) + cp.pos(-apart) @ np.array([1.0, 2.0])
    loss = loss + 0.1 * cp.sum_squares(z)
    cost = t + cp.sum(cp.pos(loss - t)) / len(y) / (1 - level)
    problem = cp.Problem(cp.Minimize(cost), [cp.sum(z) <= 3])
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    return float(problem.value)


def test_tail_of_a_convex_loss_with_kinks_is_what_cvxpy_finds() -> None:
    program = conditional_value_at_risk(
        lambda y, z: 0.1 * (z @ z),
        0.8,
        2,
        2,
        lower=0.0,
        matrix=[[1.0, 1.0]],
        limit=3.0,
        convex=True,
        loss_hinges=KINKS,
    )
    y = 3 * torch.rand(3, 20, 2, generator=torch.Generator().manual_seed(1), **D)
    solution = solve(program, y)
    assert bool(solution.solved.all()), solution.report()
    cost = program.cost(y, solution.decision.unsqueeze(1)).mean(1)
    expected = [kinked_tail(rows, 0.8) for rows in y]
    np.testing.assert_allclose(cost, expected, rtol=1e-8)


def test_tail_of_kinks_alone_may_take_the_context() -> None:
    program = conditional_value_at_risk(
        None, 0.5, 1, 1, loss_hinges=Hinge([1.0, 1.0], lambda y, z, x: torch.cat([y - z, z - x]))
    )
    y, x = torch.tensor([[[1.0], [3.0]]], **D), torch.tensor([[2.5]], **D)
    solution = solve(program, y, context=x)
    # The worse of the two scenarios loses 3 - z, and what lies above the context.
    torch.testing.assert_close(
        program.cost(y, solution.decision.unsqueeze(1), x.unsqueeze(1)).mean(),
        torch.tensor(0.5, **D),
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"loss": None}, "needs a loss"),
        (
            {"loss": None, "loss_hinges": Hinge(1.0, lambda y, z, x: y - z - x)},
            "takes the context",
        ),
    ],
)
def test_a_tail_without_what_it_needs_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conditional_value_at_risk(level=0.5, num_decisions=1, num_outcomes=1, **parts)


def test_a_curved_loss_is_told_how_it_is_stated() -> None:
    program = conditional_value_at_risk(lambda y, z: ((y - z) ** 2).sum(), 0.5, 2, 2)
    with pytest.raises(ValueError, match="convex=True"):
        solve(program, torch.ones(1, 2, 2, **D))
