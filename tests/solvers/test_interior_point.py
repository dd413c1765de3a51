"""The interior point: against the structured solvers, Clarabel, closed forms and its own certificate."""

import math
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.programs import (
    Hinge,
    Instances,
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    ProductAllocation,
    Program,
    TorchProgram,
    bandwidth,
    conditional_value_at_risk,
)
from diffusion_dfl.programs.constraints import SmoothConstraints
from diffusion_dfl.solvers import Solution, Status, solve
from tests.solvers.interior_point_cases import (
    D,
    Quadratic,
    assert_kkt,
    daily,
    definite,
    interior,
    normal,
)

SCALES = [1e-4, 1.0, 1e4]


def _compare(
    program: Program,
    scenarios: Tensor,
    weights: Tensor | None = None,
    width: Tensor | None = None,
    tolerance: float = 1e-8,
) -> Solution:
    """Solve both ways and compare decisions, kinks and what stationarity says of the slopes."""
    ours = interior(program, scenarios, weights, width)
    theirs = solve(program, scenarios, weights, width, solver="structured")
    assert (ours.status == Status.SOLVED).all(), ours.report()
    assert (theirs.status == Status.SOLVED).all(), theirs.report()
    size = theirs.decision.abs().amax() + scenarios.abs().amax()
    assert ((ours.decision - theirs.decision).abs() <= tolerance * size).all()
    steep = scenarios.abs().amax() + theirs.subgradients.abs().amax()
    assert ((ours.subgradients - theirs.subgradients).abs() <= 1e-6 * steep).all()
    assert torch.equal(ours.at_kink, theirs.at_kink)
    return ours


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("ramp", [math.inf, 10.0, 0.05, 0.0])
@pytest.mark.parametrize("num_scenarios", [1, 2, 20])
def test_exact_power_has_the_decisions_and_kinks_of_the_structured_solver(
    num_scenarios: int, ramp: float, scale: float
) -> None:
    program = PowerProgram(ramp=ramp * scale, num_decisions=10)
    _compare(program, scale * daily(4, num_scenarios, 10))


@pytest.mark.parametrize("ramp", [math.inf, 0.05, 0.0])
@pytest.mark.parametrize("scale", [1.06, 1e-3, 1e-6])
def test_convolved_power_has_the_decisions_of_the_structured_solver(
    scale: float, ramp: float
) -> None:
    scenarios = daily(4, 20, 10)
    width = bandwidth(scenarios, scale=scale)
    _compare(PowerProgram(ramp=ramp, num_decisions=10), scenarios, None, width)


def test_hours_with_and_without_a_kernel_mix() -> None:
    scenarios = daily(4, 12, 10)
    width = bandwidth(scenarios)
    width[:, ::2] = 0
    width[2:, 1::4] = 1e-5
    solution = interior(PowerProgram(ramp=0.1, num_decisions=10), scenarios, None, width)
    reference = solve(PowerProgram(ramp=0.1, num_decisions=10), scenarios, None, width)
    assert solution.solved.all(), solution.report()
    assert torch.allclose(solution.decision, reference.decision, rtol=0, atol=1e-9)


def test_held_decisions_lie_exactly_on_their_scenarios() -> None:
    scenarios = daily(6, 20, 10)
    solution = interior(PowerProgram(num_decisions=10), scenarios)
    gap = (scenarios - solution.decision.unsqueeze(1))[solution.at_kink]
    assert len(gap) >= 30 and (gap == 0).all()


def test_tied_scenarios_share_alike_whatever_their_weights() -> None:
    scenarios = daily(4, 3, 6).repeat_interleave(2, dim=1)
    weights = torch.tensor([0.3, 0.1, 0.0, 0.2, 0.4, 0.0], **D).expand(4, -1)
    solution = interior(PowerProgram(num_decisions=6), scenarios, weights)
    assert solution.shares is not None and solution.at_kink.any()
    first, second = solution.shares[:, ::2], solution.shares[:, 1::2]
    assert torch.allclose(first, second, rtol=0, atol=1e-12)
    assert not solution.at_kink[:, [2, 5]].any()


@pytest.mark.parametrize("num_scenarios", [1, 10, 60])
@pytest.mark.parametrize("risk_aversion", [0.0, 10.0])
def test_portfolio_has_the_objective_of_the_structured_solver(
    risk_aversion: float, num_scenarios: int
) -> None:
    program = MeanVariancePortfolio(15, risk_aversion=risk_aversion)
    scenarios = 0.02 * normal(4, num_scenarios, 15) + 0.001
    ours, theirs = interior(program, scenarios), solve(program, scenarios)
    assert ours.solved.all(), ours.report()
    assert_kkt(program, scenarios, ours)
    given = Instances.of(scenarios)
    value, best = (program.objective(given, found.decision) for found in (ours, theirs))
    assert torch.allclose(value, best, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("num_scenarios", [1, 30])
def test_allocation_has_the_decisions_of_the_structured_solver(
    num_scenarios: int, scale: float
) -> None:
    scenarios = scale * (1.5 * normal(4, num_scenarios, 6) + 0.5)
    _compare(ProductAllocation(6), scenarios, tolerance=1e-7)


@pytest.mark.parametrize("cubic", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.06, 1e-3])
@pytest.mark.parametrize("num_scenarios", [2, 25])
def test_newsvendor_has_the_decisions_of_the_structured_solver(
    num_scenarios: int, scale: float, cubic: float
) -> None:
    program = Newsvendor(c0=1.0, q0=2 * cubic, rb=14 * cubic, rh=2 * cubic, num_decisions=3)
    scenarios = 2.5 + normal(4, num_scenarios, 3)
    _compare(program, scenarios, None, bandwidth(scenarios, scale=scale))


def _clarabel(matrix: Tensor, mean: Tensor, limits: Callable[[cp.Variable], list[Any]]) -> Tensor:
    z = cp.Variable(len(mean))
    cost = 0.5 * cp.quad_form(z, cp.psd_wrap(matrix.numpy())) - mean.numpy() @ z
    problem = cp.Problem(cp.Minimize(cost), limits(z))
    problem.solve(
        solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12, max_iter=200
    )
    return torch.tensor(z.value, **D)


@pytest.mark.parametrize("scale", SCALES)
def test_quadratic_programs_agree_with_clarabel(scale: float) -> None:
    matrix, rows = definite(6), normal(4, 6, seed=5)
    parts = {
        "lower": torch.full((6,), -0.3 * scale, **D),
        "upper": torch.full((6,), 0.5 * scale, **D),
        "matrix": rows,
        "limit": torch.tensor([0.1, 0.2, math.inf, 0.0], **D) * scale,
        "equality_matrix": torch.ones(1, 6, **D),
        "equality_value": torch.tensor([0.2 * scale], **D),
    }
    program, scenarios = Quadratic(matrix, parts), scale * normal(3, 2, 6)
    solution = interior(program, scenarios)
    assert solution.solved.all(), solution.report()
    assert_kkt(program, scenarios, solution)
    finite = [0, 1, 3]
    for row in range(3):
        reference = _clarabel(
            matrix,
            scenarios[row].mean(0) / scale,
            lambda z: [
                z >= -0.3,
                z <= 0.5,
                rows.numpy()[finite] @ z <= np.array([0.1, 0.2, 0.0]),
                cp.sum(z) == 0.2,
            ],
        )
        assert torch.allclose(solution.decision[row] / scale, reference, rtol=0, atol=1e-8)


def test_a_quadratic_program_without_constraints_is_one_newton_step() -> None:
    matrix, scenarios = definite(5), normal(4, 3, 5)
    solution = interior(Quadratic(matrix), scenarios)
    exact = torch.linalg.solve(matrix, scenarios.mean(1).T).T
    assert solution.solved.all() and (solution.iterations <= 1).all()
    assert torch.allclose(solution.decision, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
def test_a_linear_program_on_the_simplex_takes_the_best_vertex(scale: float) -> None:
    parts = {
        "lower": torch.zeros(6, **D),
        "equality_matrix": torch.ones(1, 6, **D),
        "equality_value": torch.tensor([scale], **D),
    }
    scenarios = normal(5, 3, 6)
    solution = interior(Quadratic(torch.zeros(6, 6, **D), parts), scenarios)
    vertex = scale * torch.nn.functional.one_hot(scenarios.mean(1).argmax(1), 6).to(torch.float64)
    assert solution.solved.all(), solution.report()
    assert torch.allclose(solution.decision, vertex, rtol=0, atol=1e-9 * scale)
    best = -scenarios.mean(1).amax(1, keepdim=True)
    assert torch.allclose(-solution.equality_duals, best, rtol=1e-9)


def test_an_optimal_face_of_a_linear_program_is_solved_at_one_of_its_points() -> None:
    scenarios = torch.tensor([1.0, 1.0, 0.0], **D).expand(2, 1, 3).contiguous()
    parts = {
        "lower": torch.zeros(3, **D),
        "equality_matrix": torch.ones(1, 3, **D),
        "equality_value": torch.ones(1, **D),
    }
    program = Quadratic(torch.zeros(3, 3, **D), parts)
    solution = interior(program, scenarios)
    assert solution.solved.all(), solution.report()
    assert_kkt(program, scenarios, solution)


@pytest.mark.parametrize("scale", SCALES)
def test_a_linear_cost_in_a_ball_is_least_along_its_direction(scale: float) -> None:
    def ball(context: Tensor | None) -> SmoothConstraints:
        def inside(x: Tensor | None, z: Tensor) -> Tensor:
            assert x is not None
            return (z.square().sum() - x.square().sum()).unsqueeze(0)

        return SmoothConstraints(inside, 1, context)

    program = Quadratic(torch.zeros(4, 4, **D), {"smooth": ball})
    scenarios, radius = normal(3, 2, 4), scale * torch.tensor([[0.1], [1.0], [2.0]], **D)
    solution = interior(program, scenarios, None, None, radius)
    mean = scenarios.mean(1)
    exact = radius * mean / mean.norm(dim=1, keepdim=True)
    assert solution.solved.all(), solution.report()
    assert torch.allclose(solution.decision, exact, rtol=1e-9, atol=1e-9 * scale)
    slope = mean.norm(dim=1) / (2 * radius.squeeze(1))
    assert torch.allclose(solution.duals.squeeze(1), slope, rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_value_at_risk_in_a_ball_agrees_with_clarabel(scale: float) -> None:
    returns = scale * (0.3 * normal(2, 12, 4) + 0.1)
    program = conditional_value_at_risk(
        lambda y, z: -(y @ z),
        0.8,
        4,
        4,
        equality_matrix=torch.ones(1, 4, **D),
        equality_value=1.0,
        inequality=lambda x, z: (z.square().sum() - 0.36).unsqueeze(0),
        num_inequalities=1,
    )
    solution = interior(program, returns)
    assert solution.solved.all(), solution.report()
    values = program.objective(Instances.of(returns), solution.decision) / scale
    for row in range(2):
        z, t = cp.Variable(4), cp.Variable()
        tail = cp.sum(cp.pos(-(returns[row].numpy() / scale) @ z - t)) / 12 / 0.2
        problem = cp.Problem(cp.Minimize(t + tail), [cp.sum(z) == 1, cp.norm(z) <= 0.6])
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        assert abs(float(values[row]) - problem.value) <= 1e-9


def test_programs_without_interior_are_solved() -> None:
    matrix, one = definite(4), torch.ones(1, 4, **D)
    scenarios = normal(3, 2, 4)
    cases: dict[str, dict[str, Any]] = {
        "opposite rows": {
            "matrix": torch.cat([one, -one]),
            "limit": torch.tensor([1.0, -1.0], **D),
        },
        "equal bounds": {"lower": 0.2 * one, "upper": 0.2 * one},
        "redundant equalities": {
            "equality_matrix": torch.cat([one, 3 * one]),
            "equality_value": torch.tensor([1.0, 3.0], **D),
        },
        "one point": {
            "lower": 0 * one,
            "upper": 0.25 * one,
            "equality_matrix": one,
            "equality_value": torch.ones(1, **D),
        },
    }
    for name, parts in cases.items():
        program = Quadratic(matrix, parts)
        solution = interior(program, scenarios)
        assert solution.solved.all(), name + solution.report()
        assert_kkt(program, scenarios, solution)


def test_only_the_instances_whose_limits_meet_have_no_interior() -> None:
    row = torch.tensor([[1.0, 1.0, 0.0]], **D)
    limit = torch.tensor([[1.0, -1.0], [1.0, 0.5], [1.0, -1.0]], **D)
    lower = torch.zeros(3, 3, **D)
    upper = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], **D)
    parts = {"matrix": torch.cat([row, -row]), "limit": limit, "lower": lower, "upper": upper}
    program, scenarios = Quadratic(definite(3), parts), normal(3, 2, 3)
    solution = interior(program, scenarios)
    assert solution.solved.all(), solution.report()
    assert_kkt(program, scenarios, solution)
    total = solution.decision[:, :2].sum(1)
    assert torch.allclose(total[[0, 2]], torch.ones(2, **D)) and solution.decision[0, 2] == 0


_ONE = torch.ones(1, 4, **D)
_INFEASIBLE: dict[str, Callable[[float], dict[str, Any]]] = {
    "rows": lambda s: {
        "matrix": torch.cat([_ONE, -_ONE]),
        "limit": s * torch.tensor([1.0, -2.0], **D),
    },
    "box and equality": lambda s: {
        "lower": 0 * _ONE,
        "upper": 0.1 * s * _ONE,
        "equality_matrix": _ONE,
        "equality_value": torch.tensor([s], **D),
    },
    "equalities": lambda s: {
        "equality_matrix": torch.cat([_ONE, _ONE]),
        "equality_value": s * torch.tensor([1.0, 2.0], **D),
    },
    "balls": lambda s: {
        "smooth": SmoothConstraints(
            lambda x, z: torch.stack([z.square().sum(), (z - s).square().sum()]) - 0.01 * s * s, 2
        )
    },
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", list(_INFEASIBLE))
def test_infeasible_programs_are_named(kind: str, scale: float) -> None:
    program = Quadratic(definite(4), _INFEASIBLE[kind](scale))
    solution = interior(program, scale * normal(3, 2, 4))
    assert (solution.status == Status.INFEASIBLE).all(), solution.report()


@pytest.mark.parametrize("scale", SCALES)
def test_unbounded_programs_are_named(scale: float) -> None:
    nothing, flat = torch.zeros(4, 4, **D), torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], **D))
    rows = {"matrix": _ONE, "limit": torch.tensor([scale], **D)}
    scenarios = scale * normal(3, 2, 4)
    falling = scenarios.clone()
    falling[..., 3] = -falling[..., 3].abs()
    for program, outcomes in (
        (Quadratic(nothing), scenarios),
        (Quadratic(nothing, rows), scenarios),
        (Quadratic(flat, rows), falling),
    ):
        solution = interior(program, outcomes)
        assert (solution.status == Status.UNBOUNDED).all(), solution.report()


def test_a_bad_instance_does_not_touch_its_neighbours() -> None:
    upper = torch.tensor([[1.0] * 4, [0.1] * 4, [1.0] * 4], **D)
    parts = {
        "lower": 0 * upper,
        "upper": upper,
        "equality_matrix": _ONE,
        "equality_value": torch.ones(1, **D),
    }
    program, scenarios = Quadratic(definite(4), parts), normal(3, 2, 4)
    solution = interior(program, scenarios)
    assert solution.status.tolist() == [Status.SOLVED, Status.INFEASIBLE, Status.SOLVED]
    rest = dict(parts, lower=0 * upper[:1], upper=upper[:1])
    alone = interior(Quadratic(definite(4), rest), scenarios[[0, 2]])
    assert torch.allclose(solution.decision[[0, 2]], alone.decision, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scale", SCALES)
def test_negative_curvature_is_named(scale: float) -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0, -1e-3], **D))
    box = {"lower": -scale * _ONE, "upper": scale * _ONE}
    solution = interior(Quadratic(matrix, box), scale * normal(3, 2, 4))
    assert (solution.status == Status.NON_CONVEX).all(), solution.report()


def test_a_singular_hessian_is_not_taken_for_a_negative_one() -> None:
    root = normal(2, 6)
    box = {"lower": -torch.ones(6, **D), "upper": torch.ones(6, **D)}
    program, scenarios = Quadratic(root.T @ root, box), normal(4, 2, 6)
    solution = interior(program, scenarios)
    assert solution.solved.all(), solution.report()
    assert_kkt(program, scenarios, solution)


def test_a_start_changes_iterations_only() -> None:
    scenarios = daily(4, 10, 8)
    program = PowerProgram(ramp=0.1, num_decisions=8)
    cold = interior(program, scenarios)
    warm = interior(program, scenarios, start=cold.decision + 1e-3)
    far = interior(program, scenarios, start=cold.decision + 1e3)
    for other in (warm, far):
        assert other.solved.all()
        assert torch.allclose(other.decision, cold.decision, rtol=0, atol=1e-9)


def test_an_empty_batch_is_solved() -> None:
    solution = interior(PowerProgram(num_decisions=5), torch.zeros(0, 3, 5, **D))
    assert solution.decision.shape == (0, 5) and solution.status.shape == (0,)


@pytest.mark.parametrize(
    "limits",
    [
        {"matrix": torch.ones(1, 2), "limit": lambda x: x[:1]},
        {"inequality": lambda x, z: (z @ z - x[0]).reshape(1), "num_inequalities": 1},
    ],
)
def test_an_empty_batch_is_solved_whose_limits_depend_on_contexts(limits: dict[str, Any]) -> None:
    program = TorchProgram(2, 2, smooth=lambda y, z: (z - y).square().sum(), **limits)
    nothing = torch.zeros(0, 5, 2).double()
    assert solve(program, nothing, context=torch.zeros(0, 3).double()).decision.shape == (0, 2)


@pytest.mark.parametrize("rounded", [False, True])
def test_a_bakery_without_curvature_is_solved_along_edges_that_are_flat_or_nearly(
    rounded: bool,
) -> None:
    # In float32 .8 is a little more, and the cost falls along an edge by a billionth.
    minutes = torch.tensor([[3.0, 0.8, 6.0]], dtype=torch.float64 if rounded else torch.float32)
    program = TorchProgram(
        3,
        3,
        hinges=[Hinge(4.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y)],
        lower=0.0,
        matrix=minutes,
        limit=500.0,
    )
    rng = np.random.default_rng(0)
    demand = torch.tensor(rng.gamma(10, 1, (64, 100, 3)) * [6.5, 18, 2.5])
    if rounded:
        demand = demand.round()
    solution = solve(program, demand)
    assert solution.solved.all()
    cost = program.objective(Instances.of(demand), solution.decision)
    for row in (3, 9, 18, 21, 31):
        z, y = cp.Variable(3), demand[row].numpy()
        apart = y - np.ones((100, 1)) @ cp.reshape(z, (1, 3), order="C")
        stated = cp.sum(4 * cp.pos(apart) + cp.pos(-apart)) / 100
        limits = [z >= 0, minutes.double().numpy() @ z <= 500]
        found = cp.Problem(cp.Minimize(stated), limits).solve(solver=cp.CLARABEL)
        assert float(cost[row]) <= found * (1 + 1e-8)
