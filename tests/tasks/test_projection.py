"""The nearest feasible decision, against closed forms and cvxpy; as a projection must behave."""

from collections.abc import Callable
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
    TorchProgram,
)
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks.projection import Projection, project

TIGHT = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}


def onto_simplex(points: Tensor) -> Tensor:
    """``max(v - theta, 0)`` with theta from the sorted entries (Held et al., 1974)."""
    falling = points.sort(1, descending=True).values
    excess = (falling.cumsum(1) - 1.0) / torch.arange(1, points.shape[1] + 1)
    kept = (falling > excess).sum(1, keepdim=True)
    return (points - excess.gather(1, kept - 1)).clamp_min(0.0)


#: Each program with the formula of the projection on its feasible set.
CLOSED_FORMS: list[tuple[Program, Callable[[Tensor], Tensor]]] = [
    (ProductAllocation(6, 2.0), lambda v: v.clamp(0.0, 2.0)),
    (Newsvendor(z_max=5.0), lambda v: v.clamp(0.0, 5.0)),
    (MeanVariancePortfolio(7, 10.0), onto_simplex),
    (PowerProgram(ramp=np.inf, num_decisions=6), lambda v: v),
    (PowerProgram(ramp=0.0, num_decisions=6), lambda v: v.mean(1, keepdim=True).expand_as(v)),
]
PROGRAMS = [program for program, _ in CLOSED_FORMS] + [PowerProgram(num_decisions=8)]


def _name(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, Program) else None


def _points(program: Program, seed: int, scale: float, rows: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, program.num_decisions, generator=generator).double()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize(("program", "formula"), CLOSED_FORMS, ids=_name)
def test_projections_equal_their_closed_forms(
    program: Program, formula: Callable[[Tensor], Tensor], scale: float
) -> None:
    points = _points(program, 0, scale)
    torch.testing.assert_close(
        project(program, points), formula(points), rtol=1e-9, atol=1e-9 * max(scale, 1.0)
    )


@pytest.mark.parametrize("ramp", [0.02, 0.4])
def test_ramps_are_met_by_the_nearest_schedule(ramp: float) -> None:
    program = PowerProgram(ramp=ramp, num_decisions=12)
    points = _points(program, 1, 0.6, rows=10)
    found = project(program, points)
    for row, point in zip(found.numpy(), points.numpy(), strict=True):
        z = cp.Variable(12)
        problem = cp.Problem(
            cp.Minimize(cp.sum_squares(z - point)), [cp.abs(z[1:] - z[:-1]) <= ramp]
        )
        problem.solve(solver=cp.CLARABEL, **TIGHT)
        np.testing.assert_allclose(row, z.value, atol=1e-7)


@pytest.mark.parametrize("program", PROGRAMS, ids=_name)
def test_the_statement_in_cvxpy_has_the_same_projection(program: Program) -> None:
    points = _points(program, 2, 1.5, rows=3)
    found = project(program, points).numpy()
    for row, point in zip(found, points.numpy(), strict=True):
        problem, z, _ = Projection(program).cvxpy_problem(point[None], np.ones(1))
        problem.solve(solver=cp.CLARABEL, **TIGHT)
        np.testing.assert_allclose(row, z.value, atol=1e-6)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    program=st.sampled_from(PROGRAMS),
    seed=st.integers(0, 2**31),
    scale=st.floats(1e-3, 1e3),
)
def test_projecting_twice_is_projecting_once_and_never_moves_points_apart(
    program: Program, seed: int, scale: float
) -> None:
    points = _points(program, seed, scale, rows=8)
    once = project(program, points)
    tolerance = 1e-8 * max(scale, 1.0)
    torch.testing.assert_close(project(program, once), once, rtol=0, atol=tolerance)
    apart = (once[:4] - once[4:]).norm(dim=1)
    assert bool((apart <= (points[:4] - points[4:]).norm(dim=1) + tolerance).all())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(program=st.sampled_from(PROGRAMS), seed=st.integers(0, 2**31))
def test_the_way_to_the_projection_is_normal_to_the_feasible_set(
    program: Program, seed: int
) -> None:
    points = _points(program, seed, 1.0, rows=8)
    found = project(program, points)
    feasible = project(program, _points(program, seed + 1, 1.0, rows=8))
    # (v - z)'(x - z) <= 0 for every feasible x.
    slope = ((points - found) * (feasible - found)).sum(1)
    assert float(slope.max()) <= 1e-8


@pytest.mark.parametrize(
    ("program", "points"),
    [
        (ProductAllocation(3, 2.0), [[0.0, 2.0, 1.0], [2.0, 2.0, 2.0]]),
        (MeanVariancePortfolio(3, 10.0), [[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]),
        (Newsvendor(z_max=5.0), [[0.0], [5.0]]),
        (PowerProgram(num_decisions=3), [[1.0, 1.4, 1.0], [-3.0, -3.1, -3.0]]),
    ],
    ids=_name,
)
def test_a_feasible_point_stays_where_it_is_on_the_border_too(
    program: Program, points: list[list[float]]
) -> None:
    given_points = torch.tensor(points, dtype=torch.float64)
    torch.testing.assert_close(project(program, given_points), given_points, rtol=0, atol=1e-12)


def test_a_point_that_is_not_finite_is_nan_and_disturbs_no_other() -> None:
    program = MeanVariancePortfolio(4, 10.0)
    points = _points(program, 3, 1.0, rows=4)
    clean = project(program, points)
    points[1, 2], points[2, 0] = torch.nan, torch.inf
    found = project(program, points)
    assert found.isnan().all(1).tolist() == [False, True, True, False]
    torch.testing.assert_close(found[[0, 3]], clean[[0, 3]], rtol=0, atol=1e-12)


#: Bounds that are there, there in part, or missing; a row of any signs, with a zero in it.
BOXES = {
    "both": (-1.0, 2.0),
    "lower": (0.0, None),
    "none": (None, None),
    "in part": (
        torch.tensor([-1.0, -torch.inf, 0.0, -torch.inf, 0.5]),
        torch.tensor([1.0, 2.0, torch.inf, torch.inf, 0.5]),
    ),
}


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("scale", [0.1, 10.0])
@pytest.mark.parametrize("box", BOXES)
def test_bounds_and_one_row_have_the_projection_of_the_interior_point_solver(
    box: str, scale: float, equal: bool
) -> None:
    lower, upper = BOXES[box]
    row = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    rows = (
        {"equality_matrix": row[None], "equality_value": torch.tensor([0.7])}
        if equal
        else {"matrix": row[None], "limit": torch.tensor([0.7])}
    )
    program = TorchProgram(
        5, 5, smooth=lambda y, z: (y - z).square().sum(), lower=lower, upper=upper, **rows
    )
    points = _points(program, 5, scale, rows=60)
    exact = solve(Projection(program), points.unsqueeze(1), solver="interior_point")
    assert bool(exact.solved.all())
    torch.testing.assert_close(
        project(program, points), exact.decision, rtol=1e-7, atol=1e-7 * max(scale, 1.0)
    )


def test_a_row_that_no_decision_meets_is_nan_and_one_that_holds_anyway_changes_nothing() -> None:
    points = torch.tensor([[0.5, 0.5], [3.0, -1.0]], dtype=torch.float64)
    box = {"smooth": lambda y, z: (y - z).square().sum(), "lower": 0.0, "upper": 1.0}
    ones = torch.ones(1, 2)
    for limit, expected in (
        (-1.0, [[torch.nan] * 2] * 2),
        (0.0, [[0.0, 0.0]] * 2),
        (torch.inf, [[0.5, 0.5], [1.0, 0.0]]),
        (9.0, [[0.5, 0.5], [1.0, 0.0]]),
    ):
        program = TorchProgram(2, 2, matrix=ones, limit=torch.tensor([limit]), **box)
        found = project(program, points)
        torch.testing.assert_close(found, torch.tensor(expected).double(), equal_nan=True)
    for value, expected in ((3.0, [[torch.nan] * 2] * 2), (2.0, [[1.0, 1.0]] * 2)):
        program = TorchProgram(
            2, 2, equality_matrix=ones, equality_value=torch.tensor([value]), **box
        )
        found = project(program, points)
        torch.testing.assert_close(found, torch.tensor(expected).double(), equal_nan=True)


@pytest.mark.parametrize(
    ("parts", "point", "expected"),
    [
        # Bounds that are apart by rounding.
        ({"lower": [0.1 + 0.2, 0.0], "upper": [0.3, 1.0]}, [0.5, 0.5], [0.3, 0.5]),
        # Coefficients of very different sizes.
        (
            {
                "matrix": [[1e8, 1.0, 2.0]],
                "limit": [-150.0],
                "lower": [0.0, -100.0, -100.0],
                "upper": [1.0, 100.0, 100.0],
            },
            [3.0, 50.0, -1.0],
            [0.0, 10.4, -80.2],
        ),
        # Multipliers beyond the digits of a one beside them.
        ({"matrix": [[-1e-8]], "limit": [-0.25], "upper": [2e8]}, [0.0], [2.5e7]),
        # No such decision, at a small scale.
        (
            {
                "equality_matrix": [[1.0, 1.0]],
                "equality_value": [3e-9],
                "lower": 0.0,
                "upper": 1e-9,
            },
            [0.5, 0.5],
            [np.nan, np.nan],
        ),
        (
            {"matrix": [[1e-10, 1e-10]], "limit": [-5e-10], "lower": 0.0, "upper": 1.0},
            [0.5, 0.5],
            [np.nan, np.nan],
        ),
    ],
)
def test_what_rounding_leaves_open_is_the_solvers_to_say(
    parts: dict[str, Any], point: list[float], expected: list[float]
) -> None:
    size = len(point)
    parts = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in parts.items()}
    program = TorchProgram(size, size, smooth=lambda y, z: (y - z).square().sum(), **parts)
    found = project(program, torch.tensor([point], dtype=torch.float64))
    torch.testing.assert_close(
        found, torch.tensor([expected], dtype=torch.float64), rtol=1e-6, atol=0, equal_nan=True
    )


def test_far_points_of_a_simplex_have_their_corner() -> None:
    points = torch.tensor([[1e15, 0.0, 0.0], [1e16, 0.0, 0.0]], dtype=torch.float64)
    found = project(MeanVariancePortfolio(3, 10.0), points)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, 0.0]] * 2).double())


def test_float32_decisions_are_projected_in_float64() -> None:
    program = MeanVariancePortfolio(4, 10.0)
    found = project(program, _points(program, 4, 1.0).float())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.sum(1), torch.ones(40).double(), rtol=0, atol=1e-12)
