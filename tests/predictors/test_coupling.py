"""Splines and couplings: against zuko's, there and back, and the identity where they begin."""

import math

import pytest
import torch
from torch import Tensor

from diffusion_dfl.predictors.coupling import Coupling, Splines


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _raw(bins: int, *sizes: int, spread: float = 1.5) -> Tensor:
    """Numbers without limits, ``(3 K - 1, ...)``."""
    return spread * torch.randn(3 * bins - 1, *sizes, generator=seeded(1)).double()


def _splines(raw: Tensor) -> Splines:
    bins = (len(raw) + 1) // 3
    return Splines.of(*raw.split([bins, bins, bins - 1]))


@pytest.mark.parametrize("bins", [2, 8])
def test_splines_are_zukos(bins: int) -> None:
    from zuko.transforms import MonotonicRQSTransform

    raw = _raw(bins, 3, 200)
    widths, heights, slopes = raw.movedim(0, -1).split([bins, bins, bins - 1], -1)
    theirs = MonotonicRQSTransform(widths, heights, slopes, slope=1e-2)
    value = 7 * torch.randn(3, 200, generator=seeded(2)).double()
    image, logarithm = _splines(raw).forward(value)
    expected = theirs.call_and_ladj(value)
    torch.testing.assert_close(image, expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(logarithm, expected[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(_splines(raw).inverse(value), theirs.inv(value), rtol=0, atol=1e-12)


@pytest.mark.parametrize("spread", [0.0, 1.5, 100.0])
def test_there_and_back_is_where_one_was_and_order_stays(spread: float) -> None:
    """Knots, ends and beyond: exactly at a knot both of its bins say the same."""
    splines = _splines(_raw(8, 1, spread=spread))
    knots = 10 * splines.widths[:, 0].cumsum(0) - 5
    value = torch.cat([torch.linspace(-8, 8, 401).double(), knots, torch.tensor([-5.0, 5.0])])
    value = value.sort().values
    everywhere = Splines(*(part.expand(-1, len(value)) for part in splines))
    image, logarithm = everywhere.forward(value)
    torch.testing.assert_close(everywhere.inverse(image), value, rtol=0, atol=1e-8)
    assert bool((image.diff() >= -1e-12).all()) and bool(logarithm.isfinite().all())
    outside = value.abs() >= 5
    assert torch.equal(image[outside], value[outside]) and not logarithm[outside].any()


def test_gradients_are_differences() -> None:
    raw, value = _raw(3, 4).requires_grad_(), torch.linspace(-6, 6, 4).double().requires_grad_()
    torch.autograd.gradcheck(lambda r, v: _splines(r).forward(v), (raw, value))
    torch.autograd.gradcheck(lambda r, v: _splines(r).inverse(v), (raw, value))


@pytest.mark.parametrize(("outcomes", "first"), [(1, 0), (2, 0), (5, 0), (5, 1)])
def test_a_coupling_keeps_every_other_coordinate_and_begins_as_the_identity(
    outcomes: int, first: int
) -> None:
    torch.manual_seed(0)
    coupling = Coupling(3, outcomes, first, 4, 8, 2, "silu", 0.0).double()
    context = torch.randn(6, 3, generator=seeded(3)).double()
    value = torch.randn(6, 7, outcomes, generator=seeded(4)).double()
    same, nothing = coupling(context, value)
    torch.testing.assert_close(same, value)
    torch.testing.assert_close(nothing, torch.zeros(6, 7).double())
    with torch.no_grad():
        for parameter in coupling.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=seeded(5)))
    noise, logarithm = coupling(context, value)
    moved = (noise != value).all(0).all(0).tolist()
    assert moved == [outcomes == 1 or i % 2 != first for i in range(outcomes)]
    torch.testing.assert_close(coupling.inverse(context, noise), value)
    for m in (0, 6):  # Row by row, with autograd's Jacobian.
        jacobian = torch.autograd.functional.jacobian(
            lambda row: coupling(context[2:3], row.reshape(1, 1, -1))[0].flatten(), value[2, m]
        )
        expected = math.log(abs(float(torch.linalg.det(jacobian))))
        assert float(logarithm[2, m].detach()) == pytest.approx(expected, abs=1e-8)


def test_torch_func_differentiates_a_coupling() -> None:
    torch.manual_seed(0)
    coupling = Coupling(2, 3, 0, 4, 8, 1, "silu", 0.0)
    context, value = torch.randn(2, 2), torch.randn(2, 3, 3)
    found = torch.func.grad(lambda v: coupling(context, v)[0].square().sum())(value)
    value.requires_grad_()
    (expected,) = torch.autograd.grad(coupling(context, value)[0].square().sum(), value)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("spread", [10.0, 1000.0])
def test_steep_splines_rise_in_single_precision(spread: float) -> None:
    raw = spread * torch.randn(23, 50_000, generator=seeded(1))
    value = (10 * torch.rand(50_000, generator=seeded(2)) - 5).requires_grad_()
    (slope,) = torch.autograd.grad(_splines(raw).inverse(value).sum(), value)
    assert bool(slope.isfinite().all()) and bool((slope >= 0).all())
