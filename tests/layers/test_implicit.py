"""Gradients of the decision: finite differences, dense KKT systems, invariants, closed forms."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.layers.adjoint import solve_binding
from diffusion_dfl.layers.differentiate import differentiate
from diffusion_dfl.programs import Instances, PowerProgram, bandwidth
from diffusion_dfl.solvers import solve

Array = NDArray[np.float64]
HOURS = 10
RAMPS = [100.0, 0.4, 0.05, 0.0]


def _instance(
    seed: int = 0, batch: int = 3, num_scenarios: int = 7, num_hours: int = HOURS
) -> tuple[Tensor, Tensor, Tensor]:
    """Scenarios, weights that are not uniform and a direction dL/dz."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, num_scenarios, num_hours)
    curve = torch.sin(torch.arange(num_hours, dtype=torch.float64) / 2)
    scenarios = curve + 0.5 * torch.randn(shape, dtype=torch.float64, generator=generator)
    weights = 0.2 + torch.rand(shape[:2], dtype=torch.float64, generator=generator)
    direction = torch.randn(batch, num_hours, dtype=torch.float64, generator=generator)
    return scenarios, weights / weights.sum(1, keepdim=True), direction


def _program(ramp: float, num_hours: int = HOURS) -> PowerProgram:
    return PowerProgram(ramp=ramp, num_decisions=num_hours)


def _layer(ramp: float, scale: float) -> DecisionLayer:
    return DecisionLayer(_program(ramp), bandwidth_scale=scale)


def _assert_directional(function, inputs, directions, direction, step=1e-5, tolerance=1e-6):  # type: ignore[no-untyped-def]
    """Autograd of ``sum(direction * function(*inputs))`` against central differences."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    value = (direction * function(*inputs)).sum()
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    analytic = sum(
        float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None
    )

    def at(t: float) -> float:
        moved = [x.detach() + t * d for x, d in zip(inputs, directions, strict=True)]
        return float((direction * function(*moved)).sum())

    # Fourth-order central differences: curvature near a narrow kernel is large.
    numeric = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    assert analytic == pytest.approx(numeric, rel=tolerance, abs=tolerance)


# --- finite differences ----------------------------------------------------------------------


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("scale", [0.0, 0.5, pytest.param(1.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_gradients_with_a_fixed_bandwidth_match_central_differences(
    ramp: float, scale: float, seed: int
) -> None:
    scenarios, weights, direction = _instance(seed)
    width = bandwidth(scenarios, weights, scale)
    layer = _layer(ramp, scale)
    torch.manual_seed(seed)
    zero_sum = torch.randn_like(weights)
    zero_sum -= zero_sum.mean(1, keepdim=True)
    still = [torch.zeros_like(t) for t in (scenarios, weights, width)]
    moves = [torch.randn_like(scenarios), zero_sum, width * torch.rand_like(width)]
    for k in range(3):
        directions = [*still[:k], moves[k], *still[k + 1 :]]
        _assert_directional(layer, (scenarios, weights, width), directions, direction)
    _assert_directional(layer, (scenarios, weights, width), moves, direction)


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize(("sample_size", "scale"), [(None, 0.5), (50, 1.5)])
def test_gradients_through_the_bandwidth_rule_match_central_differences(
    ramp: float, sample_size: int | None, scale: float
) -> None:
    scenarios, weights, direction = _instance(2)
    layer = DecisionLayer(_program(ramp), scale, sample_size)
    torch.manual_seed(2)
    zero_sum = torch.randn_like(weights)
    zero_sum -= zero_sum.mean(1, keepdim=True)
    for moves in (
        [torch.randn_like(scenarios), torch.zeros_like(weights)],
        [torch.zeros_like(scenarios), zero_sum],
    ):
        _assert_directional(layer, (scenarios, weights), moves, direction)


@pytest.mark.parametrize("ramp", [0.4, 0.05, 0.0])
def test_gradcheck_of_the_convolved_layer(ramp: float) -> None:
    scenarios, weights, _ = _instance(3, batch=2, num_scenarios=4, num_hours=4)
    layer = DecisionLayer(_program(ramp, 4))
    width = bandwidth(scenarios, weights)
    inputs = [t.clone().requires_grad_() for t in (scenarios, weights, width)]
    # The steps change the sum of the weights, which the solver allows up to 1e-3.
    # Entry by entry at one ramp, along random directions at the others.
    how = {"eps": 1e-6, "atol": 1e-6, "rtol": 1e-5, "fast_mode": ramp != 0.05}
    assert torch.autograd.gradcheck(layer, inputs, **how)
    assert torch.autograd.gradcheck(layer, inputs[:2], **how)


@pytest.mark.parametrize("ramp", [0.4, 0.05])
def test_exact_gradients_match_finite_differences_of_clarabel(ramp: float) -> None:
    scenarios, weights, direction = _instance(4, batch=1, num_scenarios=5)
    program = _program(ramp)
    torch.manual_seed(4)
    moves = [torch.randn_like(scenarios), torch.zeros_like(weights)]
    inputs = [t.clone().requires_grad_() for t in (scenarios, weights)]
    (direction * DecisionLayer(program, 0.0)(*inputs)).sum().backward()
    analytic = sum(float((x.grad * d).sum()) for x, d in zip(inputs, moves, strict=True))
    # The decision is piecewise linear in the scenarios: a large step costs no accuracy.
    step = 1e-4
    up, down = (
        solve(program, scenarios + t * moves[0], weights, solver="cvxpy").decision
        for t in (step, -step)
    )
    numeric = float((direction * (up - down)).sum()) / (2 * step)
    assert analytic == pytest.approx(numeric, abs=2e-5, rel=2e-5)


# --- an independent dense KKT system ---------------------------------------------------------


def _dense_vjp(
    program: PowerProgram, scenarios: Tensor, weights: Tensor, width: Tensor, right: Tensor
) -> tuple[Array, Array]:
    """dL/dy and dL/domega of one instance from the full KKT matrix, held hours as equalities."""
    solution = solve(program, scenarios[None], weights[None], width[None])
    z, duals = solution.decision[0].numpy(), solution.duals[0].numpy()
    y, w, s = scenarios.numpy(), weights.numpy(), width.numpy()
    size = len(z)
    slope = program.shortage + program.excess
    gap = y - z
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.where(s > 0, norm.pdf(gap / s) / s, 0.0)
    steps = np.diff(np.eye(size), axis=0)
    active = np.concatenate([steps, -steps])[duals > 1e-9]
    kinks = [(m, h) for h in range(size) for m in range(len(y)) if s[h] == 0 and gap[m, h] == 0]
    held = np.zeros((len(kinks), size))
    for row, (_, h) in enumerate(kinks):
        held[row, h] = 1.0
    normals = np.concatenate([active, held])
    hessian = np.diag((w[:, None] * (1 + slope * density)).sum(0))
    count = len(normals)
    matrix = np.block([[hessian, normals.T], [normals, np.zeros((count, count))]])
    adjoint = np.linalg.solve(matrix, np.concatenate([right.numpy(), np.zeros(count)]))
    u, v = adjoint[:size], adjoint[size:]
    in_scenarios = w[:, None] * (1 + slope * density) * u
    # A held hour: z_h = y_mh; raising the right-hand side of that equality is worth v.
    for value, (m, h) in zip(v[len(active) :], kinks, strict=True):
        in_scenarios[m, h] += value
    return in_scenarios, -solution.subgradients[0].numpy() @ u


@pytest.mark.parametrize("ramp", [100.0, 0.4, 0.05])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5])
def test_gradients_equal_those_of_the_dense_kkt_system(ramp: float, scale: float) -> None:
    scenarios, weights, direction = _instance(5, batch=4, num_scenarios=9, num_hours=24)
    program = _program(ramp, 24)
    width = bandwidth(scenarios, weights, scale)
    inputs = [t.clone().requires_grad_() for t in (scenarios, weights)]
    (direction * DecisionLayer(program, scale)(*inputs, width)).sum().backward()
    for b in range(4):
        in_y, in_w = _dense_vjp(program, scenarios[b], weights[b], width[b], direction[b])
        assert np.abs(inputs[0].grad[b].numpy() - in_y).max() <= 1e-9
        # Weights move a decision by slopes of order gamma_s.
        assert np.abs(inputs[1].grad[b].numpy() - in_w).max() <= 1e-7


def test_exact_decisions_with_tight_ramps_equal_a_dense_solve_of_their_active_set() -> None:
    scenarios, weights, _ = _instance(6, batch=4, num_scenarios=9, num_hours=24)
    program = _program(0.05, 24)
    solution = solve(program, scenarios, weights)
    steps = np.diff(np.eye(24), axis=0)
    for b in range(4):
        z, y, w = (t[b].numpy() for t in (solution.decision, scenarios, weights))
        tight = solution.duals[b].numpy() > 1e-9
        assert tight.sum() >= 10
        normals = np.concatenate([steps, -steps])[tight]
        held = solution.at_kink[b].numpy()
        where = np.argwhere(held)
        fixed = np.zeros((len(where), 24))
        for row, (_, h) in enumerate(where):
            fixed[row, h] = 1.0
        pull = (w[:, None] * (y > z + 1e-9)).sum(0)
        # Quadratic part: z - sum w y + excess - (shortage + excess) * pull + normals' duals = 0.
        linear = w @ y - 0.5 + 50.5 * pull
        rows = np.concatenate([normals, fixed])
        level = np.concatenate([np.full(len(normals), 0.05), y[where[:, 0], where[:, 1]]])
        count = len(rows)
        matrix = np.block([[np.eye(24), rows.T], [rows, np.zeros((count, count))]])
        dense = np.linalg.solve(matrix, np.concatenate([linear, level]))[:24]
        assert np.abs(dense - z).max() <= 1e-11


# --- invariants ------------------------------------------------------------------------------


def _jacobian(program: PowerProgram, scenarios: Tensor, weights: Tensor, width: Tensor) -> Tensor:
    """dz/dy, ``(B, n, M, n)``, one adjoint a decision."""
    solution, given = (
        solve(program, scenarios, weights, width),
        Instances(scenarios, weights, width),
    )
    rows = []
    for hour in range(program.num_decisions):
        unit = torch.zeros_like(solution.decision)
        unit[:, hour] = 1
        rows.append(differentiate(program, solution, given, unit)[0])
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
def test_moving_all_scenarios_by_a_constant_moves_the_decision_by_it(
    ramp: float, scale: float
) -> None:
    scenarios, weights, _ = _instance(7, num_scenarios=11)
    width = bandwidth(scenarios, weights, scale)
    jacobian = _jacobian(_program(ramp), scenarios, weights, width).sum(2)
    assert torch.allclose(jacobian.sum(2), torch.ones(3, HOURS, dtype=torch.float64), atol=1e-11)
    if ramp == 100.0:
        assert torch.allclose(jacobian, torch.eye(HOURS, dtype=torch.float64), atol=1e-12)
    if ramp == 0.0:
        # One level for the whole schedule: every hour moves alike.
        assert torch.allclose(jacobian, jacobian[:, :1].expand_as(jacobian), atol=1e-11)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_hours_tied_by_a_zero_ramp_move_together_even_if_they_agree_anyway(scale: float) -> None:
    scenarios, weights, _ = _instance(8, num_hours=1)
    scenarios = scenarios.expand(-1, -1, HOURS).clone()
    if scale == 0.0:
        program = PowerProgram(shortage=1.0, excess=1.0, ramp=0.0, num_decisions=HOURS)
        scenarios = torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64).view(1, 3, 1)
        scenarios = scenarios.expand(1, 3, HOURS).clone()
        weights = torch.tensor([[0.5, 0.0, 0.5]], dtype=torch.float64)  # the optimum is between
    else:
        program = _program(0.0)
    width = bandwidth(scenarios, weights, scale)
    solution = solve(program, scenarios, weights, width)
    assert not bool(solution.at_kink.any()) and float(solution.duals.max()) <= 1e-12
    jacobian = _jacobian(program, scenarios, weights, width).sum(2)
    assert torch.allclose(jacobian, torch.full_like(jacobian, 1 / HOURS), atol=1e-12)


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5])
def test_score_weights_sum_to_zero(ramp: float, scale: float) -> None:
    scenarios, weights, direction = _instance(9, batch=6, num_scenarios=20)
    program, width = _program(ramp), bandwidth(scenarios, weights, scale)
    solution = solve(program, scenarios, weights, width)
    given = Instances(scenarios, weights, width)
    _, score, *_ = differentiate(program, solution, given, direction)
    total = (weights * score).sum(1).abs()
    assert bool((total <= 1e-12 * (1 + (weights * score.abs()).sum(1))).all()), total


def test_reweighting_does_not_move_an_exact_optimum_that_sits_on_scenarios() -> None:
    scenarios, _, direction = _instance(10, batch=4, num_scenarios=25)
    program = _program(100.0)
    layer, weights = DecisionLayer(program, 0.0), torch.full((4, 25), 0.04, dtype=torch.float64)
    weights.requires_grad_()
    scenarios.requires_grad_()
    decision = layer(scenarios, weights)
    (direction * decision).sum().backward()
    assert torch.equal(decision, scenarios.amax(1))
    assert torch.equal(weights.grad, torch.zeros_like(weights))
    largest = (scenarios == scenarios.amax(1, keepdim=True)).double()
    assert torch.allclose(scenarios.grad, largest * direction.unsqueeze(1), atol=1e-13)


def test_tied_scenarios_share_alike_and_one_without_weight_gets_nothing() -> None:
    scenarios = torch.tensor([[[2.0], [2.0], [2.0], [0.0]]], dtype=torch.float64)
    weights = torch.tensor([[0.3, 0.3, 0.0, 0.4]], dtype=torch.float64)
    scenarios.requires_grad_()
    DecisionLayer(PowerProgram(num_decisions=1), 0.0)(scenarios, weights).sum().backward()
    assert scenarios.grad.flatten().tolist() == [0.5, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_single_scenario_is_the_decision_and_gets_the_whole_gradient(scale: float) -> None:
    scenarios, _, direction = _instance(11, num_scenarios=1)
    scenarios.requires_grad_()
    decision = _layer(100.0, scale)(scenarios)
    (direction * decision).sum().backward()
    assert torch.equal(decision, scenarios[:, 0])
    assert torch.allclose(scenarios.grad[:, 0], direction, atol=1e-14)


@pytest.mark.parametrize("stiffness", [1e-2, 1e-8, 1e-11, 1e-13])
def test_stiff_hours_beside_soft_ones_are_not_mistaken_for_redundant(stiffness: float) -> None:
    matrix, _ = _program(0.4, 48).inequalities(torch.zeros(1, dtype=torch.float64))
    binding = torch.zeros(1, 94, dtype=torch.bool)
    binding[0, :47] = True
    binding[0, 23] = False  # two blocks of 24 hours, each rigid
    ones = torch.ones(24, dtype=torch.float64)
    inverse = torch.cat([stiffness * ones, ones]).unsqueeze(0)
    right = torch.randn(1, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dual, _ = solve_binding(matrix.unsqueeze(0), binding, inverse, inverse * right)
    adjoint = (inverse * (right - dual @ matrix))[0]
    expected = torch.cat([stiffness * right[0, :24].mean() * ones, right[0, 24:].mean() * ones])
    assert torch.allclose(adjoint, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("width", [1e-3, 1e-6, 1e-9, 1e-12, 5e-324])
@pytest.mark.parametrize("ramp", [0.4, 0.05, 0.0])
def test_gradients_are_finite_and_sum_to_one_for_any_small_width(width: float, ramp: float) -> None:
    scenarios, weights, _ = _instance(12)
    scenarios.requires_grad_()
    weights.requires_grad_()
    fixed = torch.full((3, HOURS), width, dtype=torch.float64, requires_grad=True)
    _layer(ramp, 1.0)(scenarios, weights, fixed).sum().backward()
    total = scenarios.grad.sum((1, 2))
    assert torch.allclose(total, torch.full_like(total, HOURS), atol=1e-10)
    assert bool(weights.grad.isfinite().all()) and bool(fixed.grad.isfinite().all())


def test_a_second_derivative_is_refused() -> None:
    scenarios, _, _ = _instance(13)
    scenarios.requires_grad_()
    value = _layer(0.4, 1.0)(scenarios).square().sum()
    (gradient,) = torch.autograd.grad(value, scenarios, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        gradient.sum().backward()


# --- the population: Gaussian scenarios ------------------------------------------------------

MEAN, SPREAD, WIDTH = 0.7, 1.3, 0.25
SHORTAGE, EXCESS = 5.0, 0.5


def _population_decision(mean: float, spread: float) -> float:
    """Root of z - mu + gamma_e - (gamma_s + gamma_e) Phi((mu - z) / sqrt(sigma^2 + s^2))."""
    deviation = math.hypot(spread, WIDTH)

    def slope(z: float) -> float:
        return z - mean + EXCESS - (SHORTAGE + EXCESS) * float(norm.cdf((mean - z) / deviation))

    return float(brentq(slope, mean - 10, mean + 10, xtol=1e-14))


def _population_derivatives() -> tuple[float, float]:
    """dz/dmu and dz/dsigma: 1, and by the implicit function theorem."""
    z, deviation = _population_decision(MEAN, SPREAD), math.hypot(SPREAD, WIDTH)
    t = (MEAN - z) / deviation
    density = (SHORTAGE + EXCESS) * float(norm.pdf(t)) / deviation
    return 1.0, -density * t * SPREAD / deviation / (1 + density)


def test_decision_and_gradients_agree_with_the_gaussian_closed_form_at_1e5_scenarios() -> None:
    num_batches, num_scenarios = 20, 100_000
    program = PowerProgram(SHORTAGE, EXCESS, num_decisions=1)
    layer, estimates = DecisionLayer(program), []
    width = torch.full((1, 1), WIDTH, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_batches):
        noise = torch.randn(1, num_scenarios, 1, dtype=torch.float64, generator=generator)
        mean = torch.tensor(MEAN, dtype=torch.float64, requires_grad=True)
        spread = torch.tensor(SPREAD, dtype=torch.float64, requires_grad=True)
        weights = torch.full((1, num_scenarios), 1 / num_scenarios, dtype=torch.float64)
        weights.requires_grad_()
        decision = layer(mean + spread * noise, weights, width)
        pathwise = torch.autograd.grad(decision.sum(), (mean, spread, weights))
        share = (weights * pathwise[2]).detach()
        eps = noise.squeeze(2)
        score_mean = float((share * eps / SPREAD).sum())
        score_spread = float((share * (eps**2 - 1) / SPREAD).sum())
        estimates.append(
            [float(decision.detach()), *map(float, pathwise[:2]), score_mean, score_spread]
        )
    table = np.array(estimates)
    in_mean, in_spread = _population_derivatives()
    truth = np.array([_population_decision(MEAN, SPREAD), in_mean, in_spread, in_mean, in_spread])
    error = np.abs(table.mean(0) - truth)
    standard_error = table.std(0, ddof=1) / math.sqrt(num_batches)
    assert (error <= 3 * standard_error + 1e-12).all(), (error, standard_error)
    # The comparison has power: one percent of a derivative is far more than its standard error.
    assert (3 * standard_error[1:] <= 0.02 * np.abs(truth[1:])).all(), standard_error


def test_the_closed_form_derivatives_are_those_of_the_closed_form_decision() -> None:
    step = 1e-5
    in_mean = (
        _population_decision(MEAN + step, SPREAD) - _population_decision(MEAN - step, SPREAD)
    ) / (2 * step)
    in_spread = (
        _population_decision(MEAN, SPREAD + step) - _population_decision(MEAN, SPREAD - step)
    ) / (2 * step)
    assert (in_mean, in_spread) == pytest.approx(_population_derivatives(), abs=1e-8)
