import dataclasses

import clarabel
import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_dfl.cones.algebra import ConeAlgebra, Cones
from diffusion_dfl.cones.problem import ConeProblem
from diffusion_dfl.cones.solver import TOLERANCE, solve_cone
from diffusion_dfl.solvers.solution import Status

F64 = torch.float64


def interior(cones: Cones, batch: int, generator: torch.Generator) -> Tensor:
    """Points inside the conic rows' cone."""
    size = cones.rows - cones.zero
    point = torch.randn(batch, size, generator=generator, dtype=F64)
    point[:, : cones.nonnegative] = point[:, : cones.nonnegative].abs() + 0.01
    first = cones.nonnegative
    for rows in cones.second_order:
        radius = point[:, first + 1 : first + rows].norm(dim=1)
        point[:, first] = radius + 0.01 + torch.rand(batch, generator=generator, dtype=F64)
        first += rows
    return point


def random_problem(
    batch: int, size: int, cones: Cones, rank: int, seed: int = 0, scale: float = 1.0
) -> ConeProblem:
    """Solvable by construction: strictly feasible primal and dual points are hidden in the data."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    matrix, x = normal(batch, cones.rows, size), normal(batch, size) * scale
    none = torch.zeros(batch, cones.zero, dtype=F64)
    slack = torch.cat([none, interior(cones, batch, generator)], 1) * scale
    dual = torch.cat([normal(batch, cones.zero), interior(cones, batch, generator)], 1)
    factor = normal(batch, size, max(rank, 1)) * (rank > 0)
    quadratic = factor @ factor.transpose(1, 2)
    linear = -torch.einsum("bmn,bm->bn", matrix, dual)
    linear = linear - torch.einsum("bmn,bn->bm", quadratic, x)
    limit = torch.einsum("bmn,bn->bm", matrix, x) + slack
    return ConeProblem(quadratic, linear, matrix, limit, cones)


def by_clarabel(problem: ConeProblem, row: int) -> clarabel.DefaultSolution:
    cones = [clarabel.ZeroConeT(problem.cones.zero)] if problem.cones.zero else []
    if problem.cones.nonnegative:
        cones.append(clarabel.NonnegativeConeT(problem.cones.nonnegative))
    cones += [clarabel.SecondOrderConeT(size) for size in problem.cones.second_order]
    options = clarabel.DefaultSettings()
    options.verbose = False
    options.tol_gap_abs = options.tol_gap_rel = options.tol_feas = 1e-10
    return clarabel.DefaultSolver(
        sparse.csc_matrix(np.triu(problem.quadratic[row].numpy())),
        problem.linear[row].numpy(),
        sparse.csc_matrix(problem.matrix[row].numpy()),
        problem.limit[row].numpy(),
        cones,
        options,
    ).solve()


def objective(problem: ConeProblem, x: Tensor) -> Tensor:
    return torch.einsum("bi,bij,bj->b", x, problem.quadratic, x) / 2 + (problem.linear * x).sum(1)


def extended(problem: ConeProblem, rows: Tensor, values: Tensor) -> ConeProblem:
    """With more nonnegative rows ``(k, n)``, in front of the others."""
    zero, batch = problem.cones.zero, len(problem.matrix)
    front, back = problem.matrix[:, :zero], problem.matrix[:, zero:]
    matrix = torch.cat([front, rows.expand(batch, -1, -1), back], 1)
    values = values.expand(batch, -1)
    limit = torch.cat([problem.limit[:, :zero], values, problem.limit[:, zero:]], 1)
    cones = dataclasses.replace(
        problem.cones, nonnegative=problem.cones.nonnegative + rows.shape[0]
    )
    return dataclasses.replace(problem, matrix=matrix, limit=limit, cones=cones)


CASES = {
    "linear program": (10, Cones(3, 15), 0),
    "quadratic program": (10, Cones(3, 15), 5),
    "second-order cones": (10, Cones(2, 5, (4, 3, 6, 1)), 0),
    "second-order cones and a quadratic": (12, Cones(2, 4, (5, 5)), 6),
    "many small cones": (12, Cones(2, 0, (3,) * 8), 3),
    "equalities only": (6, Cones(3, 0), 6),
    "no constraints": (5, Cones(0, 0), 5),
}


@pytest.mark.parametrize("name", CASES)
def test_objective_equals_clarabels(name: str) -> None:
    size, cones, rank = CASES[name]
    problem = random_problem(6, size, cones, rank)
    solution = solve_cone(problem)
    assert solution.solved.all()
    for row, value in enumerate(objective(problem, solution.x).tolist()):
        assert value == pytest.approx(by_clarabel(problem, row).obj_val, rel=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_optimality_conditions_hold_in_the_data(name: str) -> None:
    size, cones, rank = CASES[name]
    problem = random_problem(20, size, cones, rank, seed=1)
    solution = solve_cone(problem)
    assert solution.solved.all()
    x, s, z = solution.x, solution.slack, solution.dual
    slope = torch.einsum("bij,bj->bi", problem.quadratic, x) + problem.linear
    slope = slope + torch.einsum("bmn,bm->bn", problem.matrix, z)
    reach = torch.einsum("bmn,bn->bm", problem.matrix, x) + s - problem.limit
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-7, rtol=0)
    torch.testing.assert_close(reach, torch.zeros_like(reach), atol=1e-7, rtol=0)
    torch.testing.assert_close((s * z).sum(1), torch.zeros(20, dtype=F64), atol=1e-7, rtol=0)
    algebra = ConeAlgebra(cones, x)
    assert (algebra.margin(s[:, cones.zero :]) >= -1e-9).all()
    assert (algebra.margin(z[:, cones.zero :]) >= -1e-9).all()
    assert (s[:, : cones.zero] == 0).all()


SHAPES = st.fixed_dictionaries(
    {
        "size": st.integers(1, 8),
        "zero": st.integers(0, 2),
        "linear": st.integers(0, 8),
        "cones": st.lists(st.integers(1, 5), max_size=3),
        "rank": st.integers(0, 8),
        "scale": st.sampled_from([1e-4, 1.0, 1e4]),
        "seed": st.integers(0, 10**6),
    }
)


def check_that_solved_means_a_small_gap(
    batch: int,
    size: int,
    zero: int,
    linear: int,
    cones: list[int],
    rank: int,
    scale: float,
    seed: int,
) -> None:
    shape = Cones(min(zero, size), linear, tuple(cones))
    problem = random_problem(batch, size, shape, rank, seed, scale)
    solution = solve_cone(problem)
    good = solution.solved
    # Solvable by construction, so no certificate of the opposite can exist.
    assert (solution.status <= int(Status.NOT_CONVERGED)).all()
    assert good.float().mean() >= 0.75
    assert (solution.residuals[good] <= TOLERANCE).all()
    x, z = solution.x[good], solution.dual[good]
    curve = torch.einsum("bi,bij,bj->b", x, problem.quadratic[good], x)
    gap = curve + (problem.linear[good] * x).sum(1) + (problem.limit[good] * z).sum(1)
    terms = (problem.linear[good] * x).abs().sum(1) + (problem.limit[good] * z).abs().sum(1)
    assert (gap.abs() <= 1e-8 * (terms + curve) + 1e-300).all()


@settings(max_examples=25, derandomize=True, deadline=None)
@given(shape=SHAPES)
def test_solved_means_the_duality_gap_bounds_the_objective(shape: dict) -> None:
    check_that_solved_means_a_small_gap(4, **shape)


@pytest.mark.slow
@settings(max_examples=200, derandomize=True, deadline=None)
@given(shape=SHAPES)
def test_solved_means_the_duality_gap_bounds_the_objective_of_many(shape: dict) -> None:
    check_that_solved_means_a_small_gap(20, **shape)


@pytest.mark.parametrize("objective_scale", [1e-4, 1e4])
@pytest.mark.parametrize("decision_scale", [1e-4, 1e4])
def test_decisions_scale_with_the_units(objective_scale: float, decision_scale: float) -> None:
    problem = random_problem(5, 8, Cones(2, 6, (3, 4)), 4)
    other = dataclasses.replace(
        problem,
        quadratic=problem.quadratic * objective_scale / decision_scale**2,
        linear=problem.linear * objective_scale / decision_scale,
        limit=problem.limit * decision_scale,
    )
    expected, found = solve_cone(problem), solve_cone(other)
    assert found.solved.all()
    torch.testing.assert_close(found.x, expected.x * decision_scale, rtol=1e-6, atol=1e-9)
    dual = expected.dual * objective_scale / decision_scale
    torch.testing.assert_close(found.dual, dual, rtol=1e-6, atol=1e-9 * dual.abs().max().item())


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_contradicting_bounds_are_infeasible(scale: float) -> None:
    problem = random_problem(4, 5, Cones(1, 4, (3,)), 3)
    bounds = torch.zeros(2, 5, dtype=F64)
    bounds[0, 0], bounds[1, 0] = 1.0, -1.0
    problem = extended(problem, bounds, torch.tensor([-1.0, -1.0], dtype=F64))
    problem = dataclasses.replace(problem, limit=problem.limit * scale)
    solution = solve_cone(problem)
    assert (solution.status == int(Status.INFEASIBLE)).all()
    assert solution.x.isnan().all()


def test_a_falling_recession_direction_is_unbounded() -> None:
    # Five rows and five variables, so that A d = -(a point of the cone) has a solution d.
    problem = random_problem(6, 5, Cones(1, 1, (3,)), 0)
    direction = torch.linalg.solve(
        problem.matrix, torch.tensor([0.0, -1, -1, 0, 0], dtype=F64).expand(6, 5)
    )
    problem = dataclasses.replace(problem, linear=-direction)
    assert (solve_cone(problem).status == int(Status.UNBOUNDED)).all()


def test_one_bad_instance_leaves_the_others_alone() -> None:
    problem = random_problem(4, 5, Cones(1, 6), 3)
    expected = solve_cone(problem)
    linear = problem.linear.clone()
    linear[1, 2] = torch.nan
    found = solve_cone(dataclasses.replace(problem, linear=linear))
    assert found.status.tolist() == [0, int(Status.INVALID_INPUT), 0, 0]
    others = torch.tensor([0, 2, 3])
    torch.testing.assert_close(found.x[others], expected.x[others], rtol=1e-9, atol=1e-9)
    assert found.x[1].isnan().all()


def test_an_empty_batch_is_an_empty_solution() -> None:
    problem = random_problem(3, 4, Cones(1, 3), 2).select(torch.zeros(0, dtype=torch.long))
    assert solve_cone(problem).x.shape == (0, 4)


def test_redundant_equalities_change_nothing() -> None:
    problem = random_problem(5, 8, Cones(3, 8), 0)
    matrix = torch.cat([problem.matrix[:, :1] + problem.matrix[:, 1:2], problem.matrix], 1)
    limit = torch.cat([problem.limit[:, :1] + problem.limit[:, 1:2], problem.limit], 1)
    other = dataclasses.replace(problem, matrix=matrix, limit=limit, cones=Cones(4, 8))
    torch.testing.assert_close(solve_cone(other).x, solve_cone(problem).x, rtol=1e-7, atol=1e-8)


def test_substituted_definitions_give_the_same_solution_and_duals() -> None:
    """``t = F x`` with a penalty on t is ``F' F`` in x, and its dual is minus the slope in t."""
    generator = torch.Generator().manual_seed(3)
    factor = torch.randn(4, 7, 5, generator=generator, dtype=F64)
    small = random_problem(4, 5, Cones(1, 6), 0)
    small = dataclasses.replace(small, quadratic=factor.transpose(1, 2) @ factor)
    curvature = torch.zeros(4, 12, 12, dtype=F64)
    curvature[:, 5:, 5:] = torch.eye(7, dtype=F64)
    define = torch.cat([factor, -torch.eye(7, dtype=F64).expand(4, 7, 7)], dim=2)
    matrix = torch.cat([small.matrix, small.matrix.new_zeros(4, 7, 7)], dim=2)
    large = ConeProblem(
        curvature,
        torch.cat([small.linear, small.linear.new_zeros(4, 7)], dim=1),
        torch.cat([define, matrix], dim=1),
        torch.cat([small.limit.new_zeros(4, 7), small.limit], dim=1),
        Cones(8, 6),
    )
    assert large.reduction.problem.linear.shape == (4, 5)
    expected, found = solve_cone(small), solve_cone(large)
    torch.testing.assert_close(found.x[:, :5], expected.x, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.dual[:, :7], found.x[:, 5:], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.dual[:, 7:], expected.dual, rtol=1e-7, atol=1e-8)


def test_a_loose_bound_does_not_loosen_the_tolerance() -> None:
    size = 6
    eye = torch.eye(size, dtype=F64)
    matrix = torch.cat([torch.ones(1, size, dtype=F64), -eye, eye]).unsqueeze(0)
    limit = torch.cat([torch.ones(1), torch.zeros(size), torch.full((size,), 1e8)]).double()
    linear = torch.linspace(-1, 1, size, dtype=F64).unsqueeze(0)
    loose = ConeProblem(eye.unsqueeze(0), linear, matrix, limit.unsqueeze(0), Cones(1, 12))
    tight = ConeProblem(
        eye.unsqueeze(0), linear, matrix[:, :7], limit[None, :7].clone(), Cones(1, size)
    )
    found = solve_cone(loose)
    assert found.solved.all()
    torch.testing.assert_close(found.x, solve_cone(tight).x, rtol=0, atol=1e-8)


def test_scaling_maps_dual_to_slack() -> None:
    cones = Cones(0, 3, (4, 1, 2))
    generator = torch.Generator().manual_seed(0)
    slack, dual = interior(cones, 5, generator), interior(cones, 5, generator)
    algebra = ConeAlgebra(cones, slack)
    scaling = algebra.scaling(slack, dual)
    inverse = scaling.map(torch.reciprocal)
    torch.testing.assert_close(scaling.apply(dual), inverse.apply(slack))
    torch.testing.assert_close(scaling.apply(inverse.apply(dual)), dual)
    matrix = torch.randn(5, 10, 3, generator=generator, dtype=F64)
    applied = torch.stack([scaling.apply(matrix[:, :, k]) for k in range(3)], dim=2)
    torch.testing.assert_close(scaling.gram(matrix), matrix.transpose(1, 2) @ applied)


def test_projection_derivative_is_that_of_the_projection() -> None:
    cones = Cones(0, 3, (4, 3))
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(8, 10, generator=generator, dtype=F64)
    step = torch.randn(8, 10, generator=generator, dtype=F64)
    algebra = ConeAlgebra(cones, vector)
    analytic = algebra.projection_derivative(vector).apply(step)
    change = algebra.project(vector + 1e-6 * step) - algebra.project(vector - 1e-6 * step)
    torch.testing.assert_close(analytic, change / 2e-6, rtol=1e-6, atol=1e-7)


def test_shapes_that_do_not_match_are_named() -> None:
    problem = random_problem(2, 4, Cones(1, 3), 2)
    with pytest.raises(ValueError, match="limit has shape"):
        dataclasses.replace(problem, limit=problem.limit[:, 1:])
    with pytest.raises(ValueError, match="rows"):
        dataclasses.replace(problem, cones=Cones(1, 2))
    with pytest.raises(TypeError, match="float32"):
        dataclasses.replace(problem, linear=problem.linear.float())


@pytest.mark.slow
def test_random_programs_agree_with_clarabel() -> None:
    for seed in range(30):
        for size, cones, rank in CASES.values():
            problem = random_problem(10, size, cones, rank, seed=100 + seed)
            solution = solve_cone(problem)
            assert solution.solved.all()
            for row, value in enumerate(objective(problem, solution.x).tolist()):
                assert value == pytest.approx(by_clarabel(problem, row).obj_val, rel=1e-6)
