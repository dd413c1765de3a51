"""Costs of (y, z, x): a known price times a decision, hinges and losses that read the context."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import diffusion_dfl as ddfl
from diffusion_dfl.estimators import score_weights
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Hinge, Regulariser, TorchProgram, conditional_value_at_risk
from diffusion_dfl.solvers import solve

D = {"dtype": torch.float64}


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, **D, generator=torch.Generator().manual_seed(seed))


def priced(size: int = 2, **limits: Any) -> TorchProgram:
    """An order at a price that the context tells, against lost sales at four times that price."""
    return TorchProgram(
        size,
        size,
        smooth=lambda y, z, x: x[0] * z.sum() + 0.05 * (z @ z),
        hinges=[Hinge(1.0, lambda y, z, x: 4 * x[0] * (y - z))],
        lower=0.0,
        **limits,
    )


def at_price(price: float, **limits: Any) -> TorchProgram:
    """The same for one price, which the functions know."""
    return TorchProgram(
        2,
        2,
        smooth=lambda y, z: price * z.sum() + 0.05 * (z @ z),
        hinges=[Hinge(1.0, lambda y, z: 4 * price * (y - z))],
        lower=0.0,
        **limits,
    )


@pytest.mark.parametrize("limits", [{}, {"matrix": [[1.0, 1.0]], "limit": 0.8}])
@pytest.mark.parametrize("scale", [0.0, 1.06])
def test_every_instance_is_the_program_of_its_own_context(
    limits: dict[str, Any], scale: float
) -> None:
    y, x = uniform(5, 21, 2), 0.5 + uniform(5, 1, seed=1)
    scenarios = y.clone().requires_grad_()
    layer = DecisionLayer(priced(**limits), bandwidth_scale=scale)
    decision = layer(scenarios, context=x)
    decision.square().sum().backward()
    assert scenarios.grad is not None and scenarios.grad.shape == y.shape
    for row in range(5):
        alone = y[row : row + 1].clone().requires_grad_()
        one = DecisionLayer(at_price(float(x[row]), **limits), bandwidth_scale=scale)(alone)
        assert torch.allclose(one, decision[row], atol=1e-9)
        one.square().sum().backward()
        assert torch.allclose(alone.grad, scenarios.grad[row], atol=1e-7)
        cost = priced().cost(y[row], decision[row].detach(), x[row])
        assert torch.allclose(cost, at_price(float(x[row])).cost(y[row], decision[row].detach()))


def test_the_gradient_in_the_context_is_that_of_differences() -> None:
    y, x = uniform(4, 30, 2), (0.5 + uniform(4, 1, seed=1)).requires_grad_()
    layer = DecisionLayer(priced())
    towards = uniform(4, 2, seed=2)
    (layer(y, context=x) * towards).sum().backward()
    step = 1e-5
    with torch.no_grad():
        up, down = layer(y, context=x + step), layer(y, context=x - step)
    difference = ((up - down) * towards).sum(1) / (2 * step)
    assert torch.allclose(x.grad[:, 0], difference, rtol=1e-5, atol=1e-7)


def test_a_tail_loss_may_read_the_context() -> None:
    def loss(y: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return x[0] - (y @ z)

    parts: dict[str, Any] = {"lower": 0.0, "equality_matrix": [[1.0, 1.0]], "equality_value": 1.0}
    shifted = conditional_value_at_risk(loss, 0.8, 2, 2, **parts)
    plain = conditional_value_at_risk(lambda y, z: -(y @ z), 0.8, 2, 2, **parts)
    y, x = uniform(3, 20, 2), uniform(3, 1, seed=1)
    found, expected = solve(shifted, y, context=x).decision, solve(plain, y).decision
    assert torch.allclose(found[:, :2], expected[:, :2], atol=1e-8)
    assert torch.allclose(found[:, 2], expected[:, 2] + x[:, 0], atol=1e-8)


def test_score_weights_and_a_regulariser_take_the_context_along() -> None:
    y, x = uniform(4, 30, 2), 0.5 + uniform(4, 1, seed=1)
    layer = DecisionLayer(priced(), regularise=Regulariser(0.1))
    cost, weights = score_weights(layer, y, uniform(4, 2, seed=3), context=x)
    assert weights.shape == (4, 30) and bool(weights.isfinite().all()) and float(cost) > 0
    assert float(weights.sum(1).abs().max()) < 1e-8


def test_the_context_is_asked_for_by_name() -> None:
    y = uniform(3, 5, 2)
    with pytest.raises(ValueError, match=r"\(y, z, x\).*pass context="):
        solve(priced(), y)
    with pytest.raises(ValueError, match=r"\(y, z, x\).*pass context="):
        priced().cost(y[:, 0], y[:, 0])
    with pytest.raises(ValueError, match=r"context have shape \(2, 1\); expected \(3, 1\)"):
        DecisionLayer(priced())(y, context=uniform(2, 1))
    with pytest.raises(ValueError, match="scenarios have 2 outcomes; TorchProgram has 3"):
        DecisionLayer(priced(3))(y, context=uniform(3, 1))


def test_a_third_argument_with_a_default_is_no_context() -> None:
    program = TorchProgram(2, 2, smooth=lambda y, z, scale=2.0: scale * ((z - y) ** 2).sum())
    assert not program.contextual
    assert bool(solve(program, uniform(2, 3, 2)).solved.all())


@pytest.mark.parametrize(
    "estimator", [ddfl.Score(5), pytest.param(ddfl.Reparam(5), marks=pytest.mark.slow)]
)
def test_a_task_of_prices_known_in_advance_is_trained_and_judged_by_them(
    estimator: ddfl.Estimator,
) -> None:
    rng = np.random.default_rng(0)
    price, demand = rng.uniform(0.5, 1.5, 60), rng.uniform(0.0, 2.0, (60, 2))
    frame = pd.DataFrame({"price": price, "a": demand[:, 0], "b": demand[:, 1]})
    task = ddfl.task_from_frame("orders", priced(), frame, ["price"], ["a", "b"])
    settings = ddfl.TrainingSettings(epochs=1, batch_size=64, learning_rate=1e-3)
    fitted = ddfl.train(
        task, ddfl.GaussianPredictor, estimator, fit=settings, train=settings, device="cpu"
    )
    metrics = fitted.evaluate(num_large=10).metrics
    rows = task.dataset.test
    decisions = fitted.decide(task.dataset.contexts[rows]).decision
    x = task.dataset.contexts[rows]
    y = task.dataset.outcomes[rows]
    short = 4 * x * np.maximum(y - decisions, 0)
    cost = x[:, 0] * decisions.sum(1) + 0.05 * (decisions**2).sum(1) + short.sum(1)
    assert task.judge(rows, decisions).task == pytest.approx(cost.mean(), rel=1e-12)
    assert metrics["task"] == pytest.approx(cost.mean(), rel=0.1)
    assert metrics["hindsight_regret"] > 0
    baselines = fitted.baselines()
    assert baselines["saa"] is not None and np.isfinite(baselines["saa"])
