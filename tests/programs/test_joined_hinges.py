"""Hinges with closed forms, joined: the same derivatives from fewer of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_dfl.programs import Hinge, Instances, TorchProgram
from diffusion_dfl.programs.general.hinge_terms import AffineHinge, joined
from diffusion_dfl.solvers import solve

D: dict[str, Any] = {"dtype": torch.float64}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, **D, generator=torch.Generator().manual_seed(seed))


def forms() -> list[AffineHinge]:
    """Two sides of a kink, one more hinge, a square and its other side, which is no other side."""
    outcome, decision, offset = drawn(3, 2), drawn(3, 4, seed=1), drawn(3, seed=2)
    weight = drawn(6, 3, seed=3).abs()
    return [
        AffineHinge(weight[0], 1, offset, outcome, decision),
        AffineHinge(weight[1], 2, offset, outcome, decision),
        AffineHinge(weight[2], 1, -offset, -outcome, -decision),
        AffineHinge(weight[3], 1, offset.flip(0), outcome, decision),
        AffineHinge(weight[4], 2, -offset, -outcome, -decision),
        AffineHinge(weight[5], 1, -offset, -outcome, -decision),
    ]


@pytest.mark.parametrize("width", [0.0, 0.7])
def test_derivatives_are_those_of_the_hinges_one_by_one(width: float) -> None:
    weights = torch.rand(5, 6, **D, generator=torch.Generator().manual_seed(4))
    at = Instances.of(drawn(5, 6, 2, seed=5), weights, torch.full((5, 2), width, **D))
    z = drawn(5, 4, seed=6)
    given, (few, slope) = forms(), joined(forms())
    assert [form.power for form in few] == [1, 2]
    assert [len(form.offset) for form in few] == [6, 6]
    total = weights.sum(1, keepdim=True)
    torch.testing.assert_close(
        sum(form.gradient(at, z) for form in few) + slope * total,
        sum(form.gradient(at, z) for form in given),
    )
    torch.testing.assert_close(
        sum(form.gradients(at, z) for form in few) + slope,
        sum(form.gradients(at, z) for form in given),
    )
    torch.testing.assert_close(
        sum(form.hessian(at, z) for form in few), sum(form.hessian(at, z) for form in given)
    )


def test_nothing_is_joined_to_nothing() -> None:
    assert joined([]) == ((), 0.0)
    alone = forms()[:1]
    few, slope = joined(alone)
    assert few[0] is alone[0]
    assert slope == 0.0


@pytest.mark.parametrize("scale", [0.0, 0.4])
@pytest.mark.parametrize("unit", [1.0, 1e4])
def test_a_program_of_sides_squares_and_columns_is_that_of_plain_functions(
    scale: float, unit: float
) -> None:
    """Against the same program whose hinges have no closed form: of coefficients that follow y."""
    shape = torch.tensor([1.0, unit], **D)
    sides = [
        Hinge(3.0, lambda y, z: y - shape * z),
        Hinge(1.0, lambda y, z: shape * z - y),
        Hinge(0.5, lambda y, z: (y - shape * z).sum().reshape(1), power=2),
    ]
    bent = [
        Hinge(3.0, lambda y, z: y + (y - y**3 / y**2) - shape * z),
        Hinge(1.0, lambda y, z: shape * z - y - (y - y**3 / y**2)),
        Hinge(0.5, lambda y, z: (y - shape * z).sum().reshape(1), power=2),
    ]
    y = drawn(4, 20, 2, seed=7) + 4.0
    width = torch.full((4, 2), scale, **D)
    found = []
    for hinges in (sides, bent):
        program = TorchProgram(
            2, 2, smooth=lambda y, z: 0.05 * (shape * z).square().sum(), hinges=hinges, lower=0.0
        )
        solution = solve(program, y, bandwidth=width)
        assert solution.solved.all()
        found.append(solution)
    torch.testing.assert_close(
        found[0].decision * shape, found[1].decision * shape, rtol=1e-7, atol=1e-7
    )
    torch.testing.assert_close(
        found[0].subgradients / shape, found[1].subgradients / shape, rtol=1e-6, atol=1e-6
    )
