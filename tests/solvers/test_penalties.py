"""Hinges that cost much where no decision goes: soft limits with a large price, by closed forms.

What is allowed to a solved instance follows what is summed up at its decision; it followed the price,
and decisions were called solved that were far off.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Hinge, TorchProgram
from diffusion_dfl.solvers import solve

D: dict[str, Any] = {"dtype": torch.float64}
PRICES = [1e2, 1e5, 1e8, 1e11]


def outcomes(size: int = 1) -> Tensor:
    return torch.randn(3, 40, size, **D, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("first", [0, 1], ids=["price first", "price last"])
@pytest.mark.parametrize("width", [0.0, 0.3])
@pytest.mark.parametrize("price", PRICES)
def test_a_decision_beyond_all_kinks_does_not_know_their_price(
    price: float, width: float, first: int
) -> None:
    # 1e-3 (z - 100) + 1e-3 = 0 beyond the outcomes.
    hinges = [Hinge(price, lambda y, z: y - z), Hinge(1e-3, lambda y, z: z - y)]
    program = TorchProgram(
        1,
        1,
        smooth=lambda y, z: 0.5e-3 * ((z - 100.0) ** 2).sum(),
        hinges=hinges[::-1] if first else hinges,
    )
    found = solve(program, outcomes(), bandwidth=torch.full((3, 1), width, **D))
    assert found.solved.all()
    assert (found.decision - 99.0).abs().max() < 1e-9
    assert found.residuals[:, 0].max() < 1e-12


@pytest.mark.parametrize("width", [0.0, 0.3])
@pytest.mark.parametrize("price", PRICES)
def test_a_soft_limit_of_a_large_price_is_the_limit(price: float, width: float) -> None:
    parts: dict[str, Any] = {"smooth": lambda y, z: ((z - y - 5) ** 2).sum(), "lower": 0.0}
    soft = TorchProgram(
        2, 2, hinges=[Hinge(price, lambda y, z: (z.sum() - 4.0).reshape(1))], **parts
    )
    hard = TorchProgram(2, 2, matrix=torch.ones(1, 2), limit=4.0, **parts)
    decided = []
    for program in (soft, hard):
        y = outcomes(2).requires_grad_()
        z = DecisionLayer(program, bandwidth_scale=width)(y)
        z[:, 0].sum().backward()
        decided.append((z.detach(), y.grad))
    for mine, theirs in zip(*decided, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("width", [0.0, 0.3])
@pytest.mark.parametrize("price", PRICES)
def test_a_price_of_one_item_leaves_the_other_items_digits(price: float, width: float) -> None:
    program = TorchProgram(
        2,
        2,
        smooth=lambda y, z: 0.5 * (z - y).square().sum(),
        hinges=[Hinge(price, lambda y, z: -20.0 - z[0]), Hinge(0.5, lambda y, z: z[1:] + 30.0)],
    )
    y = outcomes(2)
    found = solve(program, y, bandwidth=torch.full((3, 2), width, **D))
    assert found.solved.all()
    optimum = y.mean(1) - torch.tensor([0.0, 0.5], **D)
    assert (found.decision - optimum).abs().max() < 1e-9
