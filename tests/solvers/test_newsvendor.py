"""The newsvendor solver against closed forms, Clarabel and scipy."""

import math
import warnings
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from diffusion_dfl.programs import Instances, Newsvendor, bandwidth
from diffusion_dfl.solvers import solve
from tests.solvers.newsvendor_cases import Array, demand, kkt_residual, random_weights, slopes

CLASSICAL = Newsvendor(c0=0.0, q0=0.0, rb=0.0, rh=0.0)


def _clarabel(p: Newsvendor, scenarios: Tensor, weights: Tensor) -> tuple[Array, float]:
    """Decision and optimal cost of one instance."""
    used = weights > 0
    problem, z, _ = p.cvxpy_problem(scenarios[used].numpy(), weights[used].numpy())
    for tolerance in (1e-12, 1e-10, 1e-9, 1e-8):
        options = {f"tol_{name}": tolerance for name in ("gap_abs", "gap_rel", "feas")}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Solution may be inaccurate")
            try:
                problem.solve(solver=cp.CLARABEL, max_iter=200, **options)
            except cp.SolverError:
                continue
        if problem.status == cp.OPTIMAL:
            return np.asarray(z.value), float(problem.value)
    raise AssertionError(f"Clarabel does not solve this instance: {problem.status}")


def _compare_with_clarabel(p: Newsvendor, scenarios: Tensor, weights: Tensor) -> None:
    solution = solve(p, scenarios, weights)
    assert bool(solution.solved.all())
    ours = (weights * p.cost(scenarios, solution.decision.unsqueeze(1))).sum(1)
    for b in range(len(weights)):
        decision, cost = _clarabel(p, scenarios[b], weights[b])
        size = abs(cost) + p.cb + p.ch
        assert abs(float(ours[b]) - cost) <= 1e-8 * size
        unit = p.z_max + float(scenarios.abs().max())
        # Where the cost is flat, equal costs are all that can be asked.
        if p.q0 > 0:
            assert np.abs(solution.decision[b].numpy() - decision).max() <= 1e-5 * unit
    residual = kkt_residual(p, scenarios, weights, torch.zeros_like(solution.decision), solution)
    assert residual.max() <= 1e-12


# --- closed forms ----------------------------------------------------------------------------


@pytest.mark.parametrize("z_max", [1.0, 2.3, 50.0])
def test_the_classical_newsvendor_orders_the_critical_quantile_within_its_limit(
    z_max: float,
) -> None:
    # cb / (cb + ch) = 3/4, which no multiple of 1/31 hits.
    scenarios = demand(16, 31, 4) - 1.0
    program = replace(CLASSICAL, z_max=z_max, num_decisions=4)
    solution = solve(program, scenarios)
    assert bool(solution.solved.all())
    quantile = scenarios.sort(1).values[:, math.ceil(0.75 * 31) - 1]
    assert torch.equal(solution.decision, quantile.clamp(0, z_max))
    inside = (quantile > 0) & (quantile < z_max)
    assert torch.equal(solution.at_kink.sum(1), inside.long())


def test_any_decision_between_two_scenarios_that_balance_is_optimal() -> None:
    program = replace(CLASSICAL, cb=1.0, ch=1.0)
    scenarios = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]], dtype=torch.float64)
    solution = solve(program, scenarios)
    assert 2.0 <= float(solution.decision) <= 3.0 and bool(solution.solved)


def test_one_scenario_is_ordered_exactly_unless_ordering_costs_more_than_shortage() -> None:
    y = torch.tensor([[[3.0]]], dtype=torch.float64)
    # Slope at 3 from the left: 10 + 2 * 3 - 30 < 0, from the right: 10 + 6 + 10 > 0.
    solution = solve(Newsvendor(), y)
    assert float(solution.decision) == 3.0 and bool(solution.at_kink)
    # share (cb + ch) = c0 + q0 z + ch = 26 at the optimum: the subgradient is 0.
    assert float(solution.subgradients) == pytest.approx(0.0, abs=1e-13)
    # c0 + q0 z - cb - rb (3 - z)^2 = 10 + 2 z - 8 - (3 - z)^2 = 0: z = 4 - sqrt(9).
    dear = solve(Newsvendor(c0=10.0, q0=2.0, cb=8.0, rb=1.0), y)
    assert float(dear.decision) == pytest.approx(1.0, abs=1e-14) and not bool(dear.at_kink)
    # z + 1 - 5 + (z - 3)^2 = 0 right of the scenario, where a unit left over costs nothing.
    cheap = solve(Newsvendor(c0=-4.0, q0=1.0, cb=0.0, rb=0.0, ch=0.0, rh=1.0), y)
    root = 2.5 + math.sqrt(6.25 - 5.0)
    assert float(cheap.decision) == pytest.approx(root, abs=1e-14)


def test_two_scenarios_meet_between_them_where_a_hand_computes_it() -> None:
    # (rh (z - 0)^2 - rb (2 - z)^2) / 2 = 0 with rb = 4 rh: z = 2 (2 - z).
    program = Newsvendor(c0=0.0, q0=0.0, cb=0.0, rb=4.0, ch=0.0, rh=1.0)
    solution = solve(program, torch.tensor([[[0.0], [2.0]]], dtype=torch.float64))
    assert float(solution.decision) == pytest.approx(4 / 3, abs=1e-14)


@pytest.mark.parametrize(
    "program, bound", [(Newsvendor(c0=500.0), 0.0), (Newsvendor(z_max=0.5), 0.5)]
)
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_at_a_bound_the_dual_is_the_slope(program: Newsvendor, bound: float, scale: float) -> None:
    scenarios = demand(5, 20, 1).clamp_min(1)
    width = bandwidth(scenarios, scale=scale)
    solution = solve(program, scenarios, None, width)
    assert bool(solution.solved.all()) and torch.equal(
        solution.decision, torch.full_like(solution.decision, bound)
    )
    slope = program.gradient(Instances.of(scenarios, None, width), solution.decision)
    assert torch.allclose(solution.duals[:, :1] - solution.duals[:, 1:], slope, rtol=1e-12)
    assert bool((solution.duals.amax(1) > 1).all()) and not bool(solution.at_kink.any())


def test_demand_of_zero_holds_the_order_at_zero_without_a_dual() -> None:
    solution = solve(Newsvendor(), torch.zeros(1, 3, 1, dtype=torch.float64))
    assert float(solution.decision) == 0.0 and solution.duals.tolist() == [[0.0, 0.0]]
    assert bool(solution.at_kink.all()) and bool(solution.solved)


# --- the exact program against Clarabel ------------------------------------------------------


@pytest.mark.parametrize(
    "num_scenarios, batch, size", [(1, 3, 2), (2, 3, 2), (7, 4, 3), (50, 3, 1), (300, 1, 1)]
)
def test_exact_solver_agrees_with_clarabel(num_scenarios: int, batch: int, size: int) -> None:
    scenarios = demand(batch, num_scenarios, size, num_scenarios)
    weights = random_weights((batch, num_scenarios), num_scenarios, zeros=True)
    weights[0] = 1 / num_scenarios
    _compare_with_clarabel(Newsvendor(num_decisions=size), scenarios, weights)


@pytest.mark.parametrize(
    "program",
    [
        CLASSICAL,
        Newsvendor(c0=0.0),
        Newsvendor(c0=35.0),
        Newsvendor(rb=0.0),
        Newsvendor(rh=0.0),
        Newsvendor(cb=0.0, ch=0.0),
        Newsvendor(c0=-20.0, ch=0.0, rh=0.0, q0=1e-3),
        Newsvendor(z_max=1.5),
    ],
)
@pytest.mark.parametrize("kind", ["tied", "identical", "negative", "outlier"])
def test_exact_solver_agrees_with_clarabel_on_special_instances(
    kind: str, program: Newsvendor
) -> None:
    scenarios = demand(2, 9, 1, 3)
    if kind == "tied":
        scenarios = scenarios.round()
    elif kind == "identical":
        scenarios = scenarios[:, :1].expand(-1, 9, -1).clone()
    elif kind == "negative":
        scenarios = -scenarios
    else:
        scenarios[:, 0] = 30.0
    _compare_with_clarabel(program, scenarios, torch.full((2, 9), 1 / 9, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_exact_solver_agrees_with_clarabel_on_four_hundred_instances(part: int) -> None:
    num_scenarios = (1, 2, 3, 5, 10, 20, 30, 50, 4, 8)[part % 10]
    scenarios = demand(20, num_scenarios, 3, part)
    if part % 5 == 0:
        scenarios = scenarios.round()
    program = Newsvendor(
        c0=(10.0, 0.0, 40.0)[part % 3],
        q0=(2.0, 0.1)[part % 2],
        z_max=(5.0, 2.0)[part % 2],
        num_decisions=3,
    )
    weights = random_weights((20, num_scenarios), part, zeros=part % 2 == 0)
    _compare_with_clarabel(program, scenarios, weights)


# --- the convolved program -------------------------------------------------------------------


@pytest.mark.parametrize("program", [Newsvendor(), CLASSICAL, Newsvendor(cb=0.0, ch=0.0)])
@pytest.mark.parametrize("scale", [0.1, 1.06, 5.0])
def test_convolved_decision_is_the_root_that_scipy_finds(program: Newsvendor, scale: float) -> None:
    scenarios = demand(6, 40, 1)
    width = bandwidth(scenarios, scale=scale)
    solution = solve(program, scenarios, None, width)
    assert bool(solution.solved.all()) and not bool(solution.at_kink.any())
    for b in range(6):

        def slope(z: float, b: int = b) -> float:
            y, s = scenarios[b : b + 1].numpy(), width[b : b + 1].numpy()
            return float(slopes(program, y, s, np.array([[z]]), True).mean())

        root = brentq(slope, -20.0, 20.0, xtol=1e-13)
        assert float(solution.decision[b]) == pytest.approx(min(max(root, 0.0), 5.0), abs=1e-9)


def test_convolved_classical_newsvendor_is_the_quantile_of_the_kernel_density() -> None:
    scenarios = demand(1, 25, 1)
    width = bandwidth(scenarios)
    z = solve(CLASSICAL, scenarios, None, width).decision
    share = norm.cdf(((z - scenarios[0]) / width).numpy()).mean()
    assert share == pytest.approx(0.75, abs=1e-13)


def test_one_gaussian_scenario_convolves_to_the_gaussian_newsvendor() -> None:
    # y ~ N(2, 0.5^2): z* = 2 + 0.5 Phi^-1(3/4).
    y = torch.full((1, 1, 1), 2.0, dtype=torch.float64)
    z = solve(CLASSICAL, y, None, torch.full((1, 1), 0.5, dtype=torch.float64)).decision
    assert float(z) == pytest.approx(2 + 0.5 * norm.ppf(0.75), abs=1e-13)


def test_convolved_decision_tends_to_the_exact_one_as_the_width_goes_to_zero() -> None:
    scenarios = demand(8, 30, 2)
    program = Newsvendor(num_decisions=2)
    exact = solve(program, scenarios).decision
    for width in (1e-2, 1e-4, 1e-6, 1e-9, 1e-12, 1e-100):
        smooth = solve(program, scenarios, None, torch.full_like(exact, width))
        assert bool(smooth.solved.all())
        assert float((smooth.decision - exact).abs().max()) <= 10 * width


def test_items_with_and_without_a_width_in_one_batch_are_those_solved_apart() -> None:
    scenarios = demand(6, 40, 3)
    program, width = Newsvendor(num_decisions=3), bandwidth(demand(6, 40, 3))
    width[::2, 0], width[1] = 0, 0
    solution = solve(program, scenarios, None, width)
    assert bool(solution.solved.all())
    for b in range(6):
        for i in range(3):
            alone = solve(
                Newsvendor(), scenarios[b : b + 1, :, i : i + 1], None, width[b : b + 1, i : i + 1]
            )
            assert float(solution.decision[b, i]) == pytest.approx(float(alone.decision), rel=1e-13)
            assert torch.equal(solution.at_kink[b, :, i], alone.at_kink[0, :, 0])


@pytest.mark.parametrize("num_scenarios", [1, 6])
def test_identical_scenarios_and_a_single_one_give_the_exact_program(num_scenarios: int) -> None:
    scenarios = demand(4, 1, 2).expand(-1, num_scenarios, -1).clone()
    program = Newsvendor(num_decisions=2)
    smooth, exact = solve(program, scenarios, None, bandwidth(scenarios)), solve(program, scenarios)
    assert torch.equal(smooth.decision, exact.decision)
    for value in (smooth.decision, smooth.duals, smooth.subgradients, smooth.residuals):
        assert bool(value.isfinite().all())


@pytest.mark.parametrize("shift", [-1e3, -0.1, 0.0, 1e3])
def test_a_start_changes_steps_and_not_the_optimum(shift: float) -> None:
    scenarios = demand(8, 60, 2)
    program, width = Newsvendor(num_decisions=2), bandwidth(scenarios)
    plain = solve(program, scenarios, None, width)
    again = solve(program, scenarios, None, width, start=plain.decision + shift)
    assert bool(again.solved.all())
    assert torch.allclose(plain.decision, again.decision, rtol=1e-12)
    if shift == 0:
        assert bool((again.iterations <= plain.iterations).all())
