"""One check over every program and curvature: the layer's gradients are derivatives of its decisions."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import (
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    ProductAllocation,
    Program,
    bandwidth,
)


@dataclass(frozen=True)
class Case:
    """A program with scenarios at which its solution map is differentiable."""

    program: Program
    draw: Callable[[int], Tensor]
    curvature: str = "saa"


def _noise(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _load(seed: int) -> Tensor:
    hours = torch.linspace(0, 6, 8, dtype=torch.float64)
    return 2 + torch.sin(hours) + 0.3 * _noise(seed, 3, 12, 8)


def _returns(seed: int) -> Tensor:
    return 0.0005 + 0.02 * (_noise(seed, 3, 30, 6) + 0.5 * _noise(seed + 100, 3, 30, 1))


def _margins(seed: int) -> Tensor:
    centre = torch.tensor([0.3, -0.3, 0.1, 2.0], dtype=torch.float64)
    return centre + _noise(seed, 3, 40, 4)


def _demand(seed: int) -> Tensor:
    return 2.5 + _noise(seed, 3, 25, 2)


PROGRAMS = {
    "power-slack": Case(PowerProgram(ramp=50.0, num_decisions=8), _load),
    "power-binding": Case(PowerProgram(ramp=0.2, num_decisions=8), _load),
    "portfolio": Case(MeanVariancePortfolio(6, risk_aversion=10.0), _returns),
    "portfolio-ridge": Case(MeanVariancePortfolio(6, risk_aversion=30.0, ridge=1e-3), _returns),
    "allocation": Case(ProductAllocation(4, capacity=2.0), _margins),
    "newsvendor": Case(Newsvendor(num_decisions=2), _demand),
    "newsvendor-at-its-bound": Case(Newsvendor(num_decisions=2, z_max=2.0), _demand),
    "newsvendor-limited": Case(Newsvendor(num_decisions=2, limit=3.5), _demand),
}
CASES = {f"{name}-saa": case for name, case in PROGRAMS.items()} | {
    f"{name}-convolved": Case(case.program, case.draw, "convolved")
    for name, case in PROGRAMS.items()
    if case.program.kinked
}


def _assert_directional(
    function: Callable[..., Tensor], inputs: list[Tensor], moves: list[Tensor], direction: Tensor
) -> None:
    leaves = [value.clone().requires_grad_() for value in inputs]
    (direction * function(*leaves)).sum().backward()
    analytic = sum(
        float((leaf.grad * move).sum()) for leaf, move in zip(leaves, moves, strict=True)
    )
    step = 1e-5

    def along(t: float) -> float:
        moved = [value + t * move for value, move in zip(inputs, moves, strict=True)]
        return float((direction * function(*moved)).sum())

    numeric = (8 * (along(step) - along(-step)) - (along(2 * step) - along(-2 * step))) / (
        12 * step
    )
    assert analytic == pytest.approx(numeric, rel=2e-6, abs=2e-7)


def _weights(seed: int, scenarios: Tensor) -> Tensor:
    return torch.softmax(0.3 * _noise(seed, *scenarios.shape[:2]), dim=1)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_pathwise_gradients_are_directional_derivatives(name: str, seed: int) -> None:
    case = CASES[name]
    scenarios = case.draw(seed)
    weights = _weights(seed + 7, scenarios)
    layer = DecisionLayer(case.program, curvature=case.curvature)
    direction = _noise(seed + 1, 3, case.program.num_decisions)
    move = torch.randn_like(scenarios) * scenarios.std()
    _assert_directional(lambda y: layer(y, weights), [scenarios], [move], direction)
    if case.curvature == "convolved":
        width = bandwidth(scenarios, weights)
        moves = [move, 0.3 * width]
        _assert_directional(lambda y, s: layer(y, weights, s), [scenarios, width], moves, direction)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_score_weights_are_derivatives_in_the_scenario_weights(name: str, seed: int) -> None:
    case = CASES[name]
    scenarios = case.draw(seed)
    weights = _weights(seed + 7, scenarios)
    layer = DecisionLayer(case.program, curvature=case.curvature)
    direction = _noise(seed + 1, 3, case.program.num_decisions)
    move = _noise(seed + 2, *weights.shape) * 0.01
    move = move - move.mean(1, keepdim=True)
    _assert_directional(lambda w: layer(scenarios, w), [weights], [move], direction)


@pytest.mark.parametrize("name", CASES)
def test_score_weights_of_a_fixed_bandwidth_sum_to_zero(name: str) -> None:
    case = CASES[name]
    scenarios = case.draw(3)
    weights = _weights(4, scenarios).requires_grad_()
    layer = DecisionLayer(case.program, curvature=case.curvature)
    width = None
    if case.curvature == "convolved":
        width = bandwidth(scenarios, weights.detach())
    decision = layer(scenarios, weights, width)
    (decision * _noise(5, *decision.shape)).sum().backward()
    assert weights.grad is not None
    score = weights.detach() * weights.grad
    assert bool((score.sum(1).abs() <= 1e-10 * (1 + score.abs().sum(1))).all())


@pytest.mark.parametrize("every_entry", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_gradcheck_passes(name: str, every_entry: bool) -> None:
    case = CASES[name]
    scenarios = case.draw(6)[: 1 if every_entry else 2, :6].clone().requires_grad_()
    scale = float(scenarios.detach().std())
    layer = DecisionLayer(case.program, curvature=case.curvature)
    # In units of the scenarios' spread, so that one tolerance fits all programs.
    unit = (scenarios.detach() / scale).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda y: layer(y * scale),
        [unit],
        eps=1e-5,
        atol=2e-5,
        rtol=1e-4,
        fast_mode=not every_entry,  # random directions
    )


@pytest.mark.parametrize("name", CASES)
def test_float32_scenarios_give_float64_decisions_and_float32_gradients(name: str) -> None:
    case = CASES[name]
    scenarios = case.draw(0)
    layer = DecisionLayer(case.program, curvature=case.curvature)
    single = scenarios.float().requires_grad_()
    decision = layer(single)
    assert decision.dtype == torch.float64
    assert torch.equal(decision, layer(single.detach().double()))
    decision.sum().backward()
    assert single.grad is not None and single.grad.dtype == torch.float32


@pytest.mark.parametrize("name", CASES)
def test_a_view_without_contiguous_memory_is_solved_alike(name: str) -> None:
    case = CASES[name]
    scenarios = case.draw(0)
    layer = DecisionLayer(case.program, curvature=case.curvature)
    view = scenarios.transpose(0, 1).contiguous().transpose(0, 1)
    assert not view.is_contiguous()
    assert torch.allclose(layer(view), layer(scenarios), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_has_empty_decisions_and_gradients(name: str) -> None:
    case = CASES[name]
    scenarios = case.draw(0)[:0].clone().requires_grad_()
    decision = DecisionLayer(case.program, curvature=case.curvature)(scenarios)
    assert decision.shape == (0, case.program.num_decisions)
    decision.sum().backward()
    assert scenarios.grad is not None and scenarios.grad.shape == scenarios.shape


@pytest.mark.parametrize("name", CASES)
def test_a_bad_instance_leaves_the_others_their_decisions_and_gradients(name: str) -> None:
    case = CASES[name]
    scenarios = case.draw(0)
    layer = DecisionLayer(case.program, curvature=case.curvature, max_failure_share=0.5)
    good = scenarios.clone().requires_grad_()
    expected = layer(good)
    expected.sum().backward()
    broken = scenarios.clone()
    broken[1, 0, 0] = torch.nan
    broken.requires_grad_()
    decision = layer(broken)
    assert decision[1].isnan().all() and torch.allclose(decision[[0, 2]], expected[[0, 2]])
    assert (
        layer.last_solution is not None and "instances 1 (1 of 3)" in layer.last_solution.report()
    )
    decision[[0, 2]].sum().backward()
    assert good.grad is not None and broken.grad is not None
    assert torch.allclose(broken.grad[[0, 2]], good.grad[[0, 2]], rtol=1e-12, atol=1e-13)
    assert not broken.grad[1].any()


@pytest.mark.parametrize("name", CASES)
def test_a_second_derivative_is_refused(name: str) -> None:
    case = CASES[name]
    scenarios = case.draw(0).requires_grad_()
    decision = DecisionLayer(case.program, curvature=case.curvature)(scenarios)
    (first,) = torch.autograd.grad(decision.sum(), scenarios, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        first.square().sum().backward()
