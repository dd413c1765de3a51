"""Verdicts need proof at the program's own scale: noise in a limit decides nothing."""

import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Hinge, TorchProgram
from diffusion_dfl.solvers import Status, solve

D = {"dtype": torch.float64}
NOISE = (0.0, 1e-17, 0.1 + 0.2 - 0.3, 1e-12, 1e-10, 1e-9, 1e-8, 1e-6)
Y = torch.tensor([[[5.0, 1.0]]], **D)


def distance(y: Tensor, z: Tensor) -> Tensor:
    return 0.5 * ((z - y) ** 2).sum()


def solved(program: TorchProgram, expected: list[float], tolerance: float = 1e-8) -> None:
    solution = solve(program, Y)
    assert bool(solution.solved.all()), solution.report()
    target = torch.tensor([expected], **D)
    assert torch.allclose(solution.decision, target, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e5])
def test_noise_in_a_row_beside_rows_of_the_programs_size(
    noise: float, side: float, unit: float
) -> None:
    """The nearest to (5, 1) with 4 <= z1 + z2 <= 10 and z1 - z2 <= 0: (3, 3)."""
    limit = torch.tensor([10.0, -4.0, side * noise], **D) * unit
    program = TorchProgram(
        2,
        2,
        smooth=distance,
        lower=0.0,
        matrix=torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]], **D),
        limit=limit,
    )
    solution = solve(program, unit * Y)
    assert bool(solution.solved.all()), solution.report()
    expected = unit * torch.tensor([[3 + side * noise / 2, 3 - side * noise / 2]], **D)
    assert torch.allclose(solution.decision, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "noise",
    [*NOISE[::3], *(pytest.param(n, marks=pytest.mark.slow) for n in NOISE if n not in NOISE[::3])],
)
def test_noise_in_a_bound(noise: float) -> None:
    lower = torch.tensor([noise, 0.0], **D)
    solved(TorchProgram(2, 2, smooth=distance, lower=lower), [5.0, 1.0])
    row = {"matrix": [[-1.0, -1.0]], "limit": [-4.0]}
    solved(TorchProgram(2, 2, smooth=distance, lower=lower, **row), [5.0, 1.0])
    equality = {"equality_matrix": [[1.0, 1.0]], "equality_value": [4.0]}
    solved(TorchProgram(2, 2, smooth=distance, lower=lower, **equality), [4.0, 0.0], 1e-6)
    flat = TorchProgram(
        2, 2, smooth=lambda y, z: torch.exp(0.1 * (y - z)).sum() + 0.01 * z.sum(), lower=lower
    )
    solved(flat, [28.02585092994046, 24.02585092994046])


@pytest.mark.parametrize(
    ("lower", "need"), [(1e-3, 1e4), (1e-3, 1e6), (1e-1, 1e7), (0.5, 1e8), (1e-6, 1e9)]
)
def test_limits_of_very_different_sizes(lower: float, need: float) -> None:
    program = TorchProgram(
        2, 2, smooth=distance, lower=[lower, 0.0], matrix=[[-1.0, -1.0]], limit=[-need]
    )
    solved(program, [need / 2 + 2, need / 2 - 2])


@pytest.mark.parametrize("curvature", ["convolved", "saa"])
@pytest.mark.parametrize("need", [False, True])
def test_a_shift_closed_up_to_rounding_by_its_context(curvature: str, need: bool) -> None:
    rows = [[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]] + ([[-1.0, -1.0, 0.0]] if need else [])
    program = TorchProgram(
        3,
        3,
        smooth=lambda calls, staff: 0.05 * (staff**2).sum(),
        hinges=[Hinge(8.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y)],
        lower=0.0,
        matrix=torch.tensor(rows, **D),
        limit=lambda x: torch.cat([x[:2], -x[2:]]) if need else x[:2],
    )
    calls = 5 + 2 * torch.rand(6, 50, 3, **D, generator=torch.Generator().manual_seed(0))
    closed = torch.tensor([4.0, 0.0, 2.8e-17, 1e-12, 1e-9, 1e-7], **D)
    context = torch.stack([torch.full_like(closed, 32.0), closed, torch.full_like(closed, 10.0)], 1)
    layer = DecisionLayer(program, bandwidth_scale=1.5, curvature=curvature)
    decision = layer(calls, context=context)
    assert layer.statistics.failures == 0
    # What is closed up to rounding is decided as what is closed.
    shut = context.clone()
    shut[2:, 1] = 0.0
    assert torch.allclose(layer(calls, context=shut), decision, rtol=0, atol=1e-6)


def test_what_is_infeasible_is_said_with_the_residual_of_its_proof() -> None:
    apart = TorchProgram(
        2, 2, smooth=distance, matrix=[[1.0, 1.0], [-1.0, -1.0]], limit=[1.0, -1.0 - 1e-3]
    )
    boxed = TorchProgram(2, 2, smooth=distance, upper=1.0, matrix=[[-1.0, -1.0]], limit=[-2.1])
    balls = TorchProgram(
        2,
        2,
        smooth=distance,
        inequality=lambda x, z: torch.stack([(z**2).sum() - 1.0, ((z - 3.0) ** 2).sum() - 1.0]),
        num_inequalities=2,
    )
    large = TorchProgram(
        2, 2, smooth=distance, upper=1e10, matrix=[[1.0, 1.0], [-1.0, -1.0]], limit=[1.0, -2.0]
    )
    for program in (apart, boxed, balls, large):
        solution = solve(program, Y)
        assert solution.status.tolist() == [Status.INFEASIBLE], solution.report()
        assert bool(solution.decision.isnan().all())
        assert solution.proof is not None and 0 <= float(solution.proof) < 1e-6
        assert "residual" in solution.report()


def test_what_is_unbounded_is_said_with_the_residual_of_its_proof() -> None:
    program = TorchProgram(2, 2, smooth=lambda y, z: y @ z, lower=0.0)
    solution = solve(program, torch.tensor([[[-1.0, 0.5]], [[1.0, 0.5]]], **D))
    assert solution.status.tolist() == [Status.UNBOUNDED, Status.SOLVED]
    assert solution.proof is not None and float(solution.proof[0]) <= 1e-9
    assert bool(solution.proof[1].isnan())
    assert "a direction proves it, residual" in solution.report()


@pytest.mark.parametrize("soft", [1e-2, 1e-6, 1e-10])
def test_a_minimum_far_away_along_a_soft_direction_is_none_at_infinity(soft: float) -> None:
    """z2 = 1 / soft, beyond anything the other numbers of the program say."""
    program = TorchProgram(
        2, 2, smooth=lambda y, z: 0.5 * (z[0] - y[0]) ** 2 + 0.5 * soft * z[1] ** 2 - z[1]
    )
    solution = solve(program, Y)
    assert solution.status.tolist() != [Status.UNBOUNDED]
    if soft >= 1e-6:
        assert torch.allclose(solution.decision, torch.tensor([[5.0, 1 / soft]], **D))
