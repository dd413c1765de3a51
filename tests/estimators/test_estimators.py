"""What each estimator is made of: weights, twins, unsolved instances, refusals."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_dfl.estimators import Batch, Policy, Reparam, Score, TwoStage, score_weights
from diffusion_dfl.estimators.base import Balance, Estimator, Mixture, Parts
from diffusion_dfl.layers import DecisionLayer, failures
from diffusion_dfl.predictors import (
    DeterministicPredictor,
    DiffusionPredictor,
    GaussianPredictor,
    PolicyNetwork,
    Predictor,
)
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.solvers import Solution, Status
from diffusion_dfl.solvers.dispatch import solve_instances
from tests.configs import by_keys

HOURS = 4
PROGRAM = PowerProgram(num_decisions=HOURS)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _batch(rows: int = 6) -> Batch:
    generator = _generator(9)
    return Batch(
        torch.randn(rows, 3, generator=generator),
        1 + 0.3 * torch.randn(rows, HOURS, generator=generator),
    )


def _predictor(kind: type[Predictor], **knobs: object) -> Predictor:
    torch.manual_seed(0)
    predictor: Predictor = by_keys(kind, 3, HOURS, width=8, layers=1, **knobs)
    batch = _batch(50)
    predictor.fit_scaling(batch.context, batch.outcome)
    return predictor


def _stochastic() -> list[Predictor]:
    return [
        _predictor(GaussianPredictor),
        _predictor(DiffusionPredictor, num_diffusion_steps=20, num_sampling_steps=3),
    ]


def _layer(scale: float = 1.5, **knobs: float) -> DecisionLayer:
    return DecisionLayer(PROGRAM, scale, **knobs)  # type: ignore[arg-type]


def _gradient(
    estimator: Estimator,
    predictor: Predictor,
    layer: DecisionLayer | None = None,
    batch: Batch | None = None,
) -> dict[str, Tensor]:
    predictor.zero_grad(set_to_none=True)
    estimator(predictor, layer or _layer(), batch or _batch(), _generator(1)).value.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in predictor.named_parameters()
        if parameter.grad is not None
    }


# Score weights


@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize("ramp", [0.4, 0.05])
def test_score_weights_of_an_instance_sum_to_zero(scale: float, ramp: float) -> None:
    layer = DecisionLayer(dataclasses.replace(PROGRAM, ramp=ramp), scale)
    scenarios = 1 + 0.3 * torch.randn(6, 100, HOURS, generator=_generator())
    cost, weights = score_weights(layer, scenarios, _batch().outcome)
    assert weights.dtype == torch.float64
    assert float(weights.abs().amax()) > 1e-3
    assert float(weights.sum(1).abs().amax()) < 1e-9 * float(weights.abs().sum(1).amax())
    assert not cost.requires_grad


@pytest.mark.parametrize("row", [0, 3])
def test_score_weights_are_the_derivative_of_the_cost_in_the_scenario_weights(row: int) -> None:
    layer = _layer()
    scenarios = 1 + 0.3 * torch.randn(6, 20, HOURS, generator=_generator()).double()
    outcome = _batch().outcome
    _, weights = score_weights(layer, scenarios, outcome)
    direction = torch.randn(20, generator=_generator(2)).double()
    direction -= direction.mean()

    def cost(step: float) -> float:
        shares = torch.full((6, 20), 1 / 20).double()
        shares[row] += step * direction
        decision = layer(scenarios, shares)
        return float(PROGRAM.cost(outcome.double(), decision).mean())

    numerical = (cost(1e-6) - cost(-1e-6)) / 2e-6
    assert float(weights[row] @ direction) == pytest.approx(numerical, rel=1e-4)


def test_clipped_weights_are_bounded_and_centred_again() -> None:
    estimator = Score(100, weight_clip=2.0)
    weights = torch.randn(8, 100, generator=_generator()).double() ** 3
    weights -= weights.mean(1, keepdim=True)
    clipped, share = estimator._clip(weights)
    assert 0 < float(share) < 0.2
    assert float(clipped.sum(1).abs().amax()) < 1e-12
    bound = 2.0 * weights.square().mean(1).sqrt()
    assert bool((clipped.amax(1) - clipped.amin(1) <= 2 * bound + 1e-12).all())
    untouched, none = Score(100)._clip(weights)
    assert torch.equal(untouched, weights)
    assert float(none) == 0


def test_the_clip_of_an_instance_knows_nothing_of_the_others() -> None:
    """An instance with a thousand times as much at stake keeps its share of the gradient."""
    estimator = Score(100, weight_clip=2.0)
    weights = torch.randn(2, 100, generator=_generator()).double() ** 3
    scale = torch.tensor([[1.0], [1000.0]], dtype=torch.float64)
    clipped, share = estimator._clip(weights)
    again, same = estimator._clip(scale * weights)
    torch.testing.assert_close(again, scale * clipped)
    assert float(share) == float(same)
    assert not bool(estimator._clip(torch.zeros(2, 5))[0].any())


def test_the_score_surrogate_is_the_weighted_density_with_the_factor_of_m_minus_1() -> None:
    predictor, batch = _stochastic()[0], _batch()
    found = _gradient(Score(30, fit_weight=0.0), predictor)
    generator = _generator(1)
    scenarios = predictor.sample(batch.context, 30, generator)
    _, weights = score_weights(_layer(), scenarios, batch.outcome)
    predictor.zero_grad(set_to_none=True)
    density = predictor.weighted_log_density(batch.context, scenarios, weights / 29, generator)
    density.value.backward()
    for name, parameter in predictor.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


# Mixing with the predictor's own loss


@pytest.mark.parametrize("kind", [Reparam, Score])
@pytest.mark.parametrize("which", [0, 1])
def test_the_twin_without_decision_weight_only_fits_on_and_solves_nothing(
    kind: type[Reparam] | type[Score], which: int
) -> None:
    predictor, layer, batch = _stochastic()[which], _layer(), _batch()
    found = _gradient(kind(50, decision_weight=0.0, fit_weight=0.25), predictor, layer)
    predictor.zero_grad(set_to_none=True)
    (0.25 * predictor.loss(batch.context, batch.outcome, _generator(1))).backward()
    for name, parameter in predictor.named_parameters():
        assert torch.equal(found[name], parameter.grad)
    assert layer.statistics.instances == 0
    assert layer.last_solution is None


@pytest.mark.parametrize("kind", [Reparam, Score])
def test_without_fit_weight_the_predictors_loss_is_not_computed(
    kind: type[Reparam] | type[Score], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = _stochastic()[0]

    def refuse(*arguments: object) -> Tensor:
        raise AssertionError("the loss was computed")

    monkeypatch.setattr(predictor, "loss", refuse)
    loss = kind(50, decision_weight=1.0, fit_weight=0.0)(
        predictor, _layer(), _batch(), _generator()
    )
    assert "fit_loss" not in loss.metrics
    assert float(loss.metrics["decision_cost"]) > 0


@pytest.mark.parametrize("balance", ["none", "gradient_norms"])
@pytest.mark.parametrize("kind", [Reparam, Score])
def test_the_value_is_linear_in_the_weights(
    kind: type[Reparam] | type[Score], balance: Balance
) -> None:
    predictor = _stochastic()[0]
    decision = _gradient(kind(50, 1.0, 0.0), predictor)
    # The decision part draws its noise first, and a Gaussian's own loss draws none.
    fit = _gradient(TwoStage(), predictor)
    both = _gradient(kind(50, 2.0, 0.5, balance=balance), predictor)
    for name, value in both.items():
        torch.testing.assert_close(
            value, 2 * decision[name] + 0.5 * fit[name], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("kind", [Reparam, Score])
@pytest.mark.parametrize(
    "weights", [(-1.0, 1.0), (1.0, -0.1), (0.0, 0.0), (math.nan, 1.0), (1.0, math.inf)]
)
def test_weights_that_make_no_sense_are_refused_by_name(
    kind: type[Reparam] | type[Score], weights: tuple[float, float]
) -> None:
    with pytest.raises(ValueError, match=rf"decision_weight={weights[0]}.*fit_weight={weights[1]}"):
        kind(50, *weights)


@pytest.mark.parametrize("kind", [Reparam, Score])
def test_both_terms_are_handed_on_apart_where_their_gradients_are_balanced(
    kind: type[Reparam] | type[Score],
) -> None:
    """Nothing else is: a term left out, or the losses as they are, is one scalar."""

    def parts(*weights: float, balance: Balance = "gradient_norms") -> Parts | None:
        estimator = kind(50, *weights, balance=balance)
        return estimator(_stochastic()[0], _layer(), _batch(), _generator(1)).parts

    decision, fit, decision_weight, fit_weight = parts(2.0, 0.5) or pytest.fail("no parts")
    assert (decision_weight, fit_weight) == (2.0, 0.5)
    loss = kind(50, 2.0, 0.5)(_stochastic()[0], _layer(), _batch(), _generator(1))
    torch.testing.assert_close(loss.value, 2.0 * decision + 0.5 * fit)
    assert parts(1.0, 0.0) is None and parts(0.0, 1.0) is None
    assert parts(1.0, 1.0, balance="none") is None


@pytest.mark.parametrize("kind", [Reparam, Score])
def test_by_default_the_two_gradients_have_the_same_weight_and_norm(
    kind: type[Reparam] | type[Score],
) -> None:
    assert kind(50).mixture == Mixture(1.0, 1.0, "gradient_norms")


@pytest.mark.parametrize("kind", [Reparam, Score])
def test_an_unknown_balance_is_refused_by_name(kind: type[Reparam] | type[Score]) -> None:
    with pytest.raises(ValueError, match="balance='norms' is unknown.*gradient_norms or none"):
        kind(50, balance="norms")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["weight_clip", "trust_region"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_guards_that_are_no_numbers_from_0_on_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Score(50, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Reparam, Score])
@pytest.mark.parametrize("which", [0, 1])
def test_the_gradient_reaches_every_weight(kind: type[Reparam] | type[Score], which: int) -> None:
    predictor = _stochastic()[which]
    gradient = _gradient(kind(50), predictor)
    assert set(gradient) == {name for name, _ in predictor.named_parameters()}
    assert all(bool(value.isfinite().all()) for value in gradient.values())
    assert all(float(value.abs().sum()) > 0 for value in gradient.values())


# Predictors without scenarios


def test_a_point_prediction_has_no_score() -> None:
    with pytest.raises(TypeError, match="no density"):
        Score(50)(_predictor(DeterministicPredictor), _layer(), _batch(), _generator())


def test_a_score_that_is_zero_by_construction_is_refused() -> None:
    predictor = _predictor(GaussianPredictor)
    with pytest.raises(ValueError, match="num_scenarios=1: the weights of one scenario are zero"):
        Score(1)(predictor, _layer(), _batch(), _generator())
    for layer in (_layer(0.0), DecisionLayer(PROGRAM, 1.5, curvature="saa")):
        with pytest.raises(ValueError, match="its score gradient is zero; set "):
            Score(20)(predictor, layer, _batch(), _generator())


def test_a_point_prediction_learns_through_the_decision_of_its_one_scenario() -> None:
    """With slack ramps the decision is the prediction itself: the gradient is that of its cost."""
    predictor = _predictor(DeterministicPredictor)
    batch = _batch()
    layer = DecisionLayer(dataclasses.replace(PROGRAM, ramp=100.0), 1.5)
    found = _gradient(Reparam(50, fit_weight=0.0), predictor, layer)
    predictor.zero_grad(set_to_none=True)
    decision = predictor.sample(batch.context, 1, _generator(), differentiable=True)[:, 0]
    PROGRAM.cost(batch.outcome.double(), decision.double()).mean().backward()
    for name, parameter in predictor.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_policy_learns_from_the_cost_of_its_own_decision_and_solves_nothing() -> None:
    policy, layer, batch = _predictor(PolicyNetwork), _layer(), _batch()
    assert isinstance(policy, PolicyNetwork)
    loss = Policy()(policy, layer, batch, _generator())
    expected = PROGRAM.cost(batch.outcome.double(), policy(batch.context).double()).mean()
    torch.testing.assert_close(loss.value, expected)
    assert layer.statistics.instances == 0
    loss.value.backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_grad_policy_refuses_a_predictor() -> None:
    with pytest.raises(TypeError, match="grad=policy needs model=policy, not GaussianPredictor"):
        Policy()(_stochastic()[0], _layer(), _batch(), _generator())


def test_two_stage_is_the_predictors_loss() -> None:
    predictor, batch = _stochastic()[1], _batch()
    loss = TwoStage()(predictor, _layer(), batch, _generator(4))
    assert torch.equal(loss.value, predictor.loss(batch.context, batch.outcome, _generator(4)))
    assert not TwoStage.decision_focused


# Unsolved instances


def _fail(rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the solver give up on these instances of every batch."""

    def broken(*arguments: Any, **options: Any) -> Solution:
        solution = solve_instances(*arguments, **options)
        status, decision = solution.status.clone(), solution.decision.clone()
        status[rows] = int(Status.NOT_CONVERGED)
        decision[rows] = torch.nan
        return dataclasses.replace(solution, status=status, decision=decision)

    monkeypatch.setattr(failures, "solve_instances", broken)


@pytest.mark.parametrize("kind", [Reparam, Score])
@pytest.mark.parametrize("which", [0, 1])
def test_dropped_instances_leave_the_rest_of_the_batch_intact(
    kind: type[Reparam] | type[Score], which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, batch, bad = _stochastic()[which], _batch(), [1, 4]
    good = [row for row in range(len(batch)) if row not in bad]
    noise = _generator(1)
    scenarios = predictor.sample(batch.context, 50, noise)
    decision = _layer()(scenarios[good])
    expected = float(PROGRAM.cost(batch.outcome[good].double(), decision).mean())

    _fail(bad, monkeypatch)
    layer = _layer(max_failure_share=1.0)
    predictor.zero_grad(set_to_none=True)
    loss = kind(50)(predictor, layer, batch, _generator(1))
    loss.value.backward()
    assert float(loss.metrics["decision_cost"]) == pytest.approx(expected, rel=1e-6)
    assert layer.statistics.failures == len(bad)
    for name, parameter in predictor.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("kind", [Reparam, Score])
def test_a_batch_without_a_solved_instance_has_no_gradient(
    kind: type[Reparam] | type[Score], monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail(list(range(6)), monkeypatch)
    layer = _layer(max_failure_share=1.0)
    gradient = _gradient(kind(50, fit_weight=0.0), _stochastic()[0], layer)
    assert all(not bool(value.any()) for value in gradient.values())
