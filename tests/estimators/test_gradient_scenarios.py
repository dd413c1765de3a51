"""Fresh scenarios for the gradient: weights at zero weight, the leave-one-out baseline, pooling."""

import math

import pytest
import torch
from torch import Tensor

from diffusion_dfl.estimators import Batch, Reparam, Score, score_weights
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DiffusionPredictor, GaussianPredictor, LogDensity, Predictor
from diffusion_dfl.programs import (
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    ProductAllocation,
    Program,
)
from tests.configs import by_keys

PROGRAMS: dict[str, Program] = {
    "power": PowerProgram(num_decisions=3, ramp=0.4),
    "power with binding ramps": PowerProgram(num_decisions=3, ramp=0.05),
    "newsvendor": Newsvendor(num_decisions=3),
    "portfolio": MeanVariancePortfolio(3),
    "allocation": ProductAllocation(3),
}
POWER = PROGRAMS["power"]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _drawn(program: Program, batch: int, count: int, seed: int) -> Tensor:
    noise = torch.randn(batch, count, 3, dtype=torch.float64, generator=_generator(seed))
    if isinstance(program, MeanVariancePortfolio):
        return 0.001 * torch.arange(3.0) + 0.2 * noise
    return 1.5 + 0.3 * noise


def _predictor(kind: type[Predictor], **knobs: object) -> Predictor:
    torch.manual_seed(0)
    predictor: Predictor = by_keys(kind, 2, 3, width=8, layers=1, **knobs)
    predictor.fit_scaling(
        torch.randn(50, 2, generator=_generator(1)),
        1.5 + 0.3 * torch.randn(50, 3, generator=_generator(2)),
    )
    return predictor.eval()


def _batch(rows: int = 4, pooled: bool = False) -> Batch:
    outcome = 1.5 + 0.3 * torch.randn(rows, 3, generator=_generator(8))
    return Batch(torch.randn(rows, 2, generator=_generator(9)), outcome, pooled)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(("batch", "count", "fresh_count"), [(3, 20, 7), (1, 2, 2)])
def test_weights_of_fresh_scenarios_are_derivatives_at_weight_zero(
    name: str, batch: int, count: int, fresh_count: int
) -> None:
    """One-sided differences: a fresh scenario enters, those of the decision make room alike."""
    program = PROGRAMS[name]
    layer = DecisionLayer(program, 1.5)
    known, fresh = _drawn(program, batch, count, 3), _drawn(program, batch, fresh_count, 4)
    outcome = _drawn(program, batch, 1, 5)[:, 0]
    cost, weights = score_weights(layer, known, outcome, fresh)
    alone, own = score_weights(layer, known, outcome)
    assert weights.shape == (batch, fresh_count)
    assert float(cost) == pytest.approx(float(alone), rel=1e-9)
    rule = DecisionLayer(program, 1.5, sample_size=count)

    def moved(row: int, place: int, step: float) -> float:
        shares = torch.zeros(batch, count + fresh_count, dtype=torch.float64)
        shares[:, :count] = 1 / count
        shares[row, :count] -= step / count
        shares[row, count + place] = step
        decision = rule(torch.cat([known, fresh], 1), shares)
        return float(program.cost(outcome, decision).mean())

    size = float(own.abs().amax())
    for row in range(batch):
        for place in range(0, fresh_count, 3):
            step = 1e-5
            # Second order, from the side where weights are positive.
            start = moved(row, place, 0.0)
            one, two = moved(row, place, step), moved(row, place, 2 * step)
            numerical = (4 * one - two - 3 * start) / (2 * step)
            # Weights of the scenarios of the decision are centred: making room costs nothing.
            assert float(weights[row, place]) == pytest.approx(numerical, abs=2e-4 * (size + 1e-3))


@pytest.mark.parametrize("name", ["power", "newsvendor"])
def test_fresh_scenarios_leave_the_decision_and_its_bandwidth_as_they_are(name: str) -> None:
    """The M of the bandwidth is that of the scenarios that decide, named or not."""
    program = PROGRAMS[name]
    known, fresh = _drawn(program, 3, 20, 3), _drawn(program, 3, 500, 4)
    outcome = _drawn(program, 3, 1, 5)[:, 0]
    layer = DecisionLayer(program, 1.5)
    cost, weights = score_weights(layer, known, outcome, fresh)
    solution = layer.last_solution
    assert solution is not None
    torch.testing.assert_close(solution.decision, layer.solve(known).decision, rtol=1e-8, atol=1e-8)
    named = DecisionLayer(program, 1.5, sample_size=20)
    again, same = score_weights(named, known, outcome, fresh)
    assert float(cost) == pytest.approx(float(again), rel=1e-9)
    torch.testing.assert_close(weights, same)


def test_a_scenario_twice_has_the_same_weight_known_or_fresh() -> None:
    layer = DecisionLayer(POWER, 1.5)
    known, outcome = _drawn(POWER, 3, 20, 3), _drawn(POWER, 3, 1, 5)[:, 0]
    _, own = score_weights(layer, known, outcome)
    _, fresh = score_weights(layer, known, outcome, known.flip(1))
    torch.testing.assert_close(fresh.flip(1), own)


class _Recorded:
    """Remembers the scenarios and weights a density is asked for."""

    def __init__(self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        original = predictor.weighted_log_density
        self.scenarios, self.weights = torch.empty(0), torch.empty(0)

        def density(
            context: Tensor, scenarios: Tensor, weights: Tensor, *rest: object
        ) -> LogDensity:
            self.scenarios, self.weights = scenarios, weights
            return original(context, scenarios, weights, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(predictor, "weighted_log_density", density)


def test_the_baseline_of_a_scenario_is_the_mean_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor, layer, batch = _predictor(GaussianPredictor), DecisionLayer(POWER, 1.5), _batch()
    generator = _generator(3)
    known = predictor.sample(batch.context, 30, generator)
    fresh = predictor.sample(batch.context, 5, generator)
    _, weights = score_weights(layer, known, batch.outcome, fresh)
    others = (weights.sum(1, keepdim=True) - weights) / 4
    record = _Recorded(predictor, monkeypatch)
    Score(30, num_gradient_scenarios=5)(predictor, layer, batch, _generator(3))
    assert torch.equal(record.scenarios, fresh)
    torch.testing.assert_close(record.weights, (weights - others) / 5)


@pytest.mark.parametrize("count", [2, 6])
def test_the_baseline_leaves_the_expectation_as_it_is(count: int) -> None:
    """Against the plain estimate ``1/M' sum w_m grad log p(y_m)`` of the same scenarios."""
    predictor, layer = _predictor(GaussianPredictor), DecisionLayer(POWER, 1.5)
    batch = _batch(rows=60)
    context = batch.context[:1].expand(60, 2)
    batch = Batch(context, batch.outcome[:1].expand(60, 3))
    estimator = Score(40, fit_weight=0.0, num_gradient_scenarios=count)
    parameters = list(predictor.parameters())
    directions = torch.randn(5, sum(p.numel() for p in parameters), generator=_generator(4))

    def gradient(value: Tensor) -> Tensor:
        parts = torch.autograd.grad(value, parameters)
        return directions @ torch.cat([part.flatten() for part in parts])

    differences, with_it, without = [], [], []
    for seed in range(30):
        with_it.append(gradient(estimator(predictor, layer, batch, _generator(seed)).value))
        generator = _generator(seed)
        known = predictor.sample(context, 40, generator)
        fresh = predictor.sample(context, count, generator)
        _, weights = score_weights(layer, known, batch.outcome, fresh)
        density = predictor.weighted_log_density(context, fresh, weights / count, generator)
        without.append(gradient(density.value))
        differences.append(with_it[-1] - without[-1])
    values = torch.stack(differences)
    error = values.std(0) / math.sqrt(len(values))
    assert bool(((values.mean(0)).abs() < 4 * error).all())
    assert float(error.norm()) < 0.5 * float(torch.stack(without).mean(0).norm())


def test_one_gradient_scenario_has_no_baseline_and_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_gradient_scenarios=1 must be 0.*at least 2"):
        Score(50, num_gradient_scenarios=1)


@pytest.mark.parametrize("fresh", [0, 2])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_smallest_batches_have_finite_gradients(count: int, fresh: int, rows: int) -> None:
    for predictor in (
        _predictor(GaussianPredictor),
        _predictor(DiffusionPredictor, num_diffusion_steps=5, num_sampling_steps=1),
    ):
        estimator = Score(count, num_gradient_scenarios=fresh)
        loss = estimator(predictor, DecisionLayer(POWER, 1.5), _batch(rows), _generator())
        loss.value.backward()
        for name, weight in predictor.named_parameters():
            assert weight.grad is not None and bool(weight.grad.isfinite().all()), name


# One decision for all rows


def test_the_gradient_of_a_pooled_batch_is_the_difference_of_its_cost() -> None:
    """In double precision, with the noise held fixed: f is the mean over all rows' outcomes."""
    predictor = _predictor(GaussianPredictor).double()
    layer, batch = DecisionLayer(POWER, 1.5), _batch(7, pooled=True)
    estimator = Reparam(30, fit_weight=0.0)

    def cost() -> Tensor:
        return estimator(predictor, layer, batch, _generator(3)).value

    loss = cost()
    loss.backward()
    decision = layer.solve(predictor.sample(batch.context[:1], 30, _generator(3))).decision
    expected = POWER.cost(batch.outcome.double(), decision.expand(7, -1)).mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-9)
    weights = [weight.detach().clone() for weight in predictor.parameters()]
    moves = [torch.randn(w.shape, generator=_generator(i)).double() for i, w in enumerate(weights)]
    along = sum(
        float((p.grad * move).sum()) for p, move in zip(predictor.parameters(), moves, strict=True)
    )

    def moved(step: float) -> float:
        with torch.no_grad():
            for parameter, weight, move in zip(predictor.parameters(), weights, moves, strict=True):
                parameter.copy_(weight + step * move)
            return float(cost())

    assert along == pytest.approx((moved(1e-5) - moved(-1e-5)) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("fresh", [0, 11])
def test_score_weights_of_a_pooled_batch_judge_one_decision_by_all_outcomes(fresh: int) -> None:
    layer, batch = DecisionLayer(POWER, 1.5), _batch(7, pooled=True)
    known = _drawn(POWER, 1, 20, 3)
    more = _drawn(POWER, 1, fresh, 4) if fresh else None
    cost, weights = score_weights(layer, known, batch.outcome, more)
    parts = [score_weights(layer, known, row.unsqueeze(0), more) for row in batch.outcome]
    assert float(cost) == pytest.approx(sum(float(part[0]) for part in parts) / 7)
    torch.testing.assert_close(weights, torch.stack([part[1] for part in parts]).mean(0))


def test_the_score_of_a_pooled_batch_is_that_of_its_one_set_of_scenarios(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor, layer = _predictor(GaussianPredictor), DecisionLayer(POWER, 1.5)
    batch = _batch(7, pooled=True)
    record = _Recorded(predictor, monkeypatch)
    Score(30)(predictor, layer, batch, _generator(3))
    scenarios = predictor.sample(batch.context[:1], 30, _generator(3))
    assert torch.equal(record.scenarios, scenarios)
    _, weights = score_weights(layer, scenarios, batch.outcome)
    torch.testing.assert_close(record.weights, weights / 29)
