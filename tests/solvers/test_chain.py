"""Separable costs on a chain: cases a hand can compute."""

import pytest
import torch
from torch import Tensor

from diffusion_dfl.solvers.chain import chain_multipliers, clip_back, kinked_chain, smooth_chain


def _tensor(values: list) -> Tensor:  # type: ignore[type-arg]
    return torch.tensor(values, dtype=torch.float64)


def _quadratic_targets(target: list[float], ramp: float) -> Tensor:
    """argmin sum (z_h - target_h)^2 / 2 by both chains, which must agree."""
    goal = _tensor([target])
    # A jump of size 0 right of all targets: the slope beyond the last jump must not be negative.
    points = torch.full((1, 1, goal.shape[1]), 100.0, dtype=torch.float64)
    kinked = kinked_chain(points, torch.zeros_like(points), -goal, _tensor([1.0]), ramp)

    def slope(x: Tensor, instances: Tensor, hours: Tensor) -> tuple[Tensor, Tensor]:
        return x - goal[instances, hours], torch.ones_like(x)

    smooth, _ = smooth_chain(slope, goal, ramp, _tensor([1e-15]))
    assert torch.allclose(kinked, smooth, rtol=0, atol=1e-14)
    return smooth[0]


@pytest.mark.parametrize(
    "target, ramp, schedule",
    [
        ([1.0, 1.5, 1.2], 1.0, [1.0, 1.5, 1.2]),
        ([0.0, 5.0], 1.0, [2.0, 3.0]),
        ([0.0, 3.0, 6.0], 1.0, [2.0, 3.0, 4.0]),
        ([0.0, 6.0, 0.0], 0.0, [2.0, 2.0, 2.0]),
        ([0.0, 9.0, 0.0], 1.0, [8 / 3, 11 / 3, 8 / 3]),
        ([0.0, 0.0, 4.0, 4.0], 2.0, [0.0, 1.0, 3.0, 4.0]),
    ],
)
def test_quadratic_hours_pool_as_a_hand_computes(
    target: list[float], ramp: float, schedule: list[float]
) -> None:
    assert _quadratic_targets(target, ramp).tolist() == pytest.approx(schedule, abs=1e-13)


def test_jumps_hold_a_rigid_pair_at_the_stronger_kink() -> None:
    # Hour 1 has slope z - 10 [z < 0] + 10 [z > 0], held at 0; hour 2 wants 3 with unit force, so
    # the pair with ramp 1 stays at 0, 1: the pull of hour 2, 3 - 1 = 2, is less than 10.
    points = _tensor([[[0.0, 100.0]]])
    jumps = _tensor([[[20.0, 0.0]]])
    schedule = kinked_chain(points, jumps, _tensor([[-10.0, -3.0]]), _tensor([1.0]), 1.0)
    assert schedule.tolist() == [[0.0, 1.0]]


def test_a_pull_stronger_than_the_jump_tears_the_hour_off_its_kink() -> None:
    # As above, but hour 2 wants 30: slope 2 z + 1 - 30 + 10 = 0 at z = 9.5.
    points = _tensor([[[0.0, 100.0]]])
    jumps = _tensor([[[20.0, 0.0]]])
    schedule = kinked_chain(points, jumps, _tensor([[-10.0, -30.0]]), _tensor([1.0]), 1.0)
    assert schedule.flatten().tolist() == pytest.approx([9.5, 10.5], abs=1e-13)


def test_clipping_goes_backwards_from_the_last_hour() -> None:
    assert clip_back(_tensor([[0.0, 5.0, 1.0]]), 1.5).tolist() == [[1.0, 2.5, 1.0]]


def test_multipliers_are_running_sums_where_tight_and_zero_elsewhere() -> None:
    slopes = _tensor([[-1.0, 1.0, -0.5, 0.5]])
    rise = torch.tensor([[False, True, False]])
    fall = torch.tensor([[True, False, True]])
    assert chain_multipliers(slopes, slopes, rise, fall).tolist() == [[-1.0, 0.0, -0.5]]
    apart = torch.zeros(1, 3, dtype=torch.bool)
    assert chain_multipliers(slopes, slopes, apart, apart).tolist() == [[0.0, 0.0, 0.0]]


def test_multipliers_take_the_choice_closest_to_zero() -> None:
    # Both hours may choose: nu in [1, 4] from the left and in [2, 3] from the right.
    low, high = _tensor([[1.0, -3.0]]), _tensor([[4.0, -2.0]])
    tight, slack = torch.tensor([[True]]), torch.tensor([[False]])
    assert chain_multipliers(low, high, tight, slack).tolist() == [[2.0]]
    assert chain_multipliers(-high, -low, slack, tight).tolist() == [[-2.0]]


def test_one_hour_has_no_multipliers() -> None:
    none = torch.zeros(2, 0, dtype=torch.bool)
    slopes = torch.zeros(2, 1, dtype=torch.float64)
    assert chain_multipliers(slopes, slopes, none, none).shape == (2, 0)
