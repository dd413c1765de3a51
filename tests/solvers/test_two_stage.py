"""Two-stage programs against Clarabel, closed forms and their own certificates."""

import re
from dataclasses import replace
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer, SolverFailure
from diffusion_dfl.programs import Hinge, Instances, Recourse, TorchProgram, TwoStageProgram
from diffusion_dfl.solvers import Solution, Status, solve
from tests.solvers.two_stage_cases import CASES, Case, D, apart, in_units, uniform


def objective(case: Case, decision: Tensor, weights: Tensor) -> Tensor:
    given = Instances.of(case.outcomes, weights, context=case.context)
    program, instances = case.program.with_context(given)
    return program.objective(instances, decision)


def weighted(case: Case, seed: int = 3) -> Tensor:
    weights = uniform(*case.outcomes.shape[:2], seed=seed)
    # A scenario without weight counts for nothing, and still has its recourse.
    weights[:, 0] = 0.0
    return weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("name", CASES)
def test_decisions_are_those_of_clarabel(name: str) -> None:
    case = CASES[name]()
    weights = weighted(case)
    solution = solve(case.program, case.outcomes, weights, context=case.context)
    assert bool(solution.solved.all()), solution.report()
    ours = objective(case, solution.decision, weights)
    assert solution.recourse is not None
    assert solution.recourse.shape[2] == case.program.recourse.num_decisions
    for index, outcomes in enumerate(case.outcomes.numpy()):
        limit = None if case.context is None else case.context[index].numpy()
        cost, z, limits = case.statement(outcomes, limit)
        problem = cp.Problem(cp.Minimize(weights[index].numpy() @ cost), limits)
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
        assert float(ours[index]) == pytest.approx(problem.value, rel=1e-8, abs=1e-8)
        np.testing.assert_allclose(solution.decision[index], z.value, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_multipliers_and_subgradients_make_the_kkt_system(name: str) -> None:
    case = CASES[name]()
    weights = weighted(case)
    solution = solve(case.program, case.outcomes, weights, context=case.context)
    limits = case.program.constraints(case.outcomes, case.context)
    total = torch.einsum("bm,bmn->bn", weights, solution.subgradients)
    total = total + limits.inequality_force(solution.decision, solution.duals)
    total = total + solution.equality_duals @ limits.equality_matrix[0]
    assert float(total.abs().max()) < 1e-8
    assert float(solution.residuals.max()) < 1e-7


def test_hinges_are_those_of_the_one_stage_program() -> None:
    parts = {
        "smooth": lambda y, z: z.sum() + 0.1 * (z**2).sum(),
        "hinges": [Hinge([3.0, 2.0], lambda y, z: y - z), Hinge(0.5, lambda y, z: z[:1], 3)],
        "lower": 0.0,
    }
    idle = Recourse(1, smooth=lambda y, z, u: (u**2).sum())
    outcomes = 4 * uniform(5, 12, 2)
    two = solve(TwoStageProgram(2, 2, idle, **parts), outcomes)
    one = solve(TorchProgram(2, 2, **parts), outcomes)
    torch.testing.assert_close(two.decision, one.decision, atol=1e-7, rtol=0)
    cost = TwoStageProgram(2, 2, idle, **parts).cost(outcomes, one.decision.unsqueeze(1))
    expected = TorchProgram(2, 2, **parts).cost(outcomes, one.decision.unsqueeze(1))
    torch.testing.assert_close(cost, expected, atol=1e-9, rtol=0)


def test_a_linear_second_stage_has_the_newsvendors_quantile() -> None:
    # Order at 1, buy what is missing at 4: the 3/4 quantile.
    program = TwoStageProgram(
        1,
        1,
        Recourse(
            1,
            smooth=lambda y, z, u: 4.0 * u.sum(),
            inequality=lambda y, z, u: y - z - u,
            lower=0.0,
        ),
        smooth=lambda y, z: z.sum(),
    )
    outcomes = uniform(3, 41, 1)
    solution = solve(program, outcomes)
    torch.testing.assert_close(
        solution.decision[:, 0], outcomes[..., 0].quantile(0.75, dim=1), atol=1e-7, rtol=0
    )
    missing = (outcomes - solution.decision.unsqueeze(1)).clamp_min(0)
    torch.testing.assert_close(solution.recourse, missing, atol=1e-7, rtol=0)


def one(recourse: Recourse, **parts: object) -> TwoStageProgram:
    return TwoStageProgram(1, 1, recourse, **parts)  # type: ignore[arg-type]


MISSING = Recourse(
    1, smooth=lambda y, z, u: u.sum(), equality=lambda y, z, u: u - y - z, lower=0.0, upper=0.5
)
FALLING = Recourse(1, smooth=lambda y, z, u: -u.sum(), inequality=lambda y, z, u: -u - y - z)
EARNING = Recourse(1, smooth=lambda y, z, u: (u - y).square().sum())


@pytest.mark.parametrize(
    ("program", "status"),
    [
        (one(MISSING, lower=0.0), Status.INFEASIBLE),
        (one(MISSING, lower=0.0, matrix=[[1.0]], limit=[-1.0]), Status.INFEASIBLE),
        (one(FALLING, lower=0.0), Status.UNBOUNDED),
        (one(EARNING, smooth=lambda y, z: -z.sum()), Status.UNBOUNDED),
    ],
    ids=["no recourse", "no first stage", "recourse falls", "first stage falls"],
)
def test_verdicts_have_a_proof(program: TwoStageProgram, status: Status) -> None:
    outcomes = torch.tensor([[[0.2], [1.4]], [[0.9], [0.3]]], **D)
    solution: Solution = solve(program, outcomes)
    assert solution.status.tolist() == [int(status)] * 2
    assert solution.proof is not None
    assert float(solution.proof.max()) < 1e-6
    assert bool(solution.decision.isnan().all())
    assert solution.recourse is not None
    assert bool(solution.recourse.isnan().all())


BUYING = Recourse(2, lambda y, z, u: 4 * u.sum(), lambda y, z, u: y - z - u, lower=0.0)


@pytest.mark.parametrize(
    "first",
    [
        {"lower": 0.0, "matrix": [[1.0, 1.0]], "limit": -1.0},
        {"lower": 0.0, "upper": 1.0, "matrix": [[1.0, 1.0]], "limit": -1.0},
        {"lower": [0.5, 0.0], "upper": [0.5, 1.0], "matrix": [[1.0, 1.0]], "limit": 0.4},
        {"lower": 0.0, "equality_matrix": [[1.0, 1.0]], "equality_value": -1e-3},
    ],
    ids=["limit", "box", "pinned", "equality"],
)
def test_a_recourse_without_bounds_does_not_hide_an_impossible_first_stage(
    first: dict[str, Any],
) -> None:
    # What is bought may grow for ever, and beside it every violation is small.
    program = TwoStageProgram(2, 2, BUYING, smooth=lambda y, z: z.sum() + 0.1 * (z @ z), **first)
    solution = solve(program, uniform(3, 5, 2))
    assert solution.status.tolist() == [int(Status.INFEASIBLE)] * 3, solution.residuals


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 15)) for seed in range(40)]
)
def test_verdicts_of_random_linear_programs_are_those_of_highs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, r, k, scenarios = rng.integers(1, 4, 4)
    first, price = rng.normal(size=n), rng.normal(size=r)
    T, W = rng.normal(size=(k, n)), rng.normal(size=(k, r))
    y, G, h = rng.normal(size=(scenarios, k)), rng.normal(size=(2, n)), rng.normal(size=2)
    lower, upper = rng.choice([0.0, -np.inf], 2), rng.choice([1.0, 3.0, np.inf], 2)
    # All scenarios at once.
    wide = np.kron(np.eye(scenarios), W)
    rows = np.block([[G, np.zeros((2, wide.shape[1]))], [np.tile(T, (scenarios, 1)), wide]])
    bounds = [(lower[0], upper[0])] * n + [(lower[1], upper[1])] * (r * scenarios)
    cost = np.r_[first, np.tile(price / scenarios, scenarios)]
    limit = np.r_[h, y.ravel()]
    best = linprog(cost, rows, limit, bounds=bounds)
    # Its presolve takes the one for the other.
    possible = linprog(0 * cost, rows, limit, bounds=bounds).status == 0
    expected = {0: Status.SOLVED, 2: Status.INFEASIBLE, 3: Status.UNBOUNDED}[best.status]
    if best.status and possible:
        expected = Status.UNBOUNDED
    c, q, of_z, of_u = (torch.as_tensor(part) for part in (first, price, T, W))
    recourse = Recourse(
        int(r),
        lambda y, z, u: q @ u,
        lambda y, z, u: of_z @ z + of_u @ u - y,
        lower=lower[1],
        upper=upper[1],
    )
    program = TwoStageProgram(
        n, k, recourse, lambda y, z: c @ z, (), G, h, lower=lower[0], upper=upper[0]
    )
    solution = solve(program, torch.as_tensor(y)[None])
    assert solution.status.tolist() == [int(expected)]
    if expected is Status.SOLVED:
        assert solution.recourse is not None
        found = c @ solution.decision[0] + (solution.recourse[0] @ q).mean()
        assert float(found) == pytest.approx(best.fun, rel=1e-7, abs=1e-7)


def test_a_cost_without_a_second_stage_is_infinite() -> None:
    outcomes = torch.tensor([[0.2], [1.4], [torch.nan]], **D)
    cost = one(MISSING, lower=0.0).cost(outcomes, torch.zeros(1, **D))
    assert cost[:2].tolist() == pytest.approx([0.2, torch.inf])
    assert bool(cost[2].isnan())
    assert one(FALLING).cost(outcomes[:2], torch.zeros(1, **D)).tolist() == [-torch.inf] * 2
    assert one(FALLING).cost(outcomes[:0], torch.zeros(0, 1, **D)).shape == (0,)


def test_invalid_rows_leave_the_others_alone() -> None:
    case = CASES["substitution"]()
    spoiled = case.outcomes.clone()
    spoiled[1, 3, 0] = torch.nan
    solution = solve(case.program, spoiled, context=case.context)
    good = solve(case.program, case.outcomes, context=case.context)
    assert solution.status.tolist() == [0, int(Status.INVALID_INPUT), 0, 0, 0, 0]
    others = [0, 2, 3, 4, 5]
    torch.testing.assert_close(solution.decision[others], good.decision[others], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "orders", [4.0, *(pytest.param(orders, marks=pytest.mark.slow) for orders in (6.0, 9.0))]
)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_every_coordinate_may_have_units_of_its_own(name: str, orders: float) -> None:
    case, weights = CASES[name](), weighted(CASES[name]())
    of_z = apart(case.program.num_decisions, orders, seed=1)
    of_u = apart(case.program.recourse.num_decisions, orders, seed=2)
    program = in_units(case.program, of_z, of_u)
    good = solve(case.program, case.outcomes, weights, context=case.context)
    found = solve(program, case.outcomes, weights, context=case.context)
    assert bool(found.solved.all()), found.report()
    torch.testing.assert_close(found.decision / of_z, good.decision, atol=1e-8, rtol=1e-8)
    assert found.recourse is not None and good.recourse is not None
    recourse = [(found.recourse / of_u)[:, 1:], good.recourse[:, 1:]]
    torch.testing.assert_close(*recourse, atol=1e-7, rtol=1e-7)
    ours = objective(replace(case, program=program), found.decision, weights)
    torch.testing.assert_close(ours, objective(case, good.decision, weights), atol=1e-8, rtol=1e-8)
    # Multipliers and subgradients are those of the program as it is given.
    limits = program.constraints(case.outcomes, case.context)
    total = torch.einsum("bm,bmn->bn", weights, found.subgradients)
    total = total + limits.inequality_force(found.decision, found.duals)
    total = total + found.equality_duals @ limits.equality_matrix[0]
    assert float((of_z * total).abs().max()) < 1e-7


def test_instances_in_units_of_their_own_are_solved_side_by_side() -> None:
    sizes = torch.tensor([[1.0, 1.0], [1.0, 1e6], [1e-6, 1e3], [1.0, 1e6]], **D)
    recourse = Recourse(
        2,
        lambda y, z, u, x: 4 * (u / x).sum() + 0.5 * ((u / x) ** 2).sum(),
        lambda y, z, u, x: y - z / x - u / x,
        lower=0.0,
    )
    program = TwoStageProgram(
        2, 2, recourse, lambda y, z, x: (z / x).sum() + 0.1 * ((z / x) ** 2).sum(), lower=0.0
    )
    y = uniform(1, 9, 2).expand(4, -1, -1)
    solution = solve(program, y, context=sizes)
    assert bool(solution.solved.all())
    expected = solve(program, y[:1], context=sizes[:1]).decision.expand(4, -1)
    torch.testing.assert_close(solution.decision / sizes, expected, atol=1e-10, rtol=0)


def test_units_do_not_matter() -> None:
    case = CASES["balancing"]()
    ours = solve(case.program, case.outcomes).decision
    recourse = case.program.recourse
    assert recourse.smooth is not None
    smooth, first = recourse.smooth, case.program.smooth
    assert first is not None
    dear = TwoStageProgram(
        case.program.num_decisions,
        case.program.num_outcomes,
        Recourse(
            recourse.num_decisions,
            smooth=lambda y, z, u: 1e6 * smooth(y, z, u),
            equality=recourse.equality,
            inequality=recourse.inequality,
            lower=recourse.lower,
            upper=recourse.upper,
        ),
        smooth=lambda y, z: 1e6 * first(y, z),
        lower=0.0,
        upper=0.5,
    )
    torch.testing.assert_close(solve(dear, case.outcomes).decision, ours, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("recourse", "message"),
    [
        (lambda: Recourse(0), "num_decisions=0"),
        (lambda: Recourse(2, lower=[0.0, 0.0, 0.0]), r"lower has shape \(3,\)"),
        (lambda: Recourse(2, lower=1.0, upper=0.0), "lower is above upper"),
        (lambda: Recourse(2, lower=lambda x: x), "lower is a function"),
        (lambda: Recourse(1, smooth=lambda y, z, u: u), "returned shape"),
        (lambda: Recourse(1, smooth=lambda y, z, u: u.abs().sum()), "recourse: smooth.*kink"),
        (
            lambda: Recourse(1, inequality=lambda y, z, u: z - u**2),
            r"recourse: inequality.*not convex in u, so that recourse: inequality",
        ),
        (
            lambda: Recourse(1, inequality=lambda y, z, u: u**2 - z**2),
            r"recourse: inequality.*not convex in \(z, u\) together, so that",
        ),
        (
            lambda: Recourse(1, smooth=lambda y, z, u: -(u**2).sum()),
            "recourse: smooth.*not convex in u: the recourse's cost must be convex in the recourse "
            "variables.*State a convex cost",
        ),
        (
            lambda: Recourse(1, smooth=lambda y, z, u: (z * u).sum() + 0.1 * (u**2).sum()),
            r"recourse: smooth.*not convex in \(z, u\) together.*Move terms of z alone to the "
            "program's smooth=",
        ),
        (lambda: Recourse(1, equality=lambda y, z, u: u**2 - z), "recourse: equality.*not affine"),
        (lambda: Recourse(1, smooth=lambda y, z, u: (u @ z).item()), "recourse: smooth"),
    ],
)
def test_parts_that_do_not_fit_are_named(recourse: object, message: str) -> None:
    def attempt() -> None:
        solve(one(recourse()), torch.ones(1, 2, 1, **D))  # type: ignore[operator]

    with pytest.raises((TypeError, ValueError), match=message):
        attempt()


BOX = {"lower": -1.0, "upper": 1.0}


@pytest.mark.parametrize(
    ("smooth", "recourse"),
    [
        (None, Recourse(1, lambda y, z, u: (y * u**2).sum(), **BOX)),
        (None, Recourse(1, lambda y, z, u: (y * u**2 + 0.01 * u**4).sum(), **BOX)),
        (None, Recourse(1, inequality=lambda y, z, u: y * u**2 - 2.0, **BOX)),
        (lambda y, z: (y * z**2).sum(), Recourse(1, lambda y, z, u: (u**2).sum())),
    ],
    ids=["price of a square", "not quadratic", "in a limit", "of the first stage"],
)
def test_a_cost_that_is_convex_at_the_outcomes_there_are_is_taken(
    smooth: Any, recourse: Recourse
) -> None:
    prices = 1.0 + uniform(3, 5, 1)
    solution = solve(one(recourse, smooth=smooth, lower=0.0, upper=1.0), prices)
    assert bool(solution.solved.all()), solution.report()


@pytest.mark.parametrize(
    ("smooth", "recourse"),
    [
        (None, Recourse(1, lambda y, z, u: (y * u**2).sum(), **BOX)),
        (None, Recourse(1, lambda y, z, u: (y * u**2 + 0.01 * u**4).sum(), **BOX)),
        (lambda y, z: (z**2).sum(), Recourse(1, lambda y, z, u: (u**2 + (y - 2) * z * u).sum())),
        (lambda y, z: (y * z**2).sum(), Recourse(1, lambda y, z, u: (u**2).sum())),
    ],
    ids=["in u", "in u, not quadratic", "in z and u", "of the first stage"],
)
def test_negative_curvature_of_an_instance_is_its_verdict(smooth: Any, recourse: Recourse) -> None:
    program = one(recourse, smooth=smooth, lower=0.0, upper=1.0)
    prices = torch.full((3, 5, 1), 2.0, **D)
    assert bool(solve(program, prices).solved.all())
    prices[1] = -8.0
    solution = solve(program, prices)
    assert solution.status.tolist() == [0, int(Status.NON_CONVEX), 0]
    told = (
        r"instances 1 \(1 of 3\): not convex: the recourse's cost has negative curvature in the "
        "recourse variables u"
    )
    assert re.search(told, solution.report())
    with pytest.raises(SolverFailure, match=told):
        DecisionLayer(program)(prices)


def test_a_kink_outside_of_the_bounds_of_z_is_none() -> None:
    recourse = Recourse(1, lambda y, z, u: (z.abs() + u**2).sum())
    assert bool(solve(one(recourse, lower=0.5), torch.ones(1, 2, 1, **D)).solved.all())


def test_something_else_as_recourse_is_refused() -> None:
    with pytest.raises(TypeError, match="is no Recourse"):
        TwoStageProgram(1, 1, recourse=3)  # type: ignore[arg-type]


def test_costs_are_known_where_nothing_but_zero_is_left_to_decide() -> None:
    """No supply, no demand, a loss that is exactly the value at risk."""
    program = TwoStageProgram(
        1,
        2,
        smooth=lambda y, z: z.sum() + 0.1 * (z @ z),
        lower=0.0,
        recourse=Recourse(
            2,
            smooth=lambda y, z, u: 2 * u[0] + 10 * u[1],
            inequality=lambda y, z, u: torch.stack([y[0] - z[0] - u[0] - u[1], u[0] - y[1]]),
            lower=0.0,
        ),
    )
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(200, 2, generator=generator, dtype=torch.float64).round(decimals=1)
    z = torch.rand(200, 1, generator=generator, dtype=torch.float64).round(decimals=1)
    y[:40, 1], z[40:80] = 0.0, y[40:80, :1]
    short = (y[:, 0] - z[:, 0]).clamp_min(0)
    bought = torch.minimum(short, y[:, 1])
    expected = z.sum(1) + 0.1 * z.square().sum(1) + 2 * bought + 10 * (short - bought)
    torch.testing.assert_close(program.cost(y, z), expected, rtol=1e-8, atol=1e-9)
