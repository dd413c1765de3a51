"""Two hinges of opposite arguments, as every newsvendor has them, are solved as one."""

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Hinge, Instances, TorchProgram
from diffusion_dfl.solvers import solve
from diffusion_dfl.solvers.scaling import scaled_problem

SIZE, SCENARIOS = 3, 9
USES = np.array([[1.0, 0.5, 2.0]])


def program(one: bool, short: float = 8.0, over: float = 1.0) -> TorchProgram:
    """A newsvendor of three items and one resource, its cost with two hinges or with one and a slope."""
    hinges = [Hinge(short, lambda y, z: y - z), Hinge(over, lambda y, z: z - y)]
    smooth = lambda y, z: 0.05 * over * (z**2).sum()  # noqa: E731
    if one:
        hinges = [Hinge(short + over, lambda y, z: y - z)]
        smooth = lambda y, z: 0.05 * over * (z**2).sum() + over * (z - y).sum()  # noqa: E731
    return TorchProgram(
        SIZE, SIZE, smooth=smooth, hinges=hinges, lower=0.0, matrix=USES, limit=12.0
    )


def outcomes(batch: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(batch, SCENARIOS, SIZE, dtype=torch.float64, generator=generator)
    return (5 + 2 * drawn).abs()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_two_sides_are_one_hinge_and_a_slope(scale: float) -> None:
    y = outcomes()
    two, one = program(False, 8 * scale, scale), program(True, 8 * scale, scale)
    found, other = solve(two, y), solve(one, y)
    assert bool(found.solved.all() & other.solved.all())
    torch.testing.assert_close(found.decision, other.decision, rtol=1e-9, atol=1e-9)
    assert found.shares is not None and other.shares is not None
    short, over = found.shares.split(SIZE, 2)
    torch.testing.assert_close(short + over, torch.ones_like(short))
    held, beside = found.at_kink.split(SIZE, 2)
    assert bool(held.any()) and torch.equal(held, beside)
    # The split says the same of the cost's slope as one hinge with both coefficients.
    torch.testing.assert_close(found.subgradients, other.subgradients, rtol=1e-7, atol=1e-7 * scale)


def test_their_gradients_are_those_of_one_hinge_and_of_differences() -> None:
    y = outcomes()
    direction = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(4))
    found = []
    for one in (False, True):
        layer = DecisionLayer(program(one), curvature="saa")
        at = y.clone().requires_grad_()
        z = layer(at)
        z.square().sum().backward()
        step = 1e-6
        with torch.no_grad():
            up, down = (layer(y + s * direction).square().sum() for s in (step, -step))
        assert at.grad is not None
        numeric = float(up - down) / (2 * step)
        assert float((at.grad * direction).sum()) == pytest.approx(numeric, rel=1e-5)
        found.append(at.grad)
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


def test_only_what_is_the_other_side_everywhere_is_joined() -> None:
    y = outcomes()
    cases = {
        "two sides": ([Hinge(4.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y)], SIZE),
        "another kink": ([Hinge(4.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y - 1)], 6),
        "the same side": (
            [Hinge(4.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: 2 * (y - z))],
            6,
        ),
        "scaled": ([Hinge(4.0, lambda y, z: 2 * (y - z)), Hinge(1.0, lambda y, z: z - y)], SIZE),
        "three": (
            [Hinge(c, f) for c, f in ((4.0, lambda y, z: y - z), (1.0, lambda y, z: z - y))]
            + [Hinge(2.0, lambda y, z: z - y)],
            6,
        ),
        "squares": (
            [Hinge(4.0, lambda y, z: y - z, power=2), Hinge(1.0, lambda y, z: z - y)],
            SIZE,
        ),
    }
    for name, (hinges, count) in cases.items():
        made = TorchProgram(SIZE, SIZE, hinges=hinges, lower=0.0, upper=20.0)
        problem = scaled_problem(made, Instances.of(y))
        scaled = problem.hinges
        assert scaled is not None and scaled.weight.shape[2] == count, name
        assert (scaled.sides is not None) == (name in ("two sides", "scaled", "three")), name


def test_scenarios_without_weight_and_one_kink_for_all_scenarios() -> None:
    now = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    traded = TorchProgram(
        SIZE,
        SIZE,
        smooth=lambda y, z: 2.5 * (y @ z) ** 2 - y @ z,
        hinges=[Hinge(0.02, lambda y, z: z - now), Hinge(0.01, lambda y, z: now - z)],
        lower=0.0,
        equality_matrix=np.ones((1, SIZE)),
        equality_value=1.0,
    )
    single = TorchProgram(
        SIZE,
        SIZE,
        smooth=lambda y, z: 2.5 * (y @ z) ** 2 - y @ z + 0.01 * (now - z).sum(),
        hinges=[Hinge(0.03, lambda y, z: z - now)],
        lower=0.0,
        equality_matrix=np.ones((1, SIZE)),
        equality_value=1.0,
    )
    y = 0.05 * (outcomes() - 5)
    weights = torch.ones(y.shape[:2], dtype=y.dtype)
    weights[:, ::3] = 0.0
    weights = weights / weights.sum(1, keepdim=True)
    for of in (weights, None):
        found, other = solve(traded, y, of), solve(single, y, of)
        assert bool(found.solved.all())
        torch.testing.assert_close(found.decision, other.decision, rtol=1e-8, atol=1e-9)
    kept = weights[0] > 0
    torch.testing.assert_close(
        solve(program(False), outcomes(), weights).decision,
        solve(program(False), outcomes()[:, kept]).decision,
        rtol=1e-8,
        atol=1e-8,
    )


def test_two_sides_of_which_one_costs_nothing_are_one_before_and_after_smoothing() -> None:
    y = torch.rand(4, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    y[:, :, 1] = 1.0  # Without spread its kink stays a kink.
    some = torch.tensor([0.0, 1.0], dtype=torch.float64)
    made = TorchProgram(
        2,
        2,
        smooth=lambda y, z: 0.1 * (z - y).square().sum(),
        lower=0.0,
        hinges=[Hinge(some, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y)],
    )
    alone = TorchProgram(
        2,
        2,
        smooth=lambda y, z: 0.1 * (z - y).square().sum(),
        lower=0.0,
        hinges=[Hinge(1.0, lambda y, z: (y - z)[1:]), Hinge(1.0, lambda y, z: z - y)],
    )
    torch.testing.assert_close(DecisionLayer(made)(y), DecisionLayer(alone)(y))
