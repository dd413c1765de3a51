"""The score of sets against derivatives on paper, of programs whose decisions have none themselves.

One item of value y ~ N(mu, 1), taken or not: min -y z over 0 <= z <= 1. M scenarios take it where their
mean is positive, so that the expected cost at the outcome y is -y Phi(mu sqrt(M)), and its derivative in
mu is -y sqrt(M) phi(mu sqrt(M)).
"""

import math
from dataclasses import replace
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import diffusion_dfl as ddfl

torch.set_num_threads(1)
ITEM = ddfl.TorchProgram(1, 1, smooth=lambda y, z: -(y @ z), lower=0.0, upper=1.0)


class Shift(ddfl.Predictor):
    """N(mu, 1), whatever the context."""

    has_density = True

    def __init__(self, mu: float) -> None:
        super().__init__(1, 1)
        self.mu = torch.nn.Parameter(torch.tensor([mu], dtype=torch.float64))

    def loss(self, context: Tensor, outcome: Tensor, *others: Any, **options: Any) -> Tensor:
        return 0.5 * (outcome - self.mu).square().mean()

    def sample(self, context: Tensor, num_scenarios: int, generator: Any, **options: Any) -> Tensor:
        noise = torch.randn(len(context), num_scenarios, 1, generator=generator)
        return (self.mu + noise).detach()

    def weighted_log_density(
        self, context: Tensor, scenarios: Tensor, weights: Tensor, *others: Any
    ) -> ddfl.LogDensity:
        density = -0.5 * (scenarios - self.mu).square().sum(-1)
        return ddfl.LogDensity((weights * density).sum(), torch.zeros(()))


def gradient(
    count: int, sets: int, mu: float, outcome: float, rows: int = 20_000, pooled: bool = False
) -> float:
    predictor = Shift(mu)
    known = torch.zeros(rows, 1)
    batch = ddfl.Batch(known, known + outcome, pooled)
    estimator = ddfl.SetScore(count, sets, fit_weight=0.0)
    layer = ddfl.DecisionLayer(ITEM)
    estimator(predictor, layer, batch, torch.Generator().manual_seed(0)).value.backward()
    return float(predictor.mu.grad)


@pytest.mark.parametrize(("count", "sets"), [(1, 2), (4, 2), (4, 5)])
@pytest.mark.parametrize("mu", [0.3, -0.6])
def test_the_gradient_of_a_linear_program_is_that_on_paper(
    count: int, sets: int, mu: float
) -> None:
    outcome = 2.0
    wanted = -outcome * math.sqrt(count) * NormalDist().pdf(mu * math.sqrt(count))
    # A row's gradient has at most the deviation 2 sqrt(M) (of a sum of M scores) times the cost.
    error = 2 * outcome * math.sqrt(count / 20_000)
    assert gradient(count, sets, mu, outcome) == pytest.approx(wanted, abs=3 * error)
    assert error < 0.06 * abs(wanted) or abs(wanted) < 1.2


def test_a_cost_that_all_sets_share_has_no_gradient() -> None:
    assert gradient(4, 3, 30.0, 2.0, rows=100) == 0.0


def test_one_decision_for_all_rows_has_the_gradient_of_their_mean_cost() -> None:
    """Of 5,000 batches of one decision the mean is that of one decision at the mean outcome."""
    outcomes = torch.tensor([[1.0], [3.0]])
    found = []
    for pooled, outcome in ((True, outcomes), (False, outcomes.mean(0, keepdim=True))):
        predictor = Shift(0.3)
        generator = torch.Generator().manual_seed(1)
        batch = ddfl.Batch(torch.zeros_like(outcome), outcome, pooled)
        estimator = ddfl.SetScore(2, 3, fit_weight=0.0)
        estimator(predictor, ddfl.DecisionLayer(ITEM), batch, generator).value.backward()
        found.append(float(predictor.mu.grad))
    assert found[0] == pytest.approx(found[1]) and found[0] != 0


def test_a_row_with_a_set_that_was_not_solved_says_nothing(monkeypatch: Any) -> None:
    predictor, layer = Shift(0.3), ddfl.DecisionLayer(ITEM)
    solved = ddfl.DecisionLayer.forward

    def forward(self: ddfl.DecisionLayer, *words: Any, **options: Any) -> Tensor:
        made = solved(self, *words, **options).clone()
        made[0] = torch.nan  # Of the first row the first set.
        return made

    batch = ddfl.Batch(torch.zeros(3, 1), torch.tensor([[9.0], [1.0], [2.0]]))
    rest = batch.select(slice(1, 3))
    scenarios = predictor.sample(batch.context, 8, torch.Generator().manual_seed(0))
    estimator = ddfl.SetScore(2, 4)
    wanted = estimator._costs(layer, scenarios[1:], rest)
    monkeypatch.setattr(ddfl.DecisionLayer, "forward", forward)
    costs = estimator._costs(layer, scenarios, batch)
    assert bool((costs[0] == 0).all())
    torch.testing.assert_close(costs[1:], wanted)


def test_a_linear_program_is_learned_where_its_own_derivative_is_zero() -> None:
    """Two items, room for one; their values differ by a quadratic of x, and the network has one unit."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (300, 1))
    noise = 0.05 * rng.standard_normal((300, 2))
    frame = pd.DataFrame(np.hstack([x, 1 + noise]), columns=list("xab"))
    frame["a"] += x[:, 0] ** 2 - 0.1
    program = ddfl.TorchProgram(
        2, 2, smooth=lambda y, z: -(y @ z), lower=0.0, upper=1.0, matrix=[[1.0, 1.0]], limit=1.0
    )
    task = ddfl.task_from_frame("knapsack", program, frame, ["x"], ["a", "b"])
    unit = partial(ddfl.GaussianPredictor, width=1, layers=1)
    knobs = ddfl.TrainingSettings(epochs=4, batch_size=64, learning_rate=1e-2)
    fitted = ddfl.train(task, unit, fit=replace(knobs, epochs=20), device="cpu")
    estimator = ddfl.SetScore(1, num_sets=8, fit_weight=0.3)
    focused = ddfl.train(task, fitted.predictor, estimator, fit=None, train=knobs, device="cpu")
    assert focused.rule.num_scenarios == 1
    assert all(values["gradient_norm"] > 0.01 for _, values in focused.history["train"][1:])
    assert focused.train is not None
    assert focused.train.best_score < focused.train.first_score - 0.02


@pytest.mark.parametrize("options", [{"num_sets": 1}, {"fit_weight": -1.0}])
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ddfl.SetScore(4, **options)


def test_a_predictor_without_a_density_is_refused() -> None:
    from diffusion_dfl.estimators.pairs import check_pair

    with pytest.raises(TypeError, match="SetScore needs a log-density"):
        check_pair(ddfl.DeterministicPredictor(1, 1), ddfl.SetScore(4))
