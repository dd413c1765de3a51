"""The closed forms of Gaussian convolution against numerical integration; the bandwidth rule."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from diffusion_dfl.programs.smoothing import (
    HingePair,
    bandwidth,
    hinge,
    hinge_cube,
    hinge_density,
    hinge_slope,
    hinge_square,
    normal_cdf,
)

ARGUMENTS = (-3.0, -0.4, 0.0, 0.2, 1.0, 2.5)
WIDTHS = (0.05, 0.3, 1.0, 4.0)


def _scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _integral(a: float, s: float, power: int) -> float:
    """E (a + s xi)_+^power by quadrature over the half-line where the hinge is active."""
    kink = -a / s
    low, high = max(kink, -12.0), 12.0
    return quad(lambda x: (a + s * x) ** power * norm.pdf(x), low, high, epsabs=1e-13, limit=200)[0]


@pytest.mark.parametrize("s", WIDTHS)
@pytest.mark.parametrize("a", ARGUMENTS)
def test_hinge_and_slope_are_the_gaussian_expectations(a: float, s: float) -> None:
    argument, width = _scalar(a), _scalar(s)
    assert float(hinge(argument, width)) == pytest.approx(_integral(a, s, 1), abs=1e-11)
    assert float(hinge_slope(argument, width)) == pytest.approx(_integral(a, s, 0), abs=1e-11)


@pytest.mark.parametrize("s", WIDTHS)
@pytest.mark.parametrize("a", ARGUMENTS)
def test_slope_and_density_are_the_derivatives_of_the_hinge(a: float, s: float) -> None:
    argument = _scalar(a).requires_grad_()
    (slope,) = torch.autograd.grad(hinge(argument, _scalar(s)), argument)
    assert float(slope) == pytest.approx(float(hinge_slope(_scalar(a), _scalar(s))), abs=1e-13)
    (density,) = torch.autograd.grad(hinge_slope(argument, _scalar(s)), argument)
    assert float(density) == pytest.approx(float(hinge_density(_scalar(a), _scalar(s))), abs=1e-13)


@pytest.mark.parametrize("s", WIDTHS)
@pytest.mark.parametrize("a", ARGUMENTS)
def test_powers_of_the_hinge_are_the_gaussian_expectations(a: float, s: float) -> None:
    argument, width = _scalar(a), _scalar(s)
    square, cube = _integral(a, s, 2), _integral(a, s, 3)
    assert float(hinge_square(argument, width)) == pytest.approx(square, rel=1e-11, abs=1e-11)
    assert float(hinge_cube(argument, width)) == pytest.approx(cube, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("s", WIDTHS)
@pytest.mark.parametrize("a", ARGUMENTS)
def test_powers_of_the_hinge_are_each_others_derivatives(a: float, s: float) -> None:
    argument = _scalar(a).requires_grad_()
    (square,) = torch.autograd.grad(hinge_cube(argument, _scalar(s)), argument)
    assert float(square) == pytest.approx(
        3 * float(hinge_square(_scalar(a), _scalar(s))), abs=1e-12
    )
    (plain,) = torch.autograd.grad(hinge_square(argument, _scalar(s)), argument)
    assert float(plain) == pytest.approx(2 * float(hinge(_scalar(a), _scalar(s))), abs=1e-12)


@pytest.mark.parametrize("s", [0.0, 1e-8, *WIDTHS])
def test_a_pair_holds_both_sides_of_the_hinge_and_no_negative_value(s: float) -> None:
    a = torch.tensor([-1e4, *ARGUMENTS, 1e4], dtype=torch.float64)
    width = torch.full_like(a, s)
    pair = HingePair.of(a, width)
    assert torch.allclose(pair.slope, hinge_slope(a, width), rtol=0, atol=1e-15)
    assert torch.allclose(pair.density, hinge_density(a, width), rtol=1e-13, atol=1e-280)
    for side, linear, square in zip((a, -a), pair.linear, pair.square, strict=True):
        assert torch.allclose(linear, hinge(side, width), rtol=1e-13, atol=1e-15 * (1 + s))
        assert torch.allclose(
            square, hinge_square(side, width), rtol=1e-12, atol=1e-15 * (1 + s) ** 2
        )
        assert bool((linear >= 0).all()) and bool((square >= 0).all())


def test_a_pair_without_width_is_exact_with_half_slopes_at_the_kink() -> None:
    a = torch.tensor([-2.0, -1e-300, 0.0, 1e-300, 3.0], dtype=torch.float64)
    pair = HingePair.of(a, torch.zeros(1, dtype=torch.float64))
    assert pair.slope.tolist()[::2] == [0.0, 0.5, 1.0]
    assert torch.equal(pair.density, torch.zeros_like(a))
    assert torch.equal(pair.linear[0], a.clamp_min(0)) and torch.equal(
        pair.linear[1], (-a).clamp_min(0)
    )
    assert pair.square[0].tolist() == [0.0, 0.0, 0.0, 0.0, 9.0]
    assert pair.square[1].tolist() == [4.0, 0.0, 0.0, 0.0, 0.0]


def test_the_small_side_of_a_pair_keeps_its_digits() -> None:
    # phi(6) - 6 Phi(-6) and 37 Phi(-6) - 6 phi(6) in forty digits of mpmath, rounded.
    pair = HingePair.of(_scalar(6.0), _scalar(1.0))
    assert float(pair.linear[1]) == pytest.approx(1.563569795970966e-10, rel=1e-12, abs=0)
    assert float(pair.square[1]) == pytest.approx(4.844576745511828e-11, rel=1e-11, abs=0)


def test_zero_width_gives_the_plain_hinge_with_its_midpoint_slope() -> None:
    a = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    s = torch.zeros(3, dtype=torch.float64)
    assert hinge(a, s).tolist() == [0.0, 0.0, 3.0]
    assert hinge_slope(a, s).tolist() == [0.0, 0.5, 1.0]
    assert hinge_density(a, s).tolist() == [0.0, 0.0, 0.0]


def test_normal_cdf_keeps_relative_accuracy_in_the_lower_tail() -> None:
    x = torch.tensor([-30.0, -10.0, -1.0, 0.0, 5.0], dtype=torch.float64)
    assert torch.allclose(normal_cdf(x), torch.from_numpy(norm.cdf(x.numpy())), rtol=1e-12, atol=0)


def test_bandwidth_is_silvermans_rule_with_the_weighted_population_deviation() -> None:
    scenarios = torch.tensor([[[0.0], [1.0], [4.0]]], dtype=torch.float64)
    weights = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    # Mean 1.25, variance 0.5 * 1.5625 + 0.25 * 0.0625 + 0.25 * 7.5625 = 2.6875.
    expected = 1.5 * math.sqrt(2.6875) * 3 ** (-0.2)
    assert float(bandwidth(scenarios, weights, 1.5)) == pytest.approx(expected, rel=1e-14)
    assert torch.equal(bandwidth(scenarios, weights, 0.0), torch.zeros(1, 1, dtype=torch.float64))


def test_bandwidth_ignores_the_scale_of_the_weights_and_a_given_count() -> None:
    torch.manual_seed(0)
    scenarios = torch.randn(2, 6, 3, dtype=torch.float64)
    weights = torch.rand(2, 6, dtype=torch.float64)
    plain, scaled = bandwidth(scenarios, weights), bandwidth(scenarios, 7 * weights)
    assert torch.allclose(plain, scaled, rtol=1e-13)
    twice = torch.cat([scenarios, scenarios], dim=1)
    kept = bandwidth(twice, sample_size=6)
    assert torch.allclose(kept, bandwidth(scenarios), rtol=1e-13)
    assert torch.allclose(bandwidth(twice), kept * 2 ** (-0.2), rtol=1e-13)


def test_bandwidth_has_the_right_gradient_in_scenarios_and_weights() -> None:
    torch.manual_seed(1)
    scenarios = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    weights = (0.1 + torch.rand(2, 5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y, w: bandwidth(y, w, 1.5), (scenarios, weights))


@pytest.mark.parametrize("magnitude", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("num_scenarios", [1, 7])
def test_no_spread_gives_width_exactly_zero_and_gradient_exactly_zero(
    magnitude: float, num_scenarios: int
) -> None:
    scenarios = torch.full((2, num_scenarios, 3), magnitude / 3, dtype=torch.float64)
    scenarios.requires_grad_()
    weights = torch.rand(2, num_scenarios, dtype=torch.float64, requires_grad=True)
    width = bandwidth(scenarios, weights)
    width.sum().backward()
    assert torch.equal(width, torch.zeros_like(width))
    assert scenarios.grad is not None and torch.equal(scenarios.grad, torch.zeros_like(scenarios))
    assert weights.grad is not None and torch.equal(weights.grad, torch.zeros_like(weights))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_leave_other_instances_gradients_alone(bad: float) -> None:
    torch.manual_seed(2)
    clean = torch.randn(3, 5, 2, dtype=torch.float64)
    dirty = clean.clone()
    dirty[1, 2, 0] = bad
    weights = torch.rand(3, 5, dtype=torch.float64)
    dirty_weights = weights.clone()
    dirty_weights[2, 1] = bad
    dirty.requires_grad_()
    dirty_weights.requires_grad_()
    width = bandwidth(dirty, dirty_weights)
    assert torch.equal(width[0], bandwidth(clean, weights)[0])
    gradients = torch.autograd.grad(width.sum(), (dirty, dirty_weights))
    assert all(bool(g.isfinite().all()) for g in gradients)
    assert torch.equal(gradients[0][1, :, 0], torch.zeros(5, dtype=torch.float64))
