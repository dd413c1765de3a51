"""Linear programs as PyEPO's generators draw them: knapsacks, portfolios and shortest paths.

Elmachtoub and Grigas (2022), "Smart predict, then optimize", whose data Tang and Khalil (2024) give in
PyEPO: costs are a power of a linear function of Gaussian features, times noise. Knapsacks are relaxed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Regulariser, TorchProgram
from diffusion_dfl.solvers import solve

pytest.importorskip("pyepo", reason="compares on PyEPO's data: pip install pyepo")

from pyepo.data import knapsack, portfolio, shortestpath

torch.set_num_threads(1)
ROWS, FEATURES, DEGREE, NOISE = 16, 5, 4, 0.5
SIDE = 5


class Case(NamedTuple):
    """A linear program with data: features ``(N, p)``, costs ``(N, n)`` and cvxpy's limits on z."""

    program: TorchProgram
    features: Tensor
    costs: Tensor
    limits: Callable[[Any], list[Any]]


def case(
    drawn: Any, limits: Callable[[Any], list[Any]], sign: float = 1.0, **constraints: Any
) -> Case:
    """The program ``min sign y'z`` in ``[0, 1]^n`` on drawn features and costs."""
    features, costs = (torch.as_tensor(part).double() for part in drawn)
    size = costs.shape[1]
    program = TorchProgram(
        size, size, smooth=lambda y, z: sign * (y @ z), lower=0.0, upper=1.0, **constraints
    )
    return Case(program, features, costs, lambda z: [z >= 0, z <= 1, *limits(z)])


def a_knapsack(rows: int = ROWS, degree: int = DEGREE, dimensions: int = 3) -> Case:
    """Twelve items and room for half of them."""
    sizes, *drawn = knapsack.genData(
        rows, FEATURES, 12, dim=dimensions, deg=degree, noise_width=NOISE
    )
    room = sizes.sum(1) / 2
    return case(drawn, lambda z: [sizes @ z <= room], -1.0, matrix=sizes, limit=room)


def a_portfolio(rows: int = ROWS) -> Case:
    """Ten assets under a limit of their variance, z' Sigma z <= gamma."""
    covariance, *drawn = portfolio.genData(rows, FEATURES, 10, deg=DEGREE)
    gamma = 2.25 * covariance.mean()
    sigma = torch.as_tensor(covariance)
    return case(
        drawn,
        lambda z: [cp.quad_form(z, covariance) <= gamma, cp.sum(z) == 1],
        -1.0,
        equality_matrix=np.ones((1, 10)),
        equality_value=1.0,
        inequality=lambda x, z: (z @ sigma @ z - gamma).reshape(1),
        num_inequalities=1,
    )


def a_shortest_path(rows: int = ROWS, degree: int = DEGREE) -> Case:
    """From the first corner of a grid to the last, going right or down."""
    drawn = shortestpath.genData(rows, FEATURES, (SIDE, SIDE), deg=degree, noise_width=NOISE)
    node = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    tails = np.concatenate([node[:, :-1].ravel(), node[:-1].ravel()])
    heads = np.concatenate([node[:, 1:].ravel(), node[1:].ravel()])
    # What leaves a node less what enters it; the last one's balance follows from the others.
    flow = ((tails == node.reshape(-1, 1)) * 1.0 - (heads == node.reshape(-1, 1)))[:-1]
    balance = np.eye(len(flow))[0]
    return case(
        drawn, lambda z: [flow @ z == balance], equality_matrix=flow, equality_value=balance
    )


CASES: dict[str, Callable[[], Case]] = {
    "knapsack": lambda: a_knapsack(dimensions=1),
    "knapsack of three dimensions": a_knapsack,
    "portfolio": a_portfolio,
    "shortest path": a_shortest_path,
}


def best(program: TorchProgram, costs: Tensor) -> Tensor:
    """Exact decisions ``(N, n)`` for costs ``(N, n)``."""
    solution = solve(program, costs.unsqueeze(1))
    assert bool(solution.solved.all()), solution.report()
    return solution.decision


@pytest.mark.parametrize("name", list(CASES))
def test_optimal_values_are_clarabels(name: str) -> None:
    program, _, costs, limits = CASES[name]()
    found = program.cost(costs, best(program, costs))
    for row in range(ROWS):
        z = cp.Variable(program.num_decisions)
        sign = 1.0 if name == "shortest path" else -1.0
        problem = cp.Problem(cp.Minimize(sign * costs[row].numpy() @ z), limits(z))
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        assert float(found[row]) == pytest.approx(problem.value, rel=1e-7)


def test_a_relaxed_path_is_a_path() -> None:
    program, _, costs, _ = a_shortest_path()
    decision = best(program, costs)
    torch.testing.assert_close(decision, decision.round(), rtol=0, atol=1e-7)
    assert bool((decision.round().sum(1) == 2 * (SIDE - 1)).all())


@pytest.mark.parametrize("kind", ["quadratic", "entropic"])
@pytest.mark.parametrize("name", list(CASES))
def test_gradients_of_regularised_decisions_are_those_of_differences(name: str, kind: Any) -> None:
    program, _, costs, _ = CASES[name]()
    layer = DecisionLayer(program, regularise=Regulariser(float(costs.std()), kind))
    generator = torch.Generator().manual_seed(0)
    towards, noise = torch.randn(2, *costs.shape, dtype=torch.float64, generator=generator)
    step = 1e-5 * costs.std() * noise
    y = costs.unsqueeze(1).requires_grad_()
    (layer(y) * towards).sum().backward()
    assert y.grad is not None
    found = (y.grad.squeeze(1) * step).sum(1)
    with torch.no_grad():
        up, down = (layer((costs + sign * step).unsqueeze(1)) for sign in (1.0, -1.0))
    wanted = ((up - down) * towards).sum(1) / 2
    assert bool((wanted.abs() > 0).all())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("make", "known", "new"), [(a_knapsack, 0.7, 0.9), (a_shortest_path, 0.8, torch.inf)]
)
def test_a_linear_predictor_trained_for_decisions_beats_least_squares(
    make: Callable[..., Case], known: float, new: float
) -> None:
    """Of costs of degree six, which it cannot fit; 64 rows are too few for paths of forty arcs to
    gain on new rows."""
    program, features, costs, _ = make(164, 6)
    inputs = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    hindsight = program.cost(costs, best(program, costs))
    train, test = slice(0, 64), slice(64, None)

    def regret(slopes: Tensor, rows: slice) -> float:
        """Cost above hindsight."""
        cost = program.cost(costs[rows], best(program, inputs[rows] @ slopes))
        return float((cost - hindsight[rows]).mean())

    squares = torch.linalg.lstsq(inputs[train], costs[train]).solution
    slopes = squares.clone().requires_grad_()
    layer = DecisionLayer(program, regularise=Regulariser(0.3 * float(costs[train].std())))
    optimizer = torch.optim.Adam([slopes], lr=0.05 * float(squares.abs().mean()))
    for _ in range(10):
        optimizer.zero_grad()
        decision = layer((inputs[train] @ slopes).unsqueeze(1))
        program.cost(costs[train], decision).mean().backward()
        optimizer.step()
    focused = slopes.detach()
    assert regret(focused, train) < known * regret(squares, train)
    assert regret(focused, test) < new * regret(squares, test)
