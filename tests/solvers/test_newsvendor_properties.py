"""What holds for every newsvendor instance, however adversarial; and instances that are wrong."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_dfl.programs import Instances, Newsvendor, bandwidth
from diffusion_dfl.solvers import Status, solve
from diffusion_dfl.solvers.newsvendor import certify
from tests.solvers.newsvendor_cases import demand, kkt_residual, random_weights


@st.composite
def _programs(draw: st.DrawFn) -> tuple[Newsvendor, Tensor, Tensor, Tensor]:
    """An adversarial program with scenarios, weights and bandwidth of two instances."""
    size = draw(st.sampled_from([1, 2, 5]))
    num_scenarios = draw(st.sampled_from([1, 2, 3, 10, 130]))
    seed = draw(st.integers(0, 2**31))
    scale = 10.0 ** draw(st.integers(-4, 4))
    kind = draw(st.sampled_from(["noise", "tied", "identical", "outlier", "far", "zeros"]))
    y = demand(2, num_scenarios, size, seed) + draw(st.sampled_from([0.0, -2.0, -20.0, 100.0]))
    if kind == "tied":
        y = y.round()
    elif kind == "identical":
        y = y[:, :1].expand(-1, num_scenarios, -1).clone()
    elif kind == "outlier":
        y[:, 0] *= draw(st.sampled_from([-1e4, 1e4]))
    elif kind == "far":
        y = 1e4 + 1e-4 * y
    elif kind == "zeros":
        y = y.clamp_min(0) * (y > 1.5)
    c0, q0, cb, rb, ch, rh = (
        draw(st.sampled_from(values))
        for values in (
            [10.0, 0.0, 500.0, -5.0],
            [2.0, 0.0, 1e-6],
            [30.0, 0.0, 1e3],
            [14.0, 0.0, 1e-5],
            [10.0, 0.0],
            [2.0, 0.0, 1e4],
        )
    )
    z_max = draw(st.sampled_from([5.0, 1e-3, 200.0, 2e4]))
    if draw(st.booleans()):
        # The same problem in other units of the demand.
        q0, rb, rh = q0 / scale, rb / scale**2, rh / scale**2
    program = Newsvendor(c0, q0, cb, rb, ch, rh, z_max * scale, size)
    weights = random_weights((2, num_scenarios), seed, zeros=draw(st.booleans()))
    width = scale * bandwidth(y, weights, draw(st.sampled_from([0.0, 1e-5, 0.1, 1.5])))
    width[0] *= draw(st.sampled_from([0.0, 1.0]))
    # Narrower ones are none for the solver.
    given = Instances(scale * y, weights, width).resolvable()
    return program, given.scenarios, weights, given.bandwidth


def _check_kkt(case: tuple[Newsvendor, Tensor, Tensor, Tensor]) -> None:
    program, scenarios, weights, width = case
    solution = solve(program, scenarios, weights, width)
    assert bool(solution.solved.all()), (solution.residuals, solution.decision)
    # Rounding of z alone moves a smooth slope by curvature * eps * |z|.
    curvature = program.hessian(Instances(scenarios, weights, width), solution.decision)
    steep = 1e-300 + abs(program.c0) + program.cb + program.ch
    rounding = (
        float((1e-15 * curvature * solution.decision.clamp_min(1e-9 * program.z_max)).max()) / steep
    )
    residual = kkt_residual(program, scenarios, weights, width, solution)
    assert residual.max() <= 1e-11 + rounding


def _alone(outcome: float, **costs: float) -> tuple[Newsvendor, Tensor, Tensor, Tensor]:
    """One scenario far from 0, short of which the cubic penalty meets the other slopes."""
    one = torch.ones(1, 1, dtype=torch.float64)
    given = {"c0": 0.0, "q0": 1e-6, "cb": 0.0, "rb": 14.0, "ch": 10.0, "rh": 2.0, "z_max": 2e6}
    program = Newsvendor(**{**given, **costs})  # type: ignore[arg-type]
    return program, outcome * one.unsqueeze(2), one, 0 * one


@settings(deadline=None, max_examples=150, derandomize=True)
@given(_programs())
@example(_alone(1000000.0113))
@example(_alone(1000000.0113, c0=10.0))
@example(_alone(100000.0011))
@example(_alone(70000000.3, c0=10.0, cb=30.0, z_max=1e8))
@example(_alone(70000000.3, c0=10.0, cb=30.0, z_max=6.9e7))
@example(_alone(1000000.0113, c0=-1.5, ch=0.0, rb=0.0))
@example(_alone(-1000000.0113, c0=-1e13, ch=0.0, rb=0.0))
def test_every_instance_is_solved_to_rounding(
    case: tuple[Newsvendor, Tensor, Tensor, Tensor],
) -> None:
    _check_kkt(case)


@pytest.mark.parametrize("outcome", [1e2, 1e4, 1000000.0113, 7e7, 1e9])
@pytest.mark.parametrize("costs", [{}, {"c0": 10.0}, {"c0": 500.0, "cb": 30.0}, {"q0": 1e-3}])
def test_a_decision_far_from_zero_is_known_to_the_last_digit(
    outcome: float, costs: dict[str, float]
) -> None:
    # c0 + q0 z - cb - rb (y - z)^2 = 0 with a = y - z > 0: rb a^2 + q0 a = c0 + q0 y - cb.
    program, scenarios, weights, _ = _alone(outcome, z_max=2 * outcome, **costs)
    slope = program.c0 + program.q0 * outcome - program.cb
    short = 2 * slope / (program.q0 + math.sqrt(program.q0**2 + 4 * program.rb * slope))
    solution = solve(program, scenarios, weights)
    assert bool(solution.solved.all())
    assert abs(float(solution.decision) - (outcome - short)) <= 2 * math.ulp(outcome)


@pytest.mark.slow
@settings(deadline=None, max_examples=1500, derandomize=True)
@given(_programs())
def test_thousands_of_instances_are_solved_to_rounding(
    case: tuple[Newsvendor, Tensor, Tensor, Tensor],
) -> None:
    _check_kkt(case)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(_programs(), st.integers(0, 2**31))
def test_order_and_splitting_of_the_scenarios_leave_the_cost_alone(
    case: tuple[Newsvendor, Tensor, Tensor, Tensor], seed: int
) -> None:
    program, scenarios, weights, width = case
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(weights.shape[1], generator=generator)
    split = torch.rand(weights.shape, dtype=torch.float64, generator=generator)
    doubled = torch.cat([scenarios, scenarios[:, order]], dim=1)
    shares = torch.cat([split * weights, ((1 - split) * weights)[:, order]], dim=1)
    first = solve(program, scenarios, weights, width)
    second = solve(program, doubled, shares, width)
    assert bool(second.solved.all())
    given = Instances(scenarios, weights, width)
    costs = [program.objective(given, s.decision) for s in (first, second)]
    # The terms of the cost cancel where ordering earns money.
    size = (
        weights * replace(program, c0=abs(program.c0)).cost(scenarios, first.decision.unsqueeze(1))
    ).sum(1)
    size = size + program.cb * width.sum(1) + (program.rb + program.rh) * (width**3).sum(1)
    assert bool(((costs[0] - costs[1]).abs() <= 1e-12 * size).all())


@pytest.mark.parametrize("factor", [1e-4, 1e-2, 1e2, 1e4])
@pytest.mark.parametrize("scale", [0.0, 1.06])
def test_another_unit_of_demand_scales_the_decision(factor: float, scale: float) -> None:
    scenarios = demand(8, 25, 2)
    width = bandwidth(scenarios, scale=scale)
    p = Newsvendor(num_decisions=2)
    scaled = replace(
        p, q0=p.q0 / factor, rb=p.rb / factor**2, rh=p.rh / factor**2, z_max=p.z_max * factor
    )
    first = solve(p, scenarios, None, width).decision
    second = solve(scaled, factor * scenarios, None, factor * width).decision
    assert torch.allclose(second, factor * first, rtol=1e-12)


@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("scale", [0.0, 1.06])
@pytest.mark.parametrize("move", [1e-7, -1e-7, 0.3])
def test_a_decision_beside_the_optimum_is_never_certified(
    factor: float, scale: float, move: float
) -> None:
    scenarios = factor * demand(8, 25, 1)
    weights, width = random_weights((8, 25), 0, zeros=True), bandwidth(scenarios, scale=scale)
    p = Newsvendor(q0=2 / factor, rb=14 / factor**2, rh=2 / factor**2, z_max=5 * factor)
    best = solve(p, scenarios, weights, width)
    moved = (best.decision + move * factor).clamp(0, p.z_max)
    judged = certify(p, Instances(scenarios, weights, width), moved, best.iterations)
    assert bool(best.solved.all()) and not bool(judged.solved.any())


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_a_bad_instance_is_named_and_leaves_the_others_bit_identical(
    bad: float, scale: float
) -> None:
    scenarios = demand(5, 12, 2)
    width = bandwidth(scenarios, scale=scale)
    program = Newsvendor(num_decisions=2)
    clean = solve(program, scenarios, None, width)
    scenarios[2, 3, 1] = bad
    solution = solve(program, scenarios, None, width)
    # Squares of 1e200 overflow: no decision can be certified.
    reason = Status.INVALID_INPUT if not math.isfinite(bad) else Status.NOT_CONVERGED
    assert solution.status.tolist() == [0, 0, int(reason), 0, 0]
    others = [0, 1, 3, 4]
    for name in ("decision", "duals", "subgradients", "at_kink", "residuals"):
        assert torch.equal(getattr(solution, name)[others], getattr(clean, name)[others]), name
    assert "instances 2 (1 of 5)" in solution.report()


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_an_empty_batch_has_an_empty_solution(scale: float) -> None:
    nothing = torch.zeros(0, 3, 2, dtype=torch.float64)
    solution = solve(Newsvendor(num_decisions=2), nothing, None, bandwidth(nothing, scale=scale))
    assert solution.decision.shape == (0, 2) and solution.duals.shape == (0, 4)


def test_non_contiguous_scenarios_and_weights_are_taken_as_they_are() -> None:
    scenarios, weights = demand(4, 10, 3), random_weights((4, 10), 0, zeros=False)
    program, width = Newsvendor(num_decisions=3), bandwidth(scenarios)
    strided = scenarios.transpose(0, 2).contiguous().transpose(0, 2)
    expanded = weights.T.contiguous().T
    first = solve(program, scenarios, weights, width)
    second = solve(program, strided, expanded, width)
    assert torch.allclose(first.decision, second.decision, rtol=1e-14)


def test_a_scenario_without_weight_holds_nothing() -> None:
    scenarios = torch.tensor([[[1.0], [1.0], [0.0]]], dtype=torch.float64)
    weights = torch.tensor([[0.5, 0.0, 0.5]], dtype=torch.float64)
    solution = solve(
        Newsvendor(c0=0.0, q0=0.0, cb=30.0, rb=0.0, ch=20.0, rh=0.0), scenarios, weights
    )
    assert float(solution.decision) == 1.0
    assert solution.at_kink.flatten().tolist() == [True, False, False]
