"""Costs that end where a bound is: their trial and their first decision are inside."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_dfl.programs import TorchProgram
from diffusion_dfl.solvers import solve

Distance = Callable[[Tensor], Tensor]

COSTS: dict[str, tuple[Distance, Distance]] = {
    "logarithm": (lambda d: -d.log().sum(), lambda slope: 1 / slope),
    "inverse": (lambda d: (1 / d).sum(), lambda slope: slope**-0.5),
    "determinant": (lambda d: -torch.logdet(torch.diag_embed(d)), lambda slope: 1 / slope),
}


@pytest.mark.parametrize(
    ("bound", "below"), [(0.0, True), (0.5, True), (100.0, True), (0.5, False)]
)
@pytest.mark.parametrize("name", COSTS)
def test_the_optimum_inside_is_known(name: str, bound: float, below: bool) -> None:
    barrier, optimum = COSTS[name]
    y = 1 + torch.rand(4, 20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sign = 1.0 if below else -1.0
    limits = {"lower": bound} if below else {"upper": bound}
    program = TorchProgram(
        2, 2, smooth=lambda y, z: sign * y @ z + barrier(sign * (z - bound)), **limits
    )
    before = torch.get_rng_state()
    found = solve(program, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert bool(found.solved.all())
    expected = bound + sign * optimum(y.mean(1))
    torch.testing.assert_close(found.decision, expected, rtol=1e-9, atol=1e-9)


def test_a_determinant_of_correlated_decisions() -> None:
    root = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    program = TorchProgram(
        2,
        2,
        smooth=lambda y, z: y @ z - torch.logdet(root + torch.diag_embed(z)),
        lower=0.0,
        upper=5.0,
    )
    y = 0.3 + 0.1 * torch.rand(3, 20, 2, dtype=torch.float64)
    found = solve(program, y)
    assert bool(found.solved.all())
    inverse = torch.linalg.inv(root + torch.diag_embed(found.decision))
    slope = y.mean(1) - inverse.diagonal(dim1=1, dim2=2)
    inside = (found.decision > 0) & (found.decision < 5)
    assert bool(inside.any())
    assert float(slope[inside].abs().max()) < 1e-8
    assert bool((slope[found.decision == 0] >= -1e-8).all())
