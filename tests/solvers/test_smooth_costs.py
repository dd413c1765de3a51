"""Smooth costs that are no quadratic forms, far from where the cost was first looked at."""

from collections.abc import Callable

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import TorchProgram
from diffusion_dfl.solvers import solve
from diffusion_dfl.solvers.solution import Solution

D = {"dtype": torch.float64}

COSTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "counts": lambda y, z: (z.exp() - y * z).sum(),
    "dear above": lambda y, z: (torch.exp(0.05 * (z - y)) - 0.05 * (z - y)).sum(),
    "steep above": lambda y, z: (torch.exp(z - y) - (z - y)).sum(),
    "dear below": lambda y, z: (torch.exp(0.3 * (y - z)) - 0.3 * (y - z)).sum(),
    "smooth pinball": lambda y, z: (softplus(z - y) + 3 * softplus(y - z)).sum(),
    "smooth norm": lambda y, z: (1 + (z - y) ** 2).sqrt().sum(),
    "logarithm of cosh": lambda y, z: (softplus(2 * (z - y)) - (z - y)).sum(),
    "fourth power": lambda y, z: ((z - y) ** 4).sum(),
}


def outcomes(level: float, scenarios: int, size: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return level * (1 + 0.1 * torch.rand(3, scenarios, size, generator=generator, **D))


def root(cost: Callable[[Tensor, Tensor], Tensor], y: Tensor, low: float, high: float) -> Tensor:
    """Minimisers of a cost that is a sum over coordinates, by bisection: ``(B, M, n) -> (B, n)``."""
    ends = torch.full_like(y[:, 0], low), torch.full_like(y[:, 0], high)
    for _ in range(100):
        middle = (0.5 * (ends[0] + ends[1])).requires_grad_()
        (slope,) = torch.autograd.grad(cost(y, middle.unsqueeze(1)), middle)
        above = (slope > 0) | ~slope.isfinite()
        middle = middle.detach()
        ends = torch.where(above, ends[0], middle), torch.where(above, middle, ends[1])
    return 0.5 * (ends[0] + ends[1])


def solved(program: TorchProgram, y: Tensor) -> Solution:
    found = solve(program, y)
    assert found.solved.all(), found.report()
    return found


@pytest.mark.parametrize(
    ("level", "scenarios"),
    [
        (100.0, 6),
        *(
            pytest.param(level, scenarios, marks=pytest.mark.slow)
            for level, scenarios in ((0.01, 1), (5.0, 6), (50.0, 1), (300.0, 6))
        ),
    ],
)
@pytest.mark.parametrize("lower", [None, 0.0])
@pytest.mark.parametrize("name", COSTS)
def test_the_root_of_the_slope_is_found_however_far(
    name: str, lower: float | None, level: float, scenarios: int
) -> None:
    cost, y = COSTS[name], outcomes(level, scenarios)
    found = solved(TorchProgram(2, 2, smooth=cost, lower=lower), y)
    low, high = (-10 - level, 10.0) if name == "counts" else (-10 - level, 10 + 3 * level)
    exact = root(cost, y, low if lower is None else lower, high)
    assert torch.allclose(found.decision, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("level", [5.0, 100.0, pytest.param(1000.0, marks=pytest.mark.slow)])
def test_a_bound_that_is_met_on_the_steep_side_of_an_exponential(level: float) -> None:
    program = TorchProgram(2, 2, smooth=COSTS["dear below"], lower=0.0, upper=0.5 * level)
    found = solved(program, outcomes(level, 6))
    assert torch.equal(found.decision, torch.full_like(found.decision, 0.5 * level))


@pytest.mark.parametrize("level", [1.0, 30.0])
@pytest.mark.slow
def test_a_budget_on_counts_agrees_with_clarabel(level: float) -> None:
    y = outcomes(level, 5, 3)
    limit = float(0.7 * y.mean(1).log().clamp_min(0.1).sum(1).amin())
    found = solved(
        TorchProgram(3, 3, smooth=COSTS["counts"], matrix=torch.ones(1, 3), limit=limit), y
    )
    for row, mean in enumerate(y.mean(1).numpy()):
        z = cp.Variable(3)
        problem = cp.Problem(cp.Minimize(cp.sum(cp.exp(z)) - mean @ z), [cp.sum(z) <= limit])
        problem.solve(solver=cp.CLARABEL)
        assert np.allclose(found.decision[row].numpy(), z.value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    ["counts", *(pytest.param(name, marks=pytest.mark.slow) for name in COSTS if "smooth" in name)],
)
def test_gradients_far_away_agree_with_differences(name: str) -> None:
    layer = DecisionLayer(TorchProgram(2, 2, smooth=COSTS[name]))
    y = outcomes(100.0, 4)[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda y: layer(y), (y,), eps=1e-4, rtol=1e-4, atol=1e-7)


def test_a_cost_that_a_quadratic_form_fits_at_a_few_decisions_is_solved_as_it_is() -> None:
    """Flat tails: linear wherever the form was held against the cost."""

    def tail(y: Tensor, z: Tensor) -> Tensor:
        return (3 * softplus(y - z - 900) + softplus(z - y + 900)).sum()

    y = outcomes(100.0, 4, 1)
    exact = root(tail, y, -1e4, 1e4)
    found = solved(TorchProgram(1, 1, smooth=tail), y)
    assert torch.allclose(found.decision, exact, rtol=1e-9)
