"""The interior point: against the structured solvers, Clarabel, closed forms and its own certificate."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_dfl.programs import (
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    ProductAllocation,
    Program,
    bandwidth,
    conditional_value_at_risk,
)
from diffusion_dfl.programs.constraints import Constraints, SmoothConstraints
from diffusion_dfl.solvers import Solution, Status, solve

D: Any = {"dtype": torch.float64}
SCALES = [1e-4, 1.0, 1e4]


@dataclass(frozen=True, eq=False)
class Quadratic(Program):
    """``f(y, z) = z' Q z / 2 - y' z`` under any constraints."""

    matrix: Tensor
    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def num_decisions(self) -> int:  # type: ignore[override]
        return len(self.matrix)

    @property
    def num_outcomes(self) -> int:  # type: ignore[override]
        return len(self.matrix)

    def cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        return 0.5 * ((decision @ self.matrix) * decision).sum(-1) - (outcome * decision).sum(-1)

    def objective(self, scenarios: Tensor, weights: Tensor, bandwidth: Tensor, z: Tensor) -> Tensor:
        return (weights * self.cost(scenarios, z.unsqueeze(1))).sum(1)

    def gradients(
        self, scenarios: Tensor, bandwidth: Tensor, z: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        return (z @ self.matrix).unsqueeze(1) - scenarios

    def hessian(self, scenarios: Tensor, weights: Tensor, bandwidth: Tensor, z: Tensor) -> Tensor:
        return self.matrix * weights.sum(1).view(-1, 1, 1)

    def cross_product(self, *args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("no derivative is asked for here")

    def constraints(self, like: Tensor, context: Tensor | None = None) -> Constraints:
        parts = dict(self.parts)
        if callable(parts.get("smooth")):
            parts["smooth"] = parts["smooth"](context)
        return Constraints.of(like, self.num_decisions, **parts)

    def cvxpy_problem(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the reference is stated in the test")


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _definite(size: int, seed: int = 0) -> Tensor:
    root = torch.randn(size, size, generator=_generator(seed), **D)
    return root @ root.T / size + 0.1 * torch.eye(size, **D)


def _normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=_generator(seed), **D)


def _daily(batch: int, num_scenarios: int, hours: int, seed: int = 0) -> Tensor:
    """A daily curve that breaks tight ramp limits in places, plus correlated noise."""
    time = torch.arange(hours, **D)
    swing = torch.rand(batch, 1, 1, generator=_generator(seed), **D)
    noise = _normal(batch, num_scenarios, hours, seed=seed + 1)
    return 2 * swing * torch.sin(2 * math.pi * time / 24) + 0.5 * noise + 0.2 * noise[:, :, :1]


def _interior(program: Program, scenarios: Tensor, *args: Any, **kwargs: Any) -> Solution:
    return solve(program, scenarios, *args, solver="interior_point", **kwargs)


def _assert_kkt(
    program: Program,
    scenarios: Tensor,
    solution: Solution,
    weights: Tensor | None = None,
    context: Tensor | None = None,
    tolerance: float = 1e-8,
) -> None:
    """Stationarity, feasibility, signs and complementarity, by formulas of this test alone."""
    batch, num_scenarios, _ = scenarios.shape
    if weights is None:
        weights = torch.full((batch, num_scenarios), 1 / num_scenarios, **D)
    z, subgradients = solution.decision, solution.subgradients
    limits = program.constraints(scenarios, context)
    slopes = torch.einsum("bm,bmn->bn", weights, subgradients)
    force = torch.einsum("bqn,bq->bn", limits.inequality_jacobian(z), solution.duals)
    matrix = limits.equality_matrix.expand(batch, -1, -1)
    force = force + torch.einsum("bpn,bp->bn", matrix, solution.equality_duals)
    # M = 1 may leave no slope at all: then it is rounding of the data's size.
    steep = scenarios.abs().amax((1, 2)) + subgradients.abs().amax((1, 2)) + force.abs().amax(1)
    assert ((slopes + force).abs().amax(1) <= tolerance * steep).all()
    assert (solution.duals >= 0).all()
    values = limits.inequality_values(z).nan_to_num(-1.0, neginf=-1.0)
    if values.shape[1]:
        size = 1e-12 + z.abs().amax(1, keepdim=True)
        assert (values <= tolerance * size).all(), values.max()
        used = (solution.duals * values).abs()
        assert (used <= tolerance * steep.unsqueeze(1) * size).all(), used.max()
    assert (limits.equality_residual(z).abs() <= tolerance * (1e-12 + z.abs().amax())).all()


def _compare(
    program: Program,
    scenarios: Tensor,
    weights: Tensor | None = None,
    width: Tensor | None = None,
    tolerance: float = 1e-8,
) -> Solution:
    """Solve both ways and compare decisions, kinks and what stationarity says of the slopes."""
    ours = _interior(program, scenarios, weights, width)
    theirs = solve(program, scenarios, weights, width, solver="structured")
    assert (ours.status == Status.SOLVED).all(), ours.report()
    assert (theirs.status == Status.SOLVED).all(), theirs.report()
    size = 1e-300 + theirs.decision.abs().amax() + scenarios.abs().amax()
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
    _compare(program, scale * _daily(4, num_scenarios, 10))


@pytest.mark.parametrize("ramp", [math.inf, 0.05, 0.0])
@pytest.mark.parametrize("scale", [1.06, 1e-3, 1e-6])
def test_convolved_power_has_the_decisions_of_the_structured_solver(
    scale: float, ramp: float
) -> None:
    scenarios = _daily(4, 20, 10)
    width = bandwidth(scenarios, scale=scale)
    _compare(PowerProgram(ramp=ramp, num_decisions=10), scenarios, None, width)


def test_hours_with_and_without_a_kernel_mix() -> None:
    scenarios = _daily(4, 12, 10)
    width = bandwidth(scenarios)
    width[:, ::2] = 0
    width[2:, 1::4] = 1e-5
    solution = _interior(PowerProgram(ramp=0.1, num_decisions=10), scenarios, None, width)
    reference = solve(PowerProgram(ramp=0.1, num_decisions=10), scenarios, None, width)
    assert solution.solved.all(), solution.report()
    assert torch.allclose(solution.decision, reference.decision, rtol=0, atol=1e-9)


def test_held_decisions_lie_exactly_on_their_scenarios() -> None:
    scenarios = _daily(6, 20, 10)
    solution = _interior(PowerProgram(num_decisions=10), scenarios)
    gap = (scenarios - solution.decision.unsqueeze(1))[solution.at_kink]
    assert len(gap) >= 30 and (gap == 0).all()


def test_tied_scenarios_share_alike_whatever_their_weights() -> None:
    scenarios = _daily(4, 3, 6).repeat_interleave(2, dim=1)
    weights = torch.tensor([0.3, 0.1, 0.0, 0.2, 0.4, 0.0], **D).expand(4, -1)
    solution = _interior(PowerProgram(num_decisions=6), scenarios, weights)
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
    scenarios = 0.02 * _normal(4, num_scenarios, 15) + 0.001
    ours = _interior(program, scenarios)
    theirs = solve(program, scenarios)
    assert ours.solved.all(), ours.report()
    _assert_kkt(program, scenarios, ours)
    weights = torch.full((4, num_scenarios), 1 / num_scenarios, **D)
    value, best = (
        program.objective(scenarios, weights, 0 * scenarios[:, 0], solution.decision)
        for solution in (ours, theirs)
    )
    assert torch.allclose(value, best, rtol=1e-9, atol=0)


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("num_scenarios", [1, 30])
def test_allocation_has_the_decisions_of_the_structured_solver(
    num_scenarios: int, scale: float
) -> None:
    scenarios = scale * (1.5 * _normal(4, num_scenarios, 6) + 0.5)
    _compare(ProductAllocation(6), scenarios, tolerance=1e-7)


@pytest.mark.parametrize("cubic", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.06, 1e-3])
@pytest.mark.parametrize("num_scenarios", [2, 25])
def test_newsvendor_has_the_decisions_of_the_structured_solver(
    num_scenarios: int, scale: float, cubic: float
) -> None:
    program = Newsvendor(c0=1.0, q0=2 * cubic, rb=14 * cubic, rh=2 * cubic, num_decisions=3)
    scenarios = 2.5 + _normal(4, num_scenarios, 3)
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
    matrix, rows = _definite(6), _normal(4, 6, seed=5)
    parts = {
        "lower": torch.full((6,), -0.3 * scale, **D),
        "upper": torch.full((6,), 0.5 * scale, **D),
        "matrix": rows,
        "limit": torch.tensor([0.1, 0.2, math.inf, 0.0], **D) * scale,
        "equality_matrix": torch.ones(1, 6, **D),
        "equality_value": torch.tensor([0.2 * scale], **D),
    }
    program, scenarios = Quadratic(matrix, parts), scale * _normal(3, 2, 6)
    solution = _interior(program, scenarios)
    assert solution.solved.all(), solution.report()
    _assert_kkt(program, scenarios, solution)
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
    matrix, scenarios = _definite(5), _normal(4, 3, 5)
    solution = _interior(Quadratic(matrix), scenarios)
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
    scenarios = _normal(5, 3, 6)
    solution = _interior(Quadratic(torch.zeros(6, 6, **D), parts), scenarios)
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
    solution = _interior(program, scenarios)
    assert solution.solved.all(), solution.report()
    _assert_kkt(program, scenarios, solution)


@pytest.mark.parametrize("scale", SCALES)
def test_a_linear_cost_in_a_ball_is_least_along_its_direction(scale: float) -> None:
    def ball(context: Tensor | None) -> SmoothConstraints:
        def inside(x: Tensor | None, z: Tensor) -> Tensor:
            assert x is not None
            return (z.square().sum() - x.square().sum()).unsqueeze(0)

        return SmoothConstraints(inside, 1, context)

    program = Quadratic(torch.zeros(4, 4, **D), {"smooth": ball})
    scenarios, radius = _normal(3, 2, 4), scale * torch.tensor([[0.1], [1.0], [2.0]], **D)
    solution = _interior(program, scenarios, None, None, radius)
    mean = scenarios.mean(1)
    exact = radius * mean / mean.norm(dim=1, keepdim=True)
    assert solution.solved.all(), solution.report()
    assert torch.allclose(solution.decision, exact, rtol=1e-9, atol=1e-9 * scale)
    slope = mean.norm(dim=1) / (2 * radius.squeeze(1))
    assert torch.allclose(solution.duals.squeeze(1), slope, rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_value_at_risk_in_a_ball_agrees_with_clarabel(scale: float) -> None:
    returns = scale * (0.3 * _normal(2, 12, 4) + 0.1)
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
    solution = _interior(program, returns)
    assert solution.solved.all(), solution.report()
    weights = torch.full((2, 12), 1 / 12, **D)
    values = program.objective(returns, weights, 0 * returns[:, 0], solution.decision) / scale
    for row in range(2):
        z, t = cp.Variable(4), cp.Variable()
        tail = cp.sum(cp.pos(-(returns[row].numpy() / scale) @ z - t)) / 12 / 0.2
        problem = cp.Problem(cp.Minimize(t + tail), [cp.sum(z) == 1, cp.norm(z) <= 0.6])
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        assert abs(float(values[row]) - problem.value) <= 1e-9


def test_programs_without_interior_are_solved() -> None:
    matrix, one = _definite(4), torch.ones(1, 4, **D)
    scenarios = _normal(3, 2, 4)
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
        solution = _interior(program, scenarios)
        assert solution.solved.all(), name + solution.report()
        _assert_kkt(program, scenarios, solution)


def test_only_the_instances_whose_limits_meet_have_no_interior() -> None:
    row = torch.tensor([[1.0, 1.0, 0.0]], **D)
    limit = torch.tensor([[1.0, -1.0], [1.0, 0.5], [1.0, -1.0]], **D)
    lower = torch.zeros(3, 3, **D)
    upper = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], **D)
    parts = {"matrix": torch.cat([row, -row]), "limit": limit, "lower": lower, "upper": upper}
    program, scenarios = Quadratic(_definite(3), parts), _normal(3, 2, 3)
    solution = _interior(program, scenarios)
    assert solution.solved.all(), solution.report()
    _assert_kkt(program, scenarios, solution)
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
    program = Quadratic(_definite(4), _INFEASIBLE[kind](scale))
    solution = _interior(program, scale * _normal(3, 2, 4))
    assert (solution.status == Status.INFEASIBLE).all(), solution.report()


@pytest.mark.parametrize("scale", SCALES)
def test_unbounded_programs_are_named(scale: float) -> None:
    nothing, flat = torch.zeros(4, 4, **D), torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], **D))
    rows = {"matrix": _ONE, "limit": torch.tensor([scale], **D)}
    scenarios = scale * _normal(3, 2, 4)
    falling = scenarios.clone()
    falling[..., 3] = -falling[..., 3].abs()
    for program, outcomes in (
        (Quadratic(nothing), scenarios),
        (Quadratic(nothing, rows), scenarios),
        (Quadratic(flat, rows), falling),
    ):
        solution = _interior(program, outcomes)
        assert (solution.status == Status.UNBOUNDED).all(), solution.report()


def test_a_bad_instance_does_not_touch_its_neighbours() -> None:
    upper = torch.tensor([[1.0] * 4, [0.1] * 4, [1.0] * 4], **D)
    parts = {
        "lower": 0 * upper,
        "upper": upper,
        "equality_matrix": _ONE,
        "equality_value": torch.ones(1, **D),
    }
    program, scenarios = Quadratic(_definite(4), parts), _normal(3, 2, 4)
    solution = _interior(program, scenarios)
    assert solution.status.tolist() == [Status.SOLVED, Status.INFEASIBLE, Status.SOLVED]
    rest = dict(parts, lower=0 * upper[:1], upper=upper[:1])
    alone = _interior(Quadratic(_definite(4), rest), scenarios[[0, 2]])
    assert torch.allclose(solution.decision[[0, 2]], alone.decision, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scale", SCALES)
def test_negative_curvature_is_named(scale: float) -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0, -1e-3], **D))
    box = {"lower": -scale * _ONE, "upper": scale * _ONE}
    solution = _interior(Quadratic(matrix, box), scale * _normal(3, 2, 4))
    assert (solution.status == Status.NON_CONVEX).all(), solution.report()


def test_a_singular_hessian_is_not_taken_for_a_negative_one() -> None:
    root = _normal(2, 6)
    box = {"lower": -torch.ones(6, **D), "upper": torch.ones(6, **D)}
    program, scenarios = Quadratic(root.T @ root, box), _normal(4, 2, 6)
    solution = _interior(program, scenarios)
    assert solution.solved.all(), solution.report()
    _assert_kkt(program, scenarios, solution)


def test_a_start_changes_iterations_only() -> None:
    scenarios = _daily(4, 10, 8)
    program = PowerProgram(ramp=0.1, num_decisions=8)
    cold = _interior(program, scenarios)
    warm = _interior(program, scenarios, start=cold.decision + 1e-3)
    far = _interior(program, scenarios, start=cold.decision + 1e3)
    for other in (warm, far):
        assert other.solved.all()
        assert torch.allclose(other.decision, cold.decision, rtol=0, atol=1e-9)


def test_an_empty_batch_is_solved() -> None:
    solution = _interior(PowerProgram(num_decisions=5), torch.zeros(0, 3, 5, **D))
    assert solution.decision.shape == (0, 5) and solution.status.shape == (0,)


def _check_adversarial(seed: int, num_scenarios: int, ramp: float, scale: float, kind: str) -> None:
    scenarios = scale * _daily(3, num_scenarios, 7, seed=seed % 1000)
    weights = torch.rand(3, num_scenarios, generator=_generator(seed), **D)
    if kind == "ties":
        scenarios = (scenarios / scale * 2).round() / 2 * scale
    if kind == "identical":
        scenarios = scenarios[:, :1].expand(-1, num_scenarios, -1).contiguous()
    if kind == "far":
        scenarios = scenarios + 1e3 * scale
    if kind == "weights":
        weights = torch.where(weights < 0.4, 0.0, weights)
        weights[:, 0] += 0.1
    weights = weights / weights.sum(1, keepdim=True)
    width = bandwidth(scenarios, weights) if kind == "convolved" else None
    program = PowerProgram(ramp=ramp * scale, num_decisions=7)
    ours = _interior(program, scenarios, weights, width)
    assert ours.solved.all(), ours.report()
    theirs = solve(program, scenarios, weights, width)
    size = scenarios.abs().amax()
    assert ((ours.decision - theirs.decision).abs() <= 1e-8 * size).all()
    _assert_kkt(program, scenarios, ours, weights)


_ADVERSARIAL = {
    "seed": st.integers(0, 2**31),
    "num_scenarios": st.integers(1, 9),
    "ramp": st.sampled_from([math.inf, 0.4, 0.05, 0.0]),
    "scale": st.sampled_from([1e-4, 1e-2, 1.0, 1e2, 1e4]),
    "kind": st.sampled_from(["plain", "ties", "identical", "far", "weights", "convolved"]),
}


@given(**_ADVERSARIAL)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_adversarial_power_programs_are_solved(**case: Any) -> None:
    _check_adversarial(**case)


@pytest.mark.slow
@given(**_ADVERSARIAL)
@settings(max_examples=3000, deadline=None)
def test_thousands_of_adversarial_power_programs_are_solved(**case: Any) -> None:
    _check_adversarial(**case)


def _check_quadratic(seed: int, size: int, rank: int, rows: int, scale: float) -> None:
    generator = _generator(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, **D)

    root = normal(min(rank, size), size)
    parts: dict[str, Any] = {
        "lower": torch.full((size,), -scale, **D),
        "upper": torch.full((size,), scale, **D),
    }
    if rows:
        # All limits pass through one decision of the box: many bind at once.
        inside = 0.5 * scale * torch.randint(-2, 3, (size,), generator=generator).to(torch.float64)
        parts["matrix"] = normal(rows, size)
        parts["limit"] = parts["matrix"] @ inside
    program = Quadratic(root.T @ root, parts)
    scenarios = scale * normal(3, 2, size)
    solution = _interior(program, scenarios)
    assert solution.solved.all(), solution.report()
    _assert_kkt(program, scenarios, solution)


_QUADRATIC = {
    "seed": st.integers(0, 2**31),
    "size": st.integers(1, 6),
    "rank": st.integers(0, 6),
    "rows": st.integers(0, 8),
    "scale": st.sampled_from([1e-4, 1.0, 1e4]),
}


@given(**_QUADRATIC)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_degenerate_quadratic_programs_satisfy_their_kkt_conditions(**case: Any) -> None:
    _check_quadratic(**case)


@pytest.mark.slow
@given(**_QUADRATIC)
@settings(max_examples=2000, deadline=None)
def test_thousands_of_degenerate_quadratic_programs_are_solved(**case: Any) -> None:
    _check_quadratic(**case)
