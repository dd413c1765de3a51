"""Solving without what autograd needs leaves nothing behind that autograd could not take."""

import pytest
import torch

import diffusion_dfl as ddfl
from diffusion_dfl.solvers import solve

torch.set_num_threads(1)


def scenarios() -> torch.Tensor:
    return torch.rand(3, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Prices(torch.nn.Module):
    """A learned part that makes what it needs at its first call, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.price = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        self.kept: torch.Tensor | None = None

    def forward(self, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        if self.kept is None:
            self.kept = torch.eye(2, dtype=torch.float64)
        return (self.price * (z - self.kept @ z / 2)).sum() + 0.1 * (z @ z)


@pytest.mark.parametrize("curvature", ["saa", "convolved"])
def test_gradients_reach_learned_parts_and_what_they_keep(curvature: str) -> None:
    part = Prices()
    program = ddfl.TorchProgram(
        2, 2, smooth=part, hinges=[ddfl.Hinge(9.0, lambda y, z: y - z)], lower=0.0, upper=4.0
    )
    layer = ddfl.DecisionLayer(program, curvature=curvature)
    for _ in range(2):
        y = scenarios().requires_grad_()
        layer(y).square().sum().backward()
        assert part.price.grad is not None and bool(part.price.grad.isfinite().all())
        assert y.grad is not None and bool(y.grad.abs().sum() > 0)


def test_a_solution_is_of_ordinary_tensors() -> None:
    program = ddfl.TorchProgram(
        2, 2, hinges=[ddfl.Hinge(3.0, lambda y, z: y - z)], smooth=lambda y, z: z @ z
    )
    found = solve(program, scenarios())
    parts = [part for part in vars(found).values() if isinstance(part, torch.Tensor)]
    assert parts and not any(part.is_inference() for part in parts)
    found.decision.requires_grad_().sum().backward()
    with torch.inference_mode():
        assert torch.equal(solve(program, scenarios()).decision, found.decision)
