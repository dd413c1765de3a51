"""The general program: derivatives of a user's own torch functions."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffusion_dfl.programs import Hinge, Instances, TorchProgram
from diffusion_dfl.programs.general import scenario_cost
from tests.programs.general_cases import PAIRS, SIZE, D


def curved_program() -> TorchProgram:
    """Nothing has a closed form: slopes that depend on y, widths on z, an outcome of its own size."""
    return TorchProgram(
        3,
        2,
        smooth=lambda y, z: torch.exp(0.3 * y[0] * z[0]) + (z**2).sum() * (1 + y[1] ** 2),
        hinges=[
            Hinge(2.0, lambda y, z: y[0] * z[0] + y[1] * z[1] - z[2]),
            Hinge((0.5, 3.0), lambda y, z: torch.stack([y[1] - z[0], torch.sin(y[0]) * z[1]])),
            Hinge(0.7, lambda y, z: y[0] ** 2 - z[2], power=2),
        ],
    )


def instance(
    num_outcomes: int, num_decisions: int, width: float = 0.4, seed: int = 0
) -> tuple[Instances, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scenarios = 1 + torch.randn(3, 6, num_outcomes, generator=generator, **D)
    weights = torch.rand(3, 6, generator=generator, **D)
    z = torch.rand(3, num_decisions, generator=generator, **D)
    adjoint = torch.randn(3, num_decisions, generator=generator, **D)
    spread = width * (0.5 + torch.rand(3, num_outcomes, generator=generator, **D))
    return Instances(scenarios, weights / weights.sum(1, keepdim=True), spread), z, adjoint


def full(hessian: Tensor) -> Tensor:
    return torch.diag_embed(hessian) if hessian.dim() == 2 else hessian


def close(mine: Tensor, other: Tensor, tolerance: float = 1e-10) -> bool:
    return torch.allclose(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("width", [0.0, 0.4])
def test_derivatives_are_the_hand_written_ones(name: str, width: float) -> None:
    program, mine = PAIRS[name]
    at, z, u = instance(SIZE, SIZE, width)
    assert close(
        mine.cost(at.scenarios, z.unsqueeze(1)), program.cost(at.scenarios, z.unsqueeze(1))
    )
    assert close(mine.gradients(at, z), program.gradients(at, z))
    assert close(mine.gradient(at, z), program.gradient(at, z))
    assert close(mine.hessian(at, z), full(program.hessian(at, z)))
    assert close(mine.cross_product(at, z, u), program.cross_product(at, z, u))
    product = mine.bandwidth_product(at, z, u)
    assert close(product, program.bandwidth_product(at, z, u))
    difference = mine.objective(at, z) - program.objective(at, z)
    again = mine.objective(at, z + 0.3) - program.objective(at, z + 0.3)
    assert close(difference, again)
    assert mine.kinked == program.kinked


def central(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    step = 1e-6
    return (function(at + step * direction) - function(at - step * direction)) / (2 * step)


@pytest.mark.parametrize("width", [0.0, 0.3])
def test_derivatives_of_curved_functions_match_central_differences(width: float) -> None:
    program = curved_program()
    at, z, u = instance(2, 3, width)
    v = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), **D)
    along = central(lambda z: program.objective(at, z), z, v)
    assert close(along, (program.gradient(at, z) * v).sum(1), 1e-7)
    summed = torch.einsum("bm,bmn->bn", at.weights, program.gradients(at, z))
    assert close(summed, program.gradient(at, z), 1e-13)
    bend = central(lambda z: program.gradient(at, z), z, v)
    assert close(bend, torch.einsum("bij,bj->bi", program.hessian(at, z), v), 1e-7)
    dy = torch.randn(at.scenarios.shape, generator=torch.Generator().manual_seed(2), **D)

    def along_u(y: Tensor) -> Tensor:
        return (program.gradients(replace(at, scenarios=y), z) * u.unsqueeze(1)).sum(2)

    moved = central(along_u, at.scenarios, dy)
    assert close(moved, (program.cross_product(at, z, u) * dy).sum(2), 1e-7)
    s = at.bandwidth
    ds = s * torch.rand(s.shape, generator=torch.Generator().manual_seed(3), **D)
    wider = central(lambda s: (program.gradient(replace(at, bandwidth=s), z) * u).sum(1), s, ds)
    assert close(wider, (program.bandwidth_product(at, z, u) * ds).sum(1), 1e-7)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_convolution_is_the_mean_over_the_kernel_for_an_argument_affine_in_y(power: int) -> None:
    program = TorchProgram(
        2,
        2,
        smooth=lambda y, z: (y * z).sum() ** 2,
        hinges=[
            Hinge(2.0, lambda y, z: y @ z - 0.3),
            Hinge(1.5, lambda y, z: y[0] - 2 * y[1] + z[0], power=power),
        ],
    )
    every, z, _ = instance(2, 2)
    at, z = every.select(torch.tensor([0])), z[:1]
    y, s = at.scenarios, at.bandwidth
    xi = torch.linspace(-7.0, 7.0, 401, **D)
    mass = torch.exp(-0.5 * xi**2)
    noise = torch.cartesian_prod(xi, xi)
    share = torch.outer(mass, mass).flatten() / mass.sum() ** 2
    smooth = TorchProgram(2, 2, smooth=program.smooth)
    hinges = TorchProgram(2, 2, hinges=program.terms)
    mean = hinges.cost(y.unsqueeze(2) + s[:, None, None] * noise, z[:, None, None]) @ share
    expected = (at.weights * (mean + smooth.cost(y, z.unsqueeze(1)))).sum(1)
    # A sum over a grid takes a kink up to the grid's width squared.
    assert torch.allclose(program.objective(at, z), expected, rtol=2e-4)


def test_declared_kinks_give_the_exact_cost_back() -> None:
    program = curved_program()
    at, z, _ = instance(2, 3, 0.0)
    hinges = program.hinges(at)
    assert hinges is not None and hinges.coefficient.shape == (3, 6, 3)
    kinked = (hinges.coefficient * hinges.arguments(z).clamp_min(0)).sum(2)
    smooth = TorchProgram(3, 2, smooth=program.smooth, hinges=[program.terms[2]])
    assert close(
        kinked + smooth.cost(at.scenarios, z.unsqueeze(1)),
        program.cost(at.scenarios, z.unsqueeze(1)),
    )
    one_sided = program.masked_gradients(at, z)
    assert close(one_sided, program.gradients(at, z))


def test_a_bandwidth_takes_only_the_hinges_it_reaches() -> None:
    program = TorchProgram(
        2, 2, hinges=[Hinge(1.0, lambda y, z: y - z), Hinge(2.0, lambda y, z: y[1] * z[0] - z[1])]
    )
    at, _, _ = instance(2, 2)
    at.bandwidth[0] = 0.0
    at.bandwidth[1, 1] = 0.0
    hinges = program.hinges(at)
    assert hinges is not None
    assert hinges.coefficient[0, 0].tolist() == [1.0, 1.0, 2.0]
    assert hinges.coefficient[1, 0].tolist() == [0.0, 1.0, 2.0]
    assert hinges.coefficient[2, 0].tolist() == [0.0, 0.0, 0.0]


def test_cross_product_takes_the_slope_shares_of_kinks() -> None:
    program = TorchProgram(
        2, 2, hinges=[Hinge(3.0, lambda y, z: y @ z), Hinge(1.0, lambda y, z: y - z)]
    )
    at, z, u = instance(2, 2, 0.0)
    shares = torch.rand(3, 6, 3, generator=torch.Generator().manual_seed(5), **D)
    expected = 3.0 * shares[:, :, :1] * u.unsqueeze(1)
    assert close(program.cross_product(at, z, u, shares), expected)


def test_hinge_product_is_the_derivative_of_the_arguments_in_the_outcome() -> None:
    program = curved_program()
    at, z, _ = instance(2, 3, 0.0)
    y = at.scenarios
    multipliers = torch.rand(3, 6, 3, generator=torch.Generator().manual_seed(6), **D)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), **D)

    def total(y: Tensor) -> Tensor:
        hinges = program.hinges(replace(at, scenarios=y))
        assert hinges is not None
        return (multipliers * hinges.arguments(z)).sum(2)

    product = program.hinge_product(at, z, multipliers)
    assert close(central(total, y, direction), (product * direction).sum(2), 1e-7)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    program = curved_program()
    at, z, u = instance(2, 3)

    def everything() -> list[Tensor]:
        return [
            program.cost(at.scenarios, z.unsqueeze(1)),
            program.objective(at, z),
            program.gradient(at, z),
            program.gradients(at, z),
            program.hessian(at, z),
            program.cross_product(at, z, u),
            program.bandwidth_product(at, z, u),
        ]

    whole = everything()
    monkeypatch.setattr(scenario_cost, "_CHUNK", 20)
    assert all(close(a, b, 1e-13) for a, b in zip(whole, everything(), strict=True))


def test_an_empty_batch_has_empty_derivatives() -> None:
    program = curved_program()
    every, z, u = instance(2, 3)
    at, z, u = every.select(torch.arange(0)), z[:0], u[:0]
    assert program.cost(at.scenarios, z.unsqueeze(1)).shape == (0, 6)
    assert program.gradients(at, z).shape == (0, 6, 3)
    assert program.hessian(at, z).shape == (0, 3, 3)
    assert program.cross_product(at, z, u).shape == (0, 6, 2)
    hinges = program.hinges(at)
    assert hinges is not None and hinges.jacobian.shape == (0, 6, 3, 3)


def test_an_argument_affine_near_the_trial_points_only_is_not_taken_for_affine() -> None:
    program = TorchProgram(1, 1, hinges=[Hinge(1.0, lambda y, z: y.clamp(max=5e4) - z)])
    y = torch.tensor([[[1e5], [2e4]]], **D)
    z, at = torch.zeros(1, 1, **D), Instances.of(y, None, torch.full((1, 1), 10.0, **D))
    program.validate(at)
    hinges = program.hinges(at)
    assert hinges is not None
    assert hinges.offset.flatten().tolist() == [5e4, 2e4]
    assert hinges.coefficient.flatten().tolist() == [1.0, 0.0]
    assert close(program.cost(at.scenarios, z.unsqueeze(1)), torch.tensor([[5e4, 2e4]], **D))
