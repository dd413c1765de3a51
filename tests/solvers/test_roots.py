"""Roots of increasing functions: smooth, flat, steep and discontinuous ones together."""

import pytest
import torch
from torch import Tensor

from diffusion_dfl.solvers.roots import increasing_roots


def _tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_roots_of_different_functions_are_found_in_one_call() -> None:
    target = _tensor(8.0, 1.0, 27.0, 0.0)

    def cube(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return x**3 - target[index], 3 * x**2

    zero = torch.zeros(4, dtype=torch.float64)
    roots, steps = increasing_roots(cube, zero - 10, zero + 10, zero + 3, zero)
    assert torch.allclose(roots[:3], _tensor(2.0, 1.0, 3.0), rtol=1e-14, atol=0)
    assert abs(float(roots[3])) <= 1e-15
    assert int(steps[2]) == 1, "the start was the root"


def test_a_jump_through_zero_is_located_to_the_last_bits() -> None:
    place = _tensor(1e-6, 0.3, -123.0, 7e5)

    def step(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(x < place[index], -5.0, 40.0) + 0.1 * (x - place[index]), 0.1 + 0 * x

    start = place + _tensor(1.0, 1.0, 5.0, -3.0)
    roots, _ = increasing_roots(step, place - 50, place + 50, start, 1e-14 * place.abs())
    assert bool(((roots - place).abs() <= 1e-15 * place.abs()).all())


def test_a_root_at_the_end_of_the_bracket_and_a_start_outside_it() -> None:
    def line(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return x - _tensor(1.0, 5.0)[index], torch.ones_like(x)

    roots, _ = increasing_roots(
        line, _tensor(1.0, 0.0), _tensor(2.0, 5.0), _tensor(9.0, -9.0), _tensor(0.0, 0.0)
    )
    assert roots.tolist() == pytest.approx([1.0, 5.0], rel=1e-15)


def test_newton_that_would_cycle_is_bisected() -> None:
    def arctangent(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return torch.atan(x - 1), 1 / (1 + (x - 1) ** 2)

    roots, steps = increasing_roots(
        arctangent, _tensor(-1e6), _tensor(1e6), _tensor(5e5), _tensor(1e-15)
    )
    assert abs(float(roots) - 1) <= 2e-15
    assert int(steps) < 100


def test_values_within_the_noise_count_as_roots() -> None:
    def line(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.ones_like(x)

    roots, steps = increasing_roots(line, _tensor(-1.0), _tensor(1.0), _tensor(1e-6), _tensor(1e-5))
    assert float(roots) == 1e-6 and int(steps) == 1
