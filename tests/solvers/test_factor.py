"""Linear systems of Newton steps against torch's own, and scales of quadratic costs against gradients."""

from typing import Any

import pytest
import torch

from diffusion_dfl.programs import Hinge, Instances, TorchProgram
from diffusion_dfl.solvers.factor import Factor

D: Any = {"dtype": torch.float64}


@pytest.mark.parametrize("equalities", [0, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_a_diagonal_system_is_solved_as_the_dense_one(equalities: int, shared: bool) -> None:
    torch.manual_seed(0)
    diagonal = torch.rand(3, 5, **D) + 0.1
    matrix = torch.randn(1 if shared else 3, equalities, 5, **D)
    right, value = torch.randn(3, 5, **D), torch.randn(3, equalities, **D)
    scale = diagonal.amax(1)
    every = matrix.expand(3, -1, -1)
    zero = torch.zeros(3, equalities, equalities, **D)
    whole = torch.cat(
        [
            torch.cat([torch.diag_embed(diagonal), every.mT], 2),
            torch.cat([every, zero], 2),
        ],
        1,
    )
    expected = torch.linalg.solve(whole, torch.cat([right, value], 1))
    for system in (diagonal, torch.diag_embed(diagonal)):
        step, dual = Factor(system, matrix, scale).solve(right, value)
        torch.testing.assert_close(step, expected[:, :5], rtol=1e-9, atol=1e-10)
        if equalities:
            torch.testing.assert_close(dual, expected[:, 5:], rtol=1e-9, atol=1e-10)


def test_a_diagonal_entry_of_nearly_nothing_is_left_to_the_penalty() -> None:
    diagonal = torch.tensor([[1.0, 1e-14]], **D)
    matrix = torch.tensor([[[1.0, 1.0]]], **D)
    right, value = torch.tensor([[1.0, 0.0]], **D), torch.tensor([[2.0]], **D)
    step, dual = Factor(diagonal, matrix, torch.ones(1, **D)).solve(right, value)
    torch.testing.assert_close(step, torch.tensor([[1.0, 1.0]], **D), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(dual, torch.zeros(1, 1, **D), rtol=0, atol=1e-6)


# A program without kinks is solved without a kernel.
@pytest.mark.parametrize(("bandwidth", "power"), [(0.0, 1), (0.7, 1), (0.0, 2)])
def test_closed_slopes_are_the_mean_absolute_gradients_of_the_scenarios(
    bandwidth: float, power: int
) -> None:
    torch.manual_seed(1)
    program = TorchProgram(
        2,
        2,
        smooth=lambda y, z: 0.5 * ((z - y) ** 2).sum() + z[0] * z[1],
        hinges=Hinge(3.0, lambda y, z: y - z, power),
    )
    weights = torch.rand(4, 6, **D)
    weights = weights / weights.sum(1, keepdim=True)
    width = torch.full((4, 2), bandwidth, **D)
    instances = Instances.of(torch.randn(4, 6, 2, **D), weights, width)
    z = torch.randn(4, 2, **D)
    quadratic = program.quadratic(instances)
    assert quadratic is not None
    found = quadratic.slopes(instances, z)
    expected = torch.einsum("bm,bmn->bn", weights, program.gradients(instances, z).abs())
    assert found is not None
    torch.testing.assert_close(found, expected)
