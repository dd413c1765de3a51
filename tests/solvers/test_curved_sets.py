"""Convex sets with curved edges, wherever they are: a plan of 500 units may be left by a ball of 20."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Hinge, TorchProgram
from diffusion_dfl.solvers import Status, solve

SIZE = 4
ROOT = torch.linalg.cholesky(torch.eye(SIZE, dtype=torch.float64) + 0.3)

#: Of the way from the centre.
SETS: dict[str, Callable[[Tensor], Tensor]] = {
    "ball": lambda d: d @ d - 1,
    "ellipsoid": lambda d: (ROOT.T @ d).square().sum() - 4,
    "norm": lambda d: (ROOT.T @ d).norm() - 2,
    "fourth powers": lambda d: (d**4).sum() - 1,
    "log of a sum": lambda d: torch.logsumexp(d, 0) - 1,
    "large ball": lambda d: d @ d - 1e8,
    "small ball": lambda d: d @ d - 1e-6,
}
COSTS = ("linear", "quadratic", "hinges")


def program(curved: Callable[[Tensor], Tensor], centre: float, cost: str) -> TorchProgram:
    # Slopes that no unbounded direction of a log of a sum escapes.
    stated = {
        "linear": {"smooth": lambda y, z: (y - centre - 2) @ z},
        "quadratic": {"smooth": lambda y, z: 0.5 * (z - y - 3).square().sum()},
        "hinges": {
            "hinges": [Hinge(4.3, lambda y, z: y + 1 - z), Hinge(1.0, lambda y, z: z - y - 1)]
        },
    }[cost]
    return TorchProgram(
        SIZE,
        SIZE,
        inequality=lambda x, z: curved(z - centre).reshape(1),
        num_inequalities=1,
        **stated,
    )


def outcomes(centre: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return centre + torch.randn(4, 20, SIZE, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(
    ("name", "cost"),
    [
        (name, cost) if place % 3 == index else pytest.param(name, cost, marks=pytest.mark.slow)
        for place, name in enumerate(SETS)
        for index, cost in enumerate(COSTS)
    ],
)
def test_a_set_far_away_is_solved_as_it_is_at_0(name: str, cost: str) -> None:
    near = solve(program(SETS[name], 0.0, cost), outcomes(0.0))
    assert bool(near.solved.all()), near.status
    for centre in (3.0, 500.0):
        found = solve(program(SETS[name], centre, cost), outcomes(centre))
        assert bool(found.solved.all()), (centre, found.status)
        way = found.decision - centre
        torch.testing.assert_close(way, near.decision, rtol=1e-7, atol=1e-8 * max(1.0, centre))
        if name in ("ball", "ellipsoid", "norm"):
            # Steps are those of the set, not of where it is.
            assert int(found.iterations.max()) <= 25


@pytest.mark.parametrize("centre", [0.0, 10.0, 1e3, 1e5])
def test_the_lowest_point_of_a_ball_is_known(centre: float) -> None:
    y = outcomes(centre)
    found = solve(program(SETS["ball"], centre, "linear"), y)
    slope = (y - centre - 2).mean(1)
    lowest = centre - slope / slope.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.decision, lowest, rtol=1e-12, atol=1e-9)


def test_gradients_through_a_ball_far_away_agree_with_differences() -> None:
    y = outcomes(500.0)
    way = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    layer = DecisionLayer(program(SETS["ball"], 500.0, "linear"))
    at = y.clone().requires_grad_()
    weight = torch.arange(1.0, SIZE + 1, dtype=y.dtype)
    (layer(at) @ weight).sum().backward()
    step = 1e-5
    with torch.no_grad():
        up, down = ((layer(y + s * way) @ weight).sum() for s in (step, -step))
    assert at.grad is not None
    assert float((at.grad * way).sum()) == pytest.approx(float(up - down) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("centre", [0.0, 500.0])
def test_two_balls_that_do_not_meet_are_infeasible(centre: float) -> None:
    apart = TorchProgram(
        SIZE,
        SIZE,
        smooth=lambda y, z: (z - y).square().sum(),
        inequality=lambda x, z: torch.stack(
            [SETS["ball"](z - centre), SETS["ball"](z - centre - 5)]
        ),
        num_inequalities=2,
    )
    assert bool((solve(apart, outcomes(centre)).status == int(Status.INFEASIBLE)).all())


@pytest.mark.parametrize("centre", [0.0, 3.0, pytest.param(50.0, marks=pytest.mark.slow)])
def test_an_exponential_that_looks_flat_from_0_is_not_taken_for_flat(centre: float) -> None:
    # exp(-50) is 0 beside 6: seen from 0 the set is everything, and the cost falls without end.
    for cost in COSTS:
        found = solve(program(lambda d: d.exp().sum() - 6, centre, cost), outcomes(centre))
        solved = found.decision[found.solved] - centre
        assert bool((solved.exp().sum(1) <= 6 + 1e-6).all())
        unsolved = found.status[~found.solved]
        assert bool((unsolved == int(Status.NOT_CONVERGED)).all())


@pytest.mark.parametrize("limit", [1.0, 1e3, 1e5, 1e7])
def test_straight_rows_among_the_curved_keep_their_limits(limit: float) -> None:
    program = TorchProgram(
        3,
        3,
        smooth=lambda y, z: -(y @ z),
        lower=0.0,
        num_inequalities=2,
        inequality=lambda x, z: torch.stack(
            [z[0] + 2 * z[1] + z[2] - limit, 2 * z[0] + z[1] + 3 * z[2] - limit]
        ),
    )
    y = torch.rand(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    found = solve(program, y)
    assert bool(found.solved.all()) and int(found.iterations.max()) <= 20


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_the_units_of_a_row_are_nothing(unit: float) -> None:
    program = TorchProgram(
        SIZE,
        SIZE,
        smooth=lambda y, z: (y - 52) @ z,
        num_inequalities=2,
        inequality=lambda x, z: torch.stack(
            [unit * SETS["ball"](z - 50), SETS["ellipsoid"](z - 50.5)]
        ),
    )
    found = solve(program, outcomes(50.0))
    assert bool(found.solved.all()) and int(found.iterations.max()) <= 20


@pytest.mark.slow
def test_a_small_set_in_some_coordinates_says_nothing_of_others() -> None:
    far = torch.tensor([-1e9, -1e9, -1e4], dtype=torch.float64)
    program = TorchProgram(
        3,
        3,
        smooth=lambda y, z: (y + 1) @ z,
        lower=far,
        num_inequalities=1,
        inequality=lambda x, z: (z[:2].square().sum() - 1e-8).reshape(1),
    )
    y = torch.rand(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    found = solve(program, y)
    slope = (y + 1).mean(1)[:, :2]
    assert bool(found.solved.all())
    torch.testing.assert_close(found.decision[:, 2], torch.full_like(slope[:, 0], -1e4))
    lowest = -1e-4 * slope / slope.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.decision[:, :2], lowest, rtol=1e-6, atol=1e-12)
