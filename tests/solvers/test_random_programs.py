"""Random programs with tiny and huge numbers mixed: no false verdict, no wrong answer called solved.

All ten thousand: ``pytest -m slow tests/solvers/test_random_programs.py``.
"""

from collections import Counter
from contextlib import suppress

import numpy as np
import pytest

from diffusion_dfl.solvers import Status
from tests.solvers.random_programs import Family, Truth, family

# Share of instances that may be left without a verdict, as contradictions small beside the limits are.
_UNDECIDED = 0.01


def _check(seeds: range, batch: int, orders: float) -> Counter[Truth]:
    """Hold every instance of the seeds' families against the truth; returns how many of each kind."""
    undecided, total = 0, Counter[Truth]()
    for seed in seeds:
        programs = family(seed, batch, orders)
        solution = programs.solve()
        status = solution.status.numpy()
        truth = np.array([int(truth.value) for truth in programs.truth])
        known = status != Status.NOT_CONVERGED
        assert (status == truth)[known].all(), (seed, solution.report())
        solved = status == Status.SOLVED
        assert (programs.violation(solution.decision.numpy())[solved] <= 1e-8).all(), seed
        assert (programs.gap(solution)[solved] <= 1e-7).all(), seed
        undecided += int((~known).sum())
        total.update(programs.truth)
    assert undecided <= max(1.0, _UNDECIDED * total.total()), undecided
    return total


@pytest.mark.parametrize("orders", [2.0, 4.0])
def test_random_programs_are_what_they_are_called(orders: float) -> None:
    found = _check(range(18, 24), 16, orders)
    assert set(found) == set(Truth)


@pytest.mark.slow
def test_ten_thousand_random_programs_are_what_they_are_called() -> None:
    found = _check(range(1000, 1125), 80, 4.0)
    assert found.total() == 10_000 and min(found.values()) >= 500


def _minimum(programs: Family, row: int) -> float:
    """Clarabel's optimum of an instance in numbers of size 1."""
    cp = pytest.importorskip("cvxpy")
    w = cp.Variable(len(programs.size))
    cost = 0.5 * cp.sum_squares(programs.root @ w) + programs.slope[row] @ w
    for omega, targets in zip(programs.weights[row], programs.targets[row], strict=True):
        if len(targets):
            cost = cost + omega * (programs.price @ cp.pos(programs.arguments @ w - targets))
    limits = [programs.matrix @ w <= programs.limit[row]] if len(programs.matrix) else []
    if len(programs.equality_matrix):
        limits.append(programs.equality_matrix @ w == programs.equality_value[row])
    low, high = np.isfinite(programs.lower[row]), np.isfinite(programs.upper[row])
    if low.any():
        limits.append(w[low] >= programs.lower[row][low])
    if high.any():
        limits.append(w[high] <= programs.upper[row][high])
    problem = cp.Problem(cp.Minimize(cost), limits)
    for tolerance in (1e-10, 1e-9, 1e-8):
        with suppress(cp.SolverError):
            problem.solve(
                solver="CLARABEL",
                tol_gap_abs=tolerance,
                tol_gap_rel=tolerance,
                tol_feas=tolerance,
            )
            break
    return float(problem.value)


@pytest.mark.parametrize("orders", [0.0, 4.0])
def test_costs_are_those_that_clarabel_finds_in_numbers_of_size_1(orders: float) -> None:
    for seed in range(18, 22):
        programs = family(seed, 2, orders)
        solution = programs.solve()
        plain = programs.in_own_units()
        ours, terms = plain.objective(solution.decision.numpy() / programs.size)
        for row in np.flatnonzero(solution.solved.numpy()):
            assert abs(ours[row] - _minimum(plain, int(row))) <= 1e-6 * terms[row], (seed, row)


def test_a_constraint_is_met_beside_its_own_terms() -> None:
    """One that reads small coordinates alone, in a program in which another one is large."""
    programs = family(1063, 80, 4.0)
    solution = programs.solve()
    found = programs.violation(solution.decision.numpy())[solution.solved.numpy()]
    assert len(found) and found.max() <= 1e-8
