"""The decision layer at its border: precision, memory layout, bad instances, counting."""

import math

import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer, SolverFailure
from diffusion_dfl.programs import PowerProgram, bandwidth
from diffusion_dfl.solvers import solve


def _scenarios(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 6, 24, dtype=torch.float64, generator=generator)
    curve = torch.sin(torch.arange(24, dtype=torch.float64) / 3)
    return (curve + 0.3 * noise).to(dtype)


def test_decision_is_the_solvers_with_the_bandwidth_of_the_rule() -> None:
    program, scenarios = PowerProgram(), _scenarios()
    weights = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights /= weights.sum(1, keepdim=True)
    width = bandwidth(scenarios, weights, 1.5, 50)
    layer = DecisionLayer(program, 1.5, sample_size=50)
    assert torch.equal(
        layer(scenarios, weights), solve(program, scenarios, weights, width).decision
    )
    assert layer.last_solution is not None and bool(layer.last_solution.solved.all())
    exact = DecisionLayer(program, 0.0)(scenarios)
    assert torch.equal(exact, solve(program, scenarios).decision)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_single_precision_is_cast_at_the_border_and_nowhere_else(requires_grad: bool) -> None:
    scenarios = _scenarios(dtype=torch.float32).requires_grad_(requires_grad)
    weights = torch.full((4, 6), 1 / 6, dtype=torch.float32, requires_grad=requires_grad)
    layer = DecisionLayer(PowerProgram())
    decision = layer(scenarios, weights)
    assert decision.dtype == torch.float64 and decision.requires_grad == requires_grad
    double = scenarios.detach().double().requires_grad_()
    double_weights = weights.detach().double().requires_grad_()
    same = layer(double, double_weights)
    assert torch.equal(decision, same)
    if requires_grad:
        decision.square().sum().backward()
        same.square().sum().backward()
        assert scenarios.grad.dtype == weights.grad.dtype == torch.float32
        assert torch.equal(scenarios.grad, double.grad.float())
        assert torch.equal(weights.grad, double_weights.grad.float())


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("ramp", [0.4, 0.05])
def test_memory_layout_does_not_matter(scale: float, ramp: float) -> None:
    layer = DecisionLayer(PowerProgram(ramp=ramp), scale)
    plain = _scenarios().requires_grad_()
    weights = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights /= weights.sum(1, keepdim=True)
    width = bandwidth(plain.detach(), weights, scale)
    strided = plain.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
    other_weights = weights.T.contiguous().T
    other_width = width.T.contiguous().T
    assert not strided.is_contiguous() and not other_weights.is_contiguous()
    first, second = layer(plain, weights, width), layer(strided, other_weights, other_width)
    assert torch.allclose(first, second, rtol=0, atol=1e-13)
    # A gradient that is a broadcast view, as sum() makes.
    first.sum().backward()
    second.sum().backward()
    assert torch.allclose(plain.grad, strided.grad, rtol=0, atol=1e-11)


def _bad_inputs(kind: str) -> tuple[Tensor, Tensor, Tensor | None]:
    scenarios, weights = _scenarios(), torch.full((4, 6), 1 / 6, dtype=torch.float64)
    width = None
    if kind in ("nan", "inf", "-inf"):
        scenarios[2, 3, 4] = float(kind)
    elif kind in ("nan weight", "inf weight"):
        weights[2, 1] = float(kind.split()[0])
    elif kind == "zero weights":
        weights[2] = 0
    elif kind == "negative weight":
        weights[2, 1], weights[2, 2] = -1 / 6, 0.5
    else:
        width = bandwidth(scenarios)
        width[2, 5] = math.nan
    return scenarios, weights, width


@pytest.mark.parametrize(("ramp", "scale"), [(0.4, 1.0), (0.05, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize(
    "kind",
    [
        "nan",
        "inf",
        "-inf",
        "nan weight",
        "inf weight",
        "zero weights",
        "negative weight",
        "nan width",
    ],
)
def test_a_dropped_instance_gets_zero_gradients_and_poisons_no_other(
    kind: str, ramp: float, scale: float
) -> None:
    layer = DecisionLayer(PowerProgram(ramp=ramp), scale, max_failure_share=0.5)
    scenarios, weights, width = _bad_inputs(kind)
    inputs = [scenarios.requires_grad_(), weights.requires_grad_()]
    if width is not None:
        inputs.append(width.requires_grad_())
    decision = layer(*inputs)
    assert bool(decision[2].isnan().all())
    # NaN reaches the gradient of the dropped row too, as it does from a careless loss.
    decision.square().sum().backward()
    others = [0, 1, 3]
    clean = [t.detach()[others].clone().requires_grad_() for t in inputs]
    layer(*clean).square().sum().backward()
    for dirty, good in zip(inputs, clean, strict=True):
        assert torch.equal(dirty.grad[2], torch.zeros_like(dirty.grad[2]))
        assert torch.allclose(dirty.grad[others], good.grad, rtol=1e-12, atol=1e-12)
    assert layer.statistics.instances == 7 and layer.statistics.failures == 1


def test_raise_stops_at_the_first_bad_instance_and_names_it() -> None:
    layer = DecisionLayer(PowerProgram(), on_failure="raise")
    scenarios, _, _ = _bad_inputs("nan")
    with pytest.raises(SolverFailure, match=r"instances 2 \(1 of 4\): invalid input"):
        layer(scenarios)


def test_too_many_drops_raise_and_name_the_instances() -> None:
    scenarios = _scenarios()
    scenarios[[1, 3], 0, 0] = math.nan
    with pytest.raises(SolverFailure, match=r"instances 1, 3 \(2 of 4\)"):
        DecisionLayer(PowerProgram(), max_failure_share=0.49)(scenarios)
    layer = DecisionLayer(PowerProgram(), max_failure_share=0.5)
    layer(scenarios)
    layer(_scenarios())
    assert layer.statistics.instances == 8 and layer.statistics.failures == 2
    assert layer.statistics.seconds > 0
