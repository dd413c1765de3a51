"""Convolved programs: from narrow kernels to wide ones, and kernels that smooth nothing."""

import math

import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Hinge, TorchProgram
from diffusion_dfl.solvers import solve

SHORT, OVER, BEND, MOST = 8.0, 1.0, 0.1, 6.0


def orders() -> TorchProgram:
    """Two items whose shortage and surplus cost, at most six together."""
    return TorchProgram(
        2,
        2,
        smooth=lambda y, z: 0.5 * BEND * (z @ z),
        hinges=[
            Hinge(SHORT, lambda y, z: y - z),
            Hinge(OVER, lambda y, z: z - y),
        ],
        matrix=torch.ones(1, 2),
        limit=MOST,
    )


def demands(num_scenarios: int, apart: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    draws = torch.randn(5, num_scenarios, 2, generator=generator, dtype=torch.float64)
    return 5.0 + apart * draws


def bisected(y: Tensor, width: Tensor) -> Tensor:
    """Optima ``(B, 2)`` of :func:`orders` by bisection on the price of the limit and on every item."""

    def item(price: Tensor) -> Tensor:
        low, high = torch.full_like(width, -1e3), torch.full_like(width, 1e3)
        for _ in range(100):
            z = 0.5 * (low + high)
            short = 0.5 * torch.erfc((z.unsqueeze(1) - y) / (math.sqrt(2) * width.unsqueeze(1)))
            slope = BEND * z + OVER + price - (SHORT + OVER) * short.mean(1)
            low, high = torch.where(slope < 0, z, low), torch.where(slope < 0, high, z)
        return 0.5 * (low + high)

    low, high = torch.zeros_like(width[:, :1]), torch.full_like(width[:, :1], SHORT)
    for _ in range(100):
        price = 0.5 * (low + high)
        over = item(price).sum(1, keepdim=True) > MOST
        low, high = torch.where(over, price, low), torch.where(over, high, price)
    return item(0.5 * (low + high))


@pytest.mark.parametrize(
    ("width", "num_scenarios"),
    [(width, 40) for width in (1e-6, 1e-3, 0.02, 0.1, 0.3, 1.0, 30.0, [1e-3, 2.0])]
    + [(width, 1) for width in (1e-6, 0.1, 30.0)],
)
def test_kernels_of_any_width_are_solved(width: float | list[float], num_scenarios: int) -> None:
    y = demands(num_scenarios)
    widths = torch.tensor(width, dtype=torch.float64).expand(5, 2).clone()
    found = solve(orders(), y, bandwidth=widths)
    assert found.solved.all()
    assert found.residuals[:, :2].max() < 1e-7
    assert (found.decision - bisected(y, widths)).abs().max() < 1e-7


def test_instances_of_one_batch_may_have_wide_kernels_narrow_ones_and_none() -> None:
    y = demands(40)
    widths = torch.tensor([1.0, 1e-4, 0.0, 0.05, 5.0], dtype=torch.float64)[:, None].repeat(1, 2)
    together = solve(orders(), y, bandwidth=widths)
    assert together.solved.all()
    for row in range(5):
        alone = solve(orders(), y[row : row + 1], bandwidth=widths[row : row + 1])
        assert (together.decision[row] - alone.decision[0]).abs().max() < 1e-9


def test_an_outcome_that_no_hinge_depends_on_is_not_smoothed() -> None:
    """A cost of trading, whose kinks are where they are: as exact as without a kernel."""
    now = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    trade = TorchProgram(
        3,
        3,
        smooth=lambda y, z: 2.5 * (y @ z) ** 2 - y @ z + 1e-3 * (z @ z),
        hinges=[Hinge(2e-3, lambda y, z: z - now), Hinge(2e-3, lambda y, z: now - z)],
        lower=0.0,
        equality_matrix=torch.ones(1, 3),
        equality_value=1.0,
    )
    y = 0.05 * (demands(20)[..., [0, 1, 0]] - 5.0) + 0.01
    exact, smoothed = (DecisionLayer(trade, bandwidth_scale=scale) for scale in (0.0, 2.0))
    grads = []
    for layer in (exact, smoothed):
        scenarios = y.clone().requires_grad_()
        z = layer(scenarios)
        z[:, 0].sum().backward()
        grads.append((z.detach(), scenarios.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


def test_one_item_is_smoothed_beside_one_that_is_not() -> None:
    one = TorchProgram(
        2,
        2,
        smooth=lambda y, z: (z - y).square().sum(),
        hinges=[Hinge(SHORT, lambda y, z: y[0] - z[0])],
    )
    y = demands(30)
    given = solve(one, y, bandwidth=torch.tensor([0.7, 0.9], dtype=torch.float64).expand(5, 2))
    none = solve(one, y, bandwidth=torch.tensor([0.7, 0.0], dtype=torch.float64).expand(5, 2))
    assert torch.equal(given.decision, none.decision)
    assert given.solved.all()
