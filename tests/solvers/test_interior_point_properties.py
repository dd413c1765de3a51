"""The interior point on random degenerate programs: none is left unsolved or solved wrongly."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_dfl.programs import PowerProgram, bandwidth
from diffusion_dfl.solvers import solve
from tests.solvers.interior_point_cases import (
    D,
    Quadratic,
    assert_kkt,
    daily,
    interior,
    seeded,
)


def _check_adversarial(seed: int, num_scenarios: int, ramp: float, scale: float, kind: str) -> None:
    scenarios = scale * daily(3, num_scenarios, 7, seed=seed % 1000)
    weights = torch.rand(3, num_scenarios, generator=seeded(seed), **D)
    if kind == "ties":
        scenarios = (scenarios / scale * 2).round() / 2 * scale
    if kind == "identical":
        scenarios = scenarios[:, :1].expand(-1, num_scenarios, -1).contiguous()
    if kind == "far":
        scenarios = scenarios + 1e3 * scale
    if kind == "weights":
        weights = torch.where(weights < 0.4, 0.0, weights)
        weights[:, 0] += 0.1
    weights = weights / weights.sum(1, keepdim=True)
    width = bandwidth(scenarios, weights) if kind == "convolved" else None
    program = PowerProgram(ramp=ramp * scale, num_decisions=7)
    ours = interior(program, scenarios, weights, width)
    assert ours.solved.all(), ours.report()
    theirs = solve(program, scenarios, weights, width)
    size = scenarios.abs().amax()
    assert ((ours.decision - theirs.decision).abs() <= 1e-8 * size).all()
    assert_kkt(program, scenarios, ours, weights)


_ADVERSARIAL = {
    "seed": st.integers(0, 2**31),
    "num_scenarios": st.integers(1, 9),
    "ramp": st.sampled_from([math.inf, 0.4, 0.05, 0.0]),
    "scale": st.sampled_from([1e-4, 1e-2, 1.0, 1e2, 1e4]),
    "kind": st.sampled_from(["plain", "ties", "identical", "far", "weights", "convolved"]),
}


@given(**_ADVERSARIAL)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_adversarial_power_programs_are_solved(**case: Any) -> None:
    _check_adversarial(**case)


@pytest.mark.slow
@given(**_ADVERSARIAL)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_hundreds_of_adversarial_power_programs_are_solved(**case: Any) -> None:
    _check_adversarial(**case)


def _check_quadratic(seed: int, size: int, rank: int, rows: int, scale: float) -> None:
    generator = seeded(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, **D)

    root = draw(min(rank, size), size)
    parts: dict[str, Any] = {
        "lower": torch.full((size,), -scale, **D),
        "upper": torch.full((size,), scale, **D),
    }
    if rows:
        # All limits pass through one decision of the box: many bind at once.
        inside = 0.5 * scale * torch.randint(-2, 3, (size,), generator=generator).to(torch.float64)
        parts["matrix"] = draw(rows, size)
        parts["limit"] = parts["matrix"] @ inside
    program = Quadratic(root.T @ root, parts)
    scenarios = scale * draw(3, 2, size)
    solution = interior(program, scenarios)
    assert solution.solved.all(), solution.report()
    assert_kkt(program, scenarios, solution)


_QUADRATIC = {
    "seed": st.integers(0, 2**31),
    "size": st.integers(1, 6),
    "rank": st.integers(0, 6),
    "rows": st.integers(0, 8),
    "scale": st.sampled_from([1e-4, 1.0, 1e4]),
}


@given(**_QUADRATIC)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_degenerate_quadratic_programs_satisfy_their_kkt_conditions(**case: Any) -> None:
    _check_quadratic(**case)


@pytest.mark.slow
@given(**_QUADRATIC)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_hundreds_of_degenerate_quadratic_programs_are_solved(**case: Any) -> None:
    _check_quadratic(**case)
