"""Hessians that are the same everywhere: which costs are proved to have one, and which only look so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev
from torch.nn import functional

from diffusion_dfl.programs import Hinge, Instances, TorchProgram
from diffusion_dfl.programs.degrees import proved_hessian
from diffusion_dfl.programs.general.scenario_cost import ScenarioCost
from diffusion_dfl.solvers import solve

Cost = Callable[[Tensor, Tensor], Tensor]
MATRIX = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.2], [0.0, -0.2, 3.0]], dtype=torch.float64)
LEARNED = torch.nn.Parameter(MATRIX.clone())

CONSTANT: dict[str, Cost] = {
    "squares": lambda y, z: 0.05 * (z**2).sum(),
    "distance": lambda y, z: 0.5 * ((z - y) ** 2).sum(),
    "form": lambda y, z: z @ (MATRIX @ z) - y @ z,
    "einsum": lambda y, z: torch.einsum("i,ij,j->", z, MATRIX, z),
    "linear": lambda y, z: y @ z,
    "curved in y": lambda y, z: y.exp() @ z + z.square().mean() + y.relu().sum(),
    "ramps": lambda y, z: z[0] * z[1] + (z[1:] - z[:-1]).pow(2).sum(),
    "loss": lambda y, z: functional.mse_loss(z, y),
    "layer": lambda y, z: functional.linear(z, MATRIX).square().sum() / 3.0,
    "joined": lambda y, z: torch.cat([z, y]).square().sum() + torch.stack([z, y]).sum(),
    "picked": lambda y, z: z[[0, 2]].sum() ** 2 - z.sum() / y.sum(),
    "no z": lambda y, z: y.sum(),
}

#: Quadratic for every outcome, each with a Hessian of its own.
OF_OUTCOME: dict[str, Cost] = {
    "second moment": lambda y, z: (y @ z) ** 2,
    "data": lambda y, z: (y.data * z * z).sum(),
    "weighted squares": lambda y, z: y.exp() @ z.square() - y.sum(),
    "deviation": lambda y, z: ((y * z - z.mean()) ** 2).sum() + 1e-3 * z @ z,
}

OTHER: dict[str, Cost] = {
    "cubic": lambda y, z: (z**3).sum(),
    "exponential": lambda y, z: z.exp().sum(),
    "quartic beyond a threshold": lambda y, z: (
        (z**2).sum() + torch.where(z.sum() > 50, z**4, 0.0 * z).sum()
    ),
    "Huber": lambda y, z: functional.huber_loss(z, y),
    "quartic along a direction": lambda y, z: (z**2).sum() + (MATRIX[0] @ z) ** 4,
    "branch on y": lambda y, z: (z**2).sum() if y.sum() > 0 else (z**4).sum(),
    "branch on z": lambda y, z: (z**2).sum() if z[0].item() < 9 else (z**4).sum(),
    "detached": lambda y, z: (z.detach() * z * z).sum(),
    "learned": lambda y, z: (LEARNED @ z).square().sum(),
    "random": lambda y, z: (torch.rand(3, dtype=torch.float64) * z * z).sum(),
    "written": lambda y, z: torch.zeros(3, dtype=torch.float64).copy_(z).square().sum(),
    "rounded": lambda y, z: torch.div(z, 2.0, rounding_mode="floor").square().sum(),
    "single precision": lambda y, z: (z.float() ** 2).sum(),
    "bits": lambda y, z: (z * z).sum() + z.view(torch.int64).sum().double(),
    "sorted": lambda y, z: z.sort().values @ z,
    "picked by y": lambda y, z: (z[y.argsort()] * z).sum(),
}


def points(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y, z = 10 * torch.randn(2, 3, dtype=torch.float64, generator=generator)
    return y, z


@pytest.mark.parametrize("cost", CONSTANT.values(), ids=CONSTANT)
def test_a_quadratic_cost_is_proved_to_have_one_hessian(cost: Cost) -> None:
    assert proved_hessian(cost, *points(0)) == "constant"
    found = [jacrev(grad(cost, argnums=1), argnums=1)(*points(seed)) for seed in range(3)]
    torch.testing.assert_close(found[1:], [found[0]] * 2)


@pytest.mark.parametrize("cost", OF_OUTCOME.values(), ids=OF_OUTCOME)
def test_a_quadratic_cost_is_proved_to_have_one_hessian_an_outcome(cost: Cost) -> None:
    assert proved_hessian(cost, *points(0)) == "of the outcome"
    (y, _), (other, _) = points(0), points(1)
    second = jacrev(grad(cost, argnums=1), argnums=1)
    found = [second(y, points(seed)[1]) for seed in range(3)]
    torch.testing.assert_close(found[1:], [found[0]] * 2)
    assert not torch.allclose(second(other, points(0)[1]), found[0])


@pytest.mark.parametrize("cost", OTHER.values(), ids=OTHER)
def test_a_cost_that_only_looks_quadratic_is_not(cost: Cost) -> None:
    assert proved_hessian(cost, *points(0)) is None


class Halved(torch.autograd.Function):
    """The identity, with a derivative that is none."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * ctx.saved_tensors[0]


def test_a_backward_of_somebody_s_own_is_no_proof() -> None:
    assert not proved_hessian(lambda y, z: Halved.apply(z).sum(), *points(0))


@pytest.mark.parametrize("cost", CONSTANT.values(), ids=CONSTANT)
def test_the_hessian_of_one_scenario_is_that_of_the_sum(cost: Cost) -> None:
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(4, 7, 3, dtype=torch.float64, generator=generator)
    weights = torch.rand(4, 7, dtype=torch.float64, generator=generator)
    instances = Instances.of(y, weights / weights.sum(1, keepdim=True))
    z = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    # A hinge keeps the sum from being cut short; one of no weight changes nothing.
    none = (Hinge(0.0, lambda y, z: z[:1], power=2), slice(0))
    whole = ScenarioCost(cost, (none,), alike=True).hessian(instances, z)
    torch.testing.assert_close(ScenarioCost(cost).hessian(instances, z), whole)


def test_a_tensor_that_the_cost_holds_may_change_between_two_solves() -> None:
    price = torch.ones(3, dtype=torch.float64)
    program = TorchProgram(3, 3, smooth=lambda y, z: 0.5 * price @ z**2 - y @ z)
    y = torch.ones(1, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(solve(program, y).decision, torch.ones_like(y[:, 0]))
    price *= 4.0
    torch.testing.assert_close(solve(program, y).decision, 0.25 * torch.ones_like(y[:, 0]))
