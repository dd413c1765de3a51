"""Weights of rows: every estimator's loss is the mean of each row's own, times its weight."""

import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_dfl.estimators import Batch, Policy, Reparam, Score, ScorePath, SetScore, TwoStage
from diffusion_dfl.estimators.base import Estimator, decision_cost
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import (
    DeterministicPredictor,
    DiffusionPredictor,
    FlowPredictor,
    GaussianPredictor,
    PolicyNetwork,
    Predictor,
)
from diffusion_dfl.programs import Hinge, PowerProgram, TorchProgram
from tests.configs import by_keys

torch.set_num_threads(1)
HOURS, ROWS = 3, 5
PROGRAM = PowerProgram(num_decisions=HOURS)
WEIGHTS = torch.tensor([2.0, 0.0, 1.0, 0.25, 3.0], dtype=torch.float64)
STEPS = {"num_diffusion_steps": 20, "num_sampling_steps": 3}
PATHS = {**STEPS, "sampler": "ancestral", "variance": "beta", "final_noise": True}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _batch(rows: int = ROWS) -> Batch:
    generator = _generator(9)
    return Batch(
        torch.randn(rows, 2, generator=generator),
        1 + 0.3 * torch.randn(rows, HOURS, generator=generator),
    )


def _predictor(kind: Any, **knobs: object) -> Predictor:
    torch.manual_seed(0)
    predictor: Predictor = by_keys(kind, 2, HOURS, width=8, layers=1, **knobs)
    predictor.fit_scaling(*(getattr(_batch(50), name) for name in ("context", "outcome")))
    return predictor.eval()


def _gradient(
    estimator: Estimator, predictor: Predictor, batch: Batch, weights: Tensor | None
) -> Tensor:
    layer = DecisionLayer(PROGRAM, 1.5)
    loss = estimator(predictor, layer, dataclasses.replace(batch, weights=weights), _generator(3))
    used = [weight for weight in predictor.parameters() if weight.requires_grad]
    parts = torch.autograd.grad(loss.value, used)
    return torch.cat([part.flatten() for part in parts]).double()


PAIRS = {
    "two stage, deterministic": (DeterministicPredictor, {}, TwoStage()),
    "two stage, gaussian": (GaussianPredictor, {}, TwoStage()),
    "two stage, flow": (FlowPredictor, {"couplings": 1}, TwoStage()),
    "two stage, diffusion": (DiffusionPredictor, STEPS, TwoStage()),
    "reparam, deterministic": (DeterministicPredictor, {}, Reparam(1)),
    "reparam, gaussian": (GaussianPredictor, {}, Reparam(6)),
    "reparam, diffusion": (DiffusionPredictor, STEPS, Reparam(6)),
    "score, gaussian": (GaussianPredictor, {}, Score(6)),
    "score, flow": (FlowPredictor, {"couplings": 1}, Score(6, fit_weight=0.0)),
    "score, diffusion": (DiffusionPredictor, {**STEPS, "elbo_weighting": "simple"}, Score(6)),
    "score of the bound": (DiffusionPredictor, {**PATHS, "elbo_weighting": "vlb"}, Score(6)),
    "score, bounded": (GaussianPredictor, {}, Score(6, weight_clip=1.0, trust_region=2.0)),
    "score of fresh scenarios": (GaussianPredictor, {}, Score(6, num_gradient_scenarios=4)),
    "score of sets": (GaussianPredictor, {}, SetScore(6)),
    "score path": (DiffusionPredictor, PATHS, ScorePath(6)),
    "policy": (PolicyNetwork, {}, Policy()),
}


@pytest.mark.parametrize("name", list(PAIRS))
def test_the_gradient_is_the_weighted_mean_of_the_rows_own_on_the_same_noise(name: str) -> None:
    kind, knobs, estimator = PAIRS[name]
    predictor, batch = _predictor(kind, **knobs), _batch()
    gradient = partial(_gradient, estimator, predictor, batch)
    alone = torch.stack([gradient(row) for row in torch.eye(ROWS, dtype=torch.float64)])
    assert bool((alone.abs().amax(1) > 0).all())
    tolerance = {"rtol": 1e-4, "atol": 1e-5 * float(alone.abs().max())}
    torch.testing.assert_close(gradient(WEIGHTS), WEIGHTS @ alone, **tolerance)
    torch.testing.assert_close(gradient(None), alone.sum(0), **tolerance)
    assert torch.equal(gradient(torch.ones(ROWS, dtype=torch.float64)), gradient(None))


class Common(GaussianPredictor):
    """A Gaussian whose scenarios have the same noise in every row."""

    def sample(self, context: Tensor, *arguments: Any, **options: Any) -> Tensor:
        mean, log_variance = self.moments(context)
        noise = torch.randn(1, arguments[0], HOURS, generator=_generator(5))
        drawn = mean.unsqueeze(1) + (0.5 * log_variance).exp().unsqueeze(1) * noise
        return self.raw(context, drawn)


REPEATED = {
    "two stage": (Common, TwoStage()),
    "reparam": (Common, Reparam(6)),
    "score": (Common, Score(6)),
    "policy": (PolicyNetwork, Policy()),
}


@pytest.mark.parametrize("name", list(REPEATED))
def test_a_row_of_weight_w_is_w_equal_rows_and_one_of_weight_0_is_none(name: str) -> None:
    kind, estimator = REPEATED[name]
    predictor, batch = _predictor(kind), _batch()
    times = torch.tensor([2, 0, 1, 1, 3])
    rows = torch.arange(ROWS).repeat_interleave(times)
    repeated = Batch(batch.context[rows], batch.outcome[rows])
    wanted = _gradient(estimator, predictor, repeated, None)
    found = _gradient(estimator, predictor, batch, times / times.double().mean())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


def test_one_decision_for_all_rows_is_judged_by_their_weights() -> None:
    predictor, batch = _predictor(GaussianPredictor), _batch()
    pooled = dataclasses.replace(batch, pooled=True)
    estimator = Score(6, fit_weight=0.0)
    times = torch.tensor([2, 0, 1, 1, 3])
    # The decision is made for the first row, which both batches begin with.
    rows = torch.arange(ROWS).repeat_interleave(times)
    repeated = Batch(batch.context[rows], batch.outcome[rows], pooled=True)
    wanted = _gradient(estimator, predictor, repeated, None)
    found = _gradient(estimator, predictor, pooled, times / times.double().mean())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_the_rows_that_were_solved_stand_for_the_weight_of_all() -> None:
    """As without weights: the mean is over the rows that have a decision, here the last two."""
    program = TorchProgram(1, 1, hinges=[Hinge(1.0, lambda y, z: y - z)], lower=0.0, upper=9.0)
    layer = DecisionLayer(program, 0.0)
    decision = torch.tensor([[torch.nan], [1.0], [2.0]], dtype=torch.float64)
    outcome = torch.full((3, 1), 4.0)
    for weights, mean in (
        (None, 2.5),
        (torch.ones(3), 2.5),
        (torch.tensor([1.0, 1.5, 0.5]), (1.5 * 3 + 0.5 * 2) / 2),
        (torch.tensor([2.0, 0.25, 0.75]), (0.25 * 3 + 0.75 * 2) / 1),
        (torch.tensor([3.0, 0.0, 0.0]), 0.0),
    ):
        cost = decision_cost(layer, outcome, decision, weights=weights)
        assert float(cost) == pytest.approx(mean)
