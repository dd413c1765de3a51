"""The power solver: against Clarabel, against the KKT conditions, and under adversarial inputs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import norm
from torch import Tensor

from diffusion_dfl.programs import Instances, PowerProgram, bandwidth
from diffusion_dfl.solvers import Solution, Status, solve

Array = NDArray[np.float64]


def _random_weights(shape: tuple[int, int], generator: torch.Generator, zeros: bool) -> Tensor:
    weights = torch.rand(shape, dtype=torch.float64, generator=generator)
    if zeros:
        weights = torch.where(weights < 0.4, 0.0, weights)
        weights[:, 0] += 0.1
    return weights / weights.sum(1, keepdim=True)


def _daily_scenarios(
    batch: int, num_scenarios: int, num_hours: int, generator: torch.Generator
) -> Tensor:
    """A daily curve that breaks ramp limits of 0.4 in places, plus correlated noise."""
    hours = torch.arange(num_hours, dtype=torch.float64)
    level = torch.randn(batch, 1, 1, dtype=torch.float64, generator=generator)
    swing = torch.rand(batch, 1, 1, dtype=torch.float64, generator=generator)
    curve = level + 2 * swing * torch.sin(2 * math.pi * hours / 24)
    noise = torch.randn(batch, num_scenarios, num_hours, dtype=torch.float64, generator=generator)
    return curve + 0.5 * noise + 0.2 * noise[:, :, :1]


def _kkt_residual(
    program: PowerProgram, scenarios: Tensor, weights: Tensor, width: Tensor, solution: Solution
) -> Array:
    """Largest violation of the KKT conditions an instance, by formulas of this test alone.

    Each is relative to its unit: slopes to the largest slope, lengths to the largest scenario.
    """
    y, w, s, z = (t.numpy() for t in (scenarios, weights, width, solution.decision))
    subgradients, duals = solution.subgradients.numpy(), solution.duals.numpy()
    batch, _, size = y.shape
    length = np.abs(y).max((1, 2)) + np.abs(z).max(1) + 1e-300
    slope = program.shortage + program.excess
    steep = slope + length
    rises, falls = duals[:, : size - 1], duals[:, size - 1 :]
    # d/dz of sum_h rise_h (z_{h+1} - z_h) + fall_h (z_h - z_{h+1})
    force = np.zeros((batch, size))
    force[:, 1:] += rises - falls
    force[:, :-1] -= rises - falls
    # Each g_m must lie in the subdifferential of f_s(y_m, .) at z: [least, most].
    gap = y - z[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        smooth = norm.cdf(gap / s[:, None])
    exact = s[:, None] == 0
    least = (program.excess - gap) - slope * np.where(exact, gap >= 0, smooth)
    most = (program.excess - gap) - slope * np.where(exact, gap > 0, smooth)
    outside = np.maximum(least - subgradients, subgradients - most).max((1, 2))
    stationarity = np.abs(np.einsum("bm,bmn->bn", w, subgradients) + force).max(1)
    worst = np.maximum(outside, stationarity) / steep
    if size > 1:
        change = np.diff(z, axis=1)
        slack = program.ramp - np.concatenate([change, -change], axis=1)
        unused = np.where(duals > 0, np.abs(duals * slack), 0.0)
        for part, unit in ((-slack, length), (-duals, steep), (unused, steep * length)):
            worst = np.maximum(worst, part.max(1) / unit)
    return np.asarray(worst)


def _scale(program: PowerProgram, scenarios: Tensor) -> float:
    """Largest slope and largest scenario together: what rounding errors are relative to."""
    return program.shortage + program.excess + float(scenarios.abs().max())


def _compare_with_clarabel(
    program: PowerProgram, scenarios: Tensor, weights: Tensor | None
) -> None:
    fast = solve(program, scenarios, weights)
    reference = solve(program, scenarios, weights, solver="cvxpy")
    assert (fast.status == Status.SOLVED).all() and (reference.status == Status.SOLVED).all()
    given = Instances.of(scenarios, weights)
    ours = program.objective(given, fast.decision)
    theirs = program.objective(given, reference.decision)
    size = 1 + ours.abs()
    # Clarabel's point may violate the limits by its tolerance, so it may lie below by as much.
    assert ((ours - theirs).abs() <= 1e-9 * size).all(), (ours - theirs).abs().max()
    error = (fast.decision - reference.decision).abs().amax(1)
    assert (error <= 1e-7 * (1 + scenarios.abs().amax((1, 2)))).all(), error.max()
    # Strong convexity of modulus 1: this residual bounds our distance to the optimum.
    residual = _kkt_residual(program, scenarios, given.weights, given.bandwidth, fast)
    assert (residual <= 1e-12).all(), residual.max()


@pytest.mark.parametrize("ramp", [0.4, 0.05, 0.0])
@pytest.mark.parametrize("num_scenarios, batch", [(1, 4), (2, 4), (7, 6), (25, 4), (200, 1)])
def test_exact_solver_agrees_with_clarabel(num_scenarios: int, batch: int, ramp: float) -> None:
    generator = torch.Generator().manual_seed(int(1000 * ramp) + num_scenarios)
    scenarios = _daily_scenarios(batch, num_scenarios, 24, generator)
    weights = _random_weights((batch, num_scenarios), generator, zeros=True)
    weights[0] = 1 / num_scenarios
    _compare_with_clarabel(PowerProgram(ramp=ramp), scenarios, weights)


@pytest.mark.parametrize("ramp", [0.3, 0.05])
@pytest.mark.parametrize("kind", ["tied", "identical", "balanced", "high", "wide"])
def test_exact_solver_agrees_with_clarabel_on_special_instances(kind: str, ramp: float) -> None:
    generator = torch.Generator().manual_seed(7)
    scenarios = _daily_scenarios(2, 8, 12, generator)
    program = PowerProgram(ramp=ramp, num_decisions=12)
    if kind == "tied":
        scenarios = (scenarios * 2).round() / 2
    elif kind == "identical":
        scenarios = scenarios[:, :1].expand(-1, 8, -1).clone()
    elif kind == "balanced":
        program = PowerProgram(shortage=1.0, excess=1.0, ramp=ramp, num_decisions=12)
    elif kind == "high":
        scenarios = scenarios + 100
    else:
        scenarios = 100 * scenarios
    _compare_with_clarabel(program, scenarios, None)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_exact_solver_agrees_with_clarabel_on_a_thousand_instances(part: int) -> None:
    generator = torch.Generator().manual_seed(part)
    num_scenarios = (1, 2, 3, 5, 10, 20, 30, 50, 4, 8)[part % 10]
    scenarios = _daily_scenarios(50, num_scenarios, 24, generator)
    scenarios = (0.1, 1.0, 1.0, 10.0)[part % 4] * scenarios
    if part % 5 == 0:
        scenarios = (4 * scenarios).round() / 4
    weights = _random_weights((50, num_scenarios), generator, zeros=part % 2 == 0)
    _compare_with_clarabel(PowerProgram(ramp=(0.4, 0.05, 0.0)[part % 3]), scenarios, weights)


@pytest.mark.parametrize("ramp", [math.inf, 1e9])
def test_a_limit_that_cannot_bind_leaves_the_hours_apart(ramp: float) -> None:
    scenarios = _daily_scenarios(3, 9, 24, torch.Generator().manual_seed(0))
    solution = solve(PowerProgram(ramp=ramp), scenarios)
    assert (solution.status == Status.SOLVED).all()
    for hour in range(24):
        alone = solve(PowerProgram(num_decisions=1), scenarios[:, :, hour : hour + 1]).decision
        assert torch.equal(solution.decision[:, hour], alone[:, 0])


def test_the_exact_decision_is_the_weighted_quantile_a_hand_can_compute() -> None:
    # shortage 3, excess 1, scenarios 0, 10, 20: the slope at 10 from the left is
    # 10 - 10 + 1 - 4 * 2/3 < 0, from the right 10 - 10 + 1 - 4 / 3 < 0; then z + 1 - 10 - 4/3 = 0.
    program = PowerProgram(shortage=3.0, excess=1.0, num_decisions=1)
    scenarios = torch.tensor([[[0.0], [10.0], [20.0]]], dtype=torch.float64)
    solution = solve(program, scenarios)
    assert float(solution.decision) == pytest.approx(10 + 1 / 3, abs=1e-13)
    assert not bool(solution.at_kink.any())
    steep = solve(PowerProgram(shortage=50.0, excess=0.5, num_decisions=1), scenarios)
    assert float(steep.decision) == 20.0
    assert steep.at_kink.flatten().tolist() == [False, False, True]


def test_two_rigid_hours_meet_where_a_hand_computes_it() -> None:
    # Without hinges (no costs but the squares) the best z, z + 1 for 0 and 5 is 2, 3.
    program = PowerProgram(shortage=0.0, excess=0.0, ramp=1.0, num_decisions=2)
    solution = solve(program, torch.tensor([[[0.0, 5.0]]], dtype=torch.float64))
    assert solution.decision.flatten().tolist() == pytest.approx([2.0, 3.0], abs=1e-14)
    assert solution.duals.flatten().tolist() == pytest.approx([2.0, 0.0], abs=1e-14)


# --- the convolved program -------------------------------------------------------------------


@pytest.mark.parametrize("ramp", [0.4, 0.05, 0.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_convolved_solution_satisfies_the_kkt_conditions(ramp: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(3)
    scenarios = _daily_scenarios(16, 30, 24, generator)
    weights = _random_weights((16, 30), generator, zeros=True)
    program, width = PowerProgram(ramp=ramp), bandwidth(scenarios, weights, scale)
    solution = solve(program, scenarios, weights, width)
    assert (solution.status == Status.SOLVED).all()
    assert not bool(solution.at_kink.any())
    assert _kkt_residual(program, scenarios, weights, width, solution).max() <= 1e-13
    tight = (solution.duals > 0).any(1)
    assert bool(tight.any()) or ramp > 0.3


@pytest.mark.parametrize("ramp", [0.4, 0.05, 0.0])
def test_convolved_solution_agrees_with_scipy(ramp: float) -> None:
    scenarios = _daily_scenarios(2, 12, 8, torch.Generator().manual_seed(11))
    program, width = PowerProgram(ramp=ramp, num_decisions=8), bandwidth(scenarios)
    solution = solve(program, scenarios, None, width)
    steps = np.diff(np.eye(8), axis=0)
    for b in range(2):
        y, s = scenarios[b].numpy(), width[b].numpy()

        def cost(z: Array, y: Array = y, s: Array = s) -> float:
            a = y - z
            smooth = a * norm.cdf(a / s) + s * norm.pdf(a / s)
            return float((0.5 * a**2 - 0.5 * a + 50.5 * smooth).mean(0).sum())

        def slope(z: Array, y: Array = y, s: Array = s) -> Array:
            return np.asarray((z - y + 0.5 - 50.5 * norm.cdf((y - z) / s)).mean(0))

        limits = (
            {"type": "eq", "fun": lambda z: steps @ z, "jac": lambda z: steps}
            if ramp == 0
            else {
                "type": "ineq",
                "fun": lambda z: ramp - np.concatenate([steps @ z, -steps @ z]),
                "jac": lambda z: np.concatenate([-steps, steps]),
            }
        )
        start = np.full(8, y.mean())
        found = minimize(
            cost,
            start,
            jac=slope,
            constraints=[limits],
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        ours = solution.decision[b].numpy()
        assert np.abs(found.x - ours).max() <= 1e-5
        assert cost(ours) <= cost(found.x) + 1e-9


@pytest.mark.parametrize("ramp", [0.4, 0.0, pytest.param(0.05, marks=pytest.mark.slow)])
def test_convolved_decision_tends_to_the_exact_one_as_the_width_goes_to_zero(ramp: float) -> None:
    scenarios = _daily_scenarios(4, 12, 12, torch.Generator().manual_seed(5))
    program = PowerProgram(ramp=ramp, num_decisions=12)
    exact = solve(program, scenarios).decision
    errors = []
    for width in (1e-2, 1e-4, 1e-6):
        smooth = solve(program, scenarios, None, torch.full_like(exact, width))
        assert (smooth.status == Status.SOLVED).all()
        errors.append(float((smooth.decision - exact).abs().max()))
    # The hinge's slope moves by O(1) within a few widths; the exact optimum is that near.
    assert errors[0] <= 0.5 and errors[1] <= 5e-3 and errors[2] <= 5e-5


@pytest.mark.parametrize("num_scenarios", [1, 6])
def test_identical_scenarios_and_a_single_one_give_the_exact_program(num_scenarios: int) -> None:
    scenarios = _daily_scenarios(4, 1, 24, torch.Generator().manual_seed(6))
    scenarios = scenarios.expand(-1, num_scenarios, -1).clone()
    program, width = PowerProgram(ramp=0.4), bandwidth(scenarios)
    smooth, exact = solve(program, scenarios, None, width), solve(program, scenarios)
    assert torch.equal(smooth.decision, exact.decision)
    for value in (smooth.decision, smooth.duals, smooth.subgradients, smooth.residuals):
        assert bool(value.isfinite().all())
    assert torch.equal(
        solve(PowerProgram(ramp=100.0), scenarios, None, width).decision, scenarios[:, 0]
    )


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1.0, 1e4])
@pytest.mark.slow
def test_kinked_hours_beside_smooth_ones_are_solved_at_every_scale(scale: float) -> None:
    scenarios = scale * _daily_scenarios(8, 10, 24, torch.Generator().manual_seed(8))
    program, width = PowerProgram(ramp=0.1 * scale), bandwidth(scenarios)
    width[:, ::2] = 0
    weights = torch.full((8, 10), 0.1, dtype=torch.float64)
    solution = solve(program, scenarios, weights, width)
    assert (solution.status == Status.SOLVED).all()
    assert _kkt_residual(program, scenarios, weights, width, solution).max() <= 1e-13


@pytest.mark.parametrize(
    "width",
    [1e-6, 1e-12, 5e-324, *(pytest.param(one, marks=pytest.mark.slow) for one in (1e-9, 1e-100))],
)
@pytest.mark.parametrize("ramp", [0.4, 0.05, 0.0])
def test_any_positive_width_however_small_is_solved(width: float, ramp: float) -> None:
    scenarios = _daily_scenarios(4, 10, 24, torch.Generator().manual_seed(9))
    program = PowerProgram(ramp=ramp)
    exact = solve(program, scenarios)
    smooth = solve(program, scenarios, None, torch.full_like(exact.decision, width))
    assert (smooth.status == Status.SOLVED).all()
    assert float((smooth.decision - exact.decision).abs().max()) <= 40 * width


# --- properties ------------------------------------------------------------------------------


@st.composite
def _programs(draw: st.DrawFn) -> tuple[PowerProgram, Tensor, Tensor, Tensor]:
    """An adversarial program with scenarios, weights and bandwidth of one instance."""
    size = draw(st.sampled_from([1, 2, 3, 6, 24]))
    num_scenarios = draw(st.sampled_from([1, 2, 3, 10, 40]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = 10.0 ** draw(st.integers(-4, 4))
    unit = scale if draw(st.booleans()) else 1.0
    kind = draw(st.sampled_from(["noise", "tied", "identical", "zigzag", "outlier"]))
    y = torch.randn(1, num_scenarios, size, dtype=torch.float64, generator=generator)
    if kind == "tied":
        y = y.round()
    elif kind == "identical":
        y = y[:, :1].expand(-1, num_scenarios, -1).clone()
    elif kind == "zigzag":
        y[:, :, ::2] += 10
    elif kind == "outlier":
        y[:, 0] *= 1e3
    y = scale * (y + draw(st.sampled_from([0.0, 3.0, -50.0])))
    shortage, excess = draw(
        st.sampled_from([(50.0, 0.5), (0.5, 50.0), (1.0, 1.0), (0.0, 0.0), (0.0, 2.0), (7.0, 0.0)])
    )
    ramp = draw(st.sampled_from([0.0, 1e-6, 0.05, 0.4, 100.0]))
    weights = _random_weights((1, num_scenarios), generator, zeros=draw(st.booleans()))
    program = PowerProgram(shortage * unit, excess * unit, ramp * scale, size)
    width = bandwidth(y, weights, draw(st.sampled_from([0.0, 0.1, 1.5])))
    return program, y, weights, width


def _assert_solved_to_rounding(case: tuple[PowerProgram, Tensor, Tensor, Tensor]) -> None:
    program, scenarios, weights, width = case
    solution = solve(program, scenarios, weights, width)
    assert int(solution.status) == Status.SOLVED, solution.residuals
    if _scale(program, scenarios) == 0:
        assert not solution.decision.any()  # Nothing costs anything, and nothing is wanted.
        return
    # Rounding of z alone moves a smooth slope by curvature * eps * |z|.
    given = Instances(scenarios, weights, width)
    curvature = float(program.hessian(given, solution.decision).max())
    rounding = 1e-14 * curvature * float(scenarios.abs().max()) / _scale(program, scenarios)
    residual = _kkt_residual(program, scenarios, weights, width, solution)
    assert float(residual[0]) <= 1e-12 + rounding


@settings(deadline=None, max_examples=60, derandomize=True)
@given(_programs())
def test_every_instance_is_solved_to_rounding(
    case: tuple[PowerProgram, Tensor, Tensor, Tensor],
) -> None:
    _assert_solved_to_rounding(case)


@pytest.mark.slow
@settings(deadline=None, max_examples=1_000, derandomize=True)
@given(_programs())
def test_a_thousand_adversarial_batches_are_solved_to_rounding(
    case: tuple[PowerProgram, Tensor, Tensor, Tensor],
) -> None:
    _assert_solved_to_rounding(case)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(_programs(), st.sampled_from([-3.0, 0.7, 20.0]))
def test_decisions_move_with_a_common_shift_of_the_scenarios(
    case: tuple[PowerProgram, Tensor, Tensor, Tensor], shift: float
) -> None:
    program, scenarios, weights, width = case
    move = shift * float(1e-3 + scenarios.abs().max())
    before = solve(program, scenarios, weights, width).decision
    after = solve(program, scenarios + move, weights, width).decision
    tolerance = 1e-12 * (1 + abs(shift)) * _scale(program, scenarios)
    assert float((after - before - move).abs().max()) <= tolerance


@settings(deadline=None, max_examples=30, derandomize=True)
@given(_programs(), st.integers(0, 2**31))
def test_the_order_of_the_scenarios_does_not_matter(
    case: tuple[PowerProgram, Tensor, Tensor, Tensor], seed: int
) -> None:
    program, scenarios, weights, width = case
    order = torch.randperm(weights.shape[1], generator=torch.Generator().manual_seed(seed))
    first = solve(program, scenarios, weights, width)
    second = solve(program, scenarios[:, order], weights[:, order], width)
    tolerance = 1e-13 * _scale(program, scenarios)
    assert float((first.decision - second.decision).abs().max()) <= tolerance
    assert torch.equal(first.at_kink[:, order], second.at_kink)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(_programs())
def test_a_scenario_twice_is_a_scenario_of_twice_the_weight(
    case: tuple[PowerProgram, Tensor, Tensor, Tensor],
) -> None:
    program, scenarios, weights, width = case
    once = solve(program, scenarios, weights, width)
    generator = torch.Generator().manual_seed(0)
    split = torch.rand(weights.shape, dtype=torch.float64, generator=generator)
    twice = solve(
        program,
        torch.cat([scenarios, scenarios], dim=1),
        torch.cat([split * weights, (1 - split) * weights], dim=1),
        width,
    )
    assert int(twice.status) == Status.SOLVED
    tolerance = 1e-12 * _scale(program, scenarios)
    assert float((once.decision - twice.decision).abs().max()) <= tolerance


# --- bad input -------------------------------------------------------------------------------


def _batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(12)
    scenarios = _daily_scenarios(5, 6, 24, generator)
    weights = _random_weights((5, 6), generator, zeros=False)
    return scenarios, weights, bandwidth(scenarios)


@pytest.mark.parametrize(
    "field, value",
    [
        ("scenarios", math.nan),
        ("scenarios", math.inf),
        ("weights", math.nan),
        ("weights", -0.1),
        ("weights", 5.0),
        ("bandwidth", -1e-3),
        ("bandwidth", -1e-300),
        ("bandwidth", math.nan),
        ("bandwidth", math.inf),
    ],
)
def test_a_bad_instance_is_named_and_leaves_the_others_bit_identical(
    field: str, value: float
) -> None:
    program = PowerProgram(ramp=0.05)
    scenarios, weights, width = _batch()
    clean = solve(program, scenarios, weights, width)
    {"scenarios": scenarios[2, 3], "weights": weights[2], "bandwidth": width[2]}[field][4] = value
    solution = solve(program, scenarios, weights, width)
    assert solution.status.tolist() == [0, 0, int(Status.INVALID_INPUT), 0, 0]
    assert solution.solved.tolist() == [True, True, False, True, True]
    assert bool(solution.decision[2].isnan().all()) and not bool(solution.at_kink[2].any())
    others = [0, 1, 3, 4]
    for name in ("decision", "duals", "subgradients", "at_kink", "residuals"):
        assert torch.equal(getattr(solution, name)[others], getattr(clean, name)[others]), name
    without = solve(program, scenarios[others], weights[others], width[others])
    assert torch.equal(solution.decision[others], without.decision)
    report = solution.report()
    assert "instances 2 (1 of 5)" in report and "invalid input" in report


def test_report_is_empty_when_all_is_well_and_lists_at_most_ten() -> None:
    scenarios, weights, width = _batch()
    assert solve(PowerProgram(), scenarios, weights, width).report() == ""
    many = torch.full((12, 2, 24), math.nan, dtype=torch.float64)
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (12 of 12)" in solve(PowerProgram(), many).report()


def test_float32_scenarios_are_refused() -> None:
    with pytest.raises(TypeError, match="float32"):
        solve(PowerProgram(), torch.zeros(1, 2, 24, dtype=torch.float32))


@pytest.mark.parametrize(
    "scenarios, weights, width",
    [
        ((2, 24), None, None),
        ((2, 0, 24), None, None),
        ((2, 3, 23), None, None),
        ((2, 3, 24), (2, 4), None),
        ((2, 3, 24), (3,), None),
        ((2, 3, 24), None, (2, 1)),
        ((2, 3, 24), None, (24,)),
    ],
)
def test_shapes_that_do_not_match_are_refused(
    scenarios: tuple[int, ...], weights: tuple[int, ...] | None, width: tuple[int, ...] | None
) -> None:
    def zeros(shape):  # type: ignore[no-untyped-def]
        return None if shape is None else torch.zeros(shape, dtype=torch.float64)

    with pytest.raises(ValueError, match="shape|outcomes"):
        solve(PowerProgram(), zeros(scenarios), zeros(weights), zeros(width))


def test_a_program_without_a_solver_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="not a diffusion_dfl.programs.Program"):
        solve("power", torch.zeros(1, 2, 24, dtype=torch.float64))


def test_an_empty_batch_has_an_empty_solution() -> None:
    solution = solve(PowerProgram(), torch.zeros(0, 3, 24, dtype=torch.float64))
    assert solution.decision.shape == (0, 24) and solution.report() == ""


def test_a_scenario_without_weight_holds_nothing() -> None:
    scenarios = torch.tensor([[[1.0], [1.0], [0.0]]], dtype=torch.float64)
    weights = torch.tensor([[0.5, 0.0, 0.5]], dtype=torch.float64)
    solution = solve(PowerProgram(num_decisions=1), scenarios, weights)
    assert solution.at_kink.flatten().tolist() == [True, False, False]
