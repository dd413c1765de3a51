"""Deterministic, Gaussian and policy networks, and the standardisation all share."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_dfl.predictors import (
    DeterministicPredictor,
    DiffusionPredictor,
    GaussianPredictor,
    PolicyNetwork,
    Predictor,
    Standardiser,
)
from tests.configs import by_keys


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rows(count: int = 40) -> tuple[Tensor, Tensor]:
    generator = _generator(5)
    contexts = 3 + 2 * torch.randn(count, 4, generator=generator)
    outcomes = torch.tensor([10.0, -5.0]) + torch.tensor([0.5, 4.0]) * torch.randn(
        count, 2, generator=generator
    )
    return contexts, outcomes


def _fitted(predictor: Predictor) -> Predictor:
    predictor.fit_scaling(*_rows())
    return predictor.eval()


def _gaussian(**knobs: float) -> GaussianPredictor:
    torch.manual_seed(0)
    predictor: GaussianPredictor = by_keys(GaussianPredictor, 4, 2, width=8, layers=1, **knobs)
    _fitted(predictor)
    return predictor


def _diffusion(**knobs: object) -> DiffusionPredictor:
    torch.manual_seed(0)
    knobs = {"num_diffusion_steps": 20, "num_sampling_steps": 4, **knobs}
    predictor: DiffusionPredictor = by_keys(DiffusionPredictor, 4, 2, width=8, layers=1, **knobs)
    _fitted(predictor)
    return predictor


# Standardisation


def test_standardised_rows_have_mean_0_and_population_deviation_1() -> None:
    values = _rows()[1]
    standardiser = Standardiser(2)
    standardiser.fit(values)
    scaled = standardiser(values).double()
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        scaled.std(0, correction=0), torch.ones(2).double(), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(standardiser.inverse(standardiser(values)), values)


@pytest.mark.parametrize("level", [0.0, 0.1, -7e4])
def test_a_constant_column_is_centred_and_left_unscaled(level: float) -> None:
    standardiser = Standardiser(2)
    standardiser.fit(torch.stack([torch.full((9,), level), torch.arange(9.0)], 1))
    assert float(standardiser.scale[0]) == 1.0
    assert float(standardiser.scale[1]) == pytest.approx(math.sqrt(60 / 9))
    assert float(standardiser(torch.tensor([[level + 2, 0.0]]))[0, 0]) == pytest.approx(2, rel=1e-2)


def test_standardisation_is_part_of_the_saved_weights() -> None:
    predictor = _gaussian()
    other = GaussianPredictor(4, 2, width=8, layers=1)
    other.load_state_dict(predictor.state_dict())
    assert torch.equal(other.outcomes.mean, predictor.outcomes.mean)
    assert torch.equal(other.contexts.scale, predictor.contexts.scale)


def test_double_inputs_enter_networks_as_single_precision() -> None:
    contexts, _ = _rows()
    predictor = _gaussian()
    single = predictor.sample(contexts, 3, _generator())
    double = predictor.sample(contexts.double(), 3, _generator())
    assert single.dtype == double.dtype == torch.float32
    assert torch.equal(single, double)


# Gaussian


def test_gaussian_density_is_that_of_torch_distributions() -> None:
    contexts, outcomes = _rows()
    predictor = _gaussian()
    mean, log_variance = predictor.moments(contexts)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    scenarios = outcomes.unsqueeze(1) + torch.randn(40, 6, 2, generator=_generator())
    weights = torch.randn(40, 6, dtype=torch.float64, generator=_generator(1))
    broadcast = torch.distributions.Normal(mean.unsqueeze(1), normal.stddev.unsqueeze(1))
    expected = (weights * broadcast.log_prob(predictor.outcomes(scenarios)).sum(-1)).sum()
    found = predictor.weighted_log_density(contexts, scenarios, weights, _generator())
    assert float(found.value.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert float(found.outside) == 0.0
    loss = predictor.loss(contexts, outcomes, _generator())
    expected = -normal.log_prob(predictor.outcomes(outcomes)).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 40]),
    count=st.sampled_from([1, 2, 300]),
    trust_region=st.sampled_from([0.0, 0.3, 2.0]),
    weighting=st.sampled_from(["centred", "zero", "one sign", "float32"]),
)
def test_gaussian_density_by_moments_is_the_plain_sum_with_its_gradient(
    batch: int, count: int, trust_region: float, weighting: str
) -> None:
    """The trust region leaves out the rows that the plain sum, row by row, leaves out."""
    predictor, generator = _gaussian(), _generator(4)
    contexts = _rows()[0][:batch]
    # Not contiguous, and far from the mean: where moments about 0 would cancel.
    scenarios = torch.tensor([10.0, -5.0]).reshape(1, 2, 1) + torch.randn(
        batch, 2, count, generator=generator
    )
    scenarios = scenarios.transpose(1, 2)
    weights = torch.randn(count, batch, dtype=torch.float64, generator=generator).T / count
    if weighting == "centred":
        weights = weights - weights.mean(1, keepdim=True)
    elif weighting == "zero":
        weights = weights.masked_fill(weights < 0.5 / count, 0.0)
    elif weighting == "one sign":
        weights = weights.abs()
    else:
        weights = weights.float()

    mean, log_variance = predictor.moments(contexts)
    normal = torch.distributions.Normal(
        mean.double().unsqueeze(1), (0.5 * log_variance.double()).exp().unsqueeze(1)
    )
    standard = predictor.outcomes(scenarios).double()
    error = ((standard - normal.mean) / normal.stddev).square().sum(-1)
    beyond = (weights > 0) & (error > 2 * trust_region) & (trust_region > 0)
    rows = weights.double().masked_fill(beyond, 0.0) * normal.log_prob(standard).sum(-1)
    parameters = list(predictor.parameters())
    expected = torch.autograd.grad(rows.sum(), parameters)

    density = predictor.weighted_log_density(
        contexts, scenarios, weights, _generator(), trust_region
    )
    found = torch.autograd.grad(density.value, parameters)
    size = float((weights.double() * normal.log_prob(standard).sum(-1)).abs().sum().detach())
    assert float(density.value.detach()) == pytest.approx(
        float(rows.sum().detach()), abs=2e-6 * (size + 1e-6)
    )
    assert float(density.outside) == pytest.approx(float(beyond.double().mean()))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=2e-4, atol=2e-5 * (size + 1e-6))


def _pushed_away(trust_region: float) -> float:
    """Squared standardised error of a scenario made less likely for 1500 steps."""
    predictor, contexts = _gaussian(), _rows()[0][:1]
    scenario = predictor.outcomes.inverse(torch.full((1, 1, 2), 0.5))
    optimizer = torch.optim.Adam(predictor.parameters(), lr=3e-3)
    for _ in range(1500):
        optimizer.zero_grad()
        density = predictor.weighted_log_density(
            contexts, scenario, torch.ones(1, 1), _generator(), trust_region
        )
        density.value.backward()
        optimizer.step()
    mean, log_variance = predictor.moments(contexts)
    offset = predictor.outcomes(scenario)[0, 0] - mean[0]
    return float((offset.square() * (-log_variance[0]).exp()).sum().detach())


@pytest.mark.slow
def test_the_trust_region_stops_a_gaussian_that_runs_from_a_scenario() -> None:
    assert _pushed_away(3.0) < 3 * 3.0 * 2
    assert _pushed_away(0.0) > 1e4


@pytest.mark.parametrize("raw", [-1e4, -20.0, 0.0, 2.0, 50.0, 1e4])
def test_log_variance_stays_within_its_bounds(raw: float) -> None:
    predictor = _gaussian(min_log_variance=-4.0, max_log_variance=1.0)
    head = predictor.network[-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 0.0, raw, raw]))
        _, log_variance = predictor.moments(_rows()[0])
    # The two soft bounds are applied one after the other: the upper one holds to log(1 + e^-5).
    assert bool((log_variance >= -4.0).all())
    assert bool((log_variance <= 1.0 + math.log1p(math.exp(-5.0)) + 1e-6).all())
    assert bool((predictor.loss(*_rows(), _generator()) < 1e3).all())


def test_log_variance_well_inside_its_bounds_is_the_networks_output() -> None:
    predictor = _gaussian()
    head = predictor.network[-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 0.0, -3.0, -3.0]))
        _, log_variance = predictor.moments(_rows()[0])
    torch.testing.assert_close(log_variance, torch.full((40, 2), -3.0), rtol=0, atol=1e-2)


def test_gaussian_samples_have_the_predicted_moments() -> None:
    predictor, count = _gaussian(), 100_000
    context = _rows()[0][:1]
    draws = predictor.sample(context, count, _generator())[0].double()
    mean, log_variance = (value[0].double().detach() for value in predictor.moments(context))
    spread = (predictor.outcomes.scale.double() ** 2) * log_variance.exp()
    center = predictor.outcomes.mean.double() + predictor.outcomes.scale.double() * mean
    assert bool(((draws.mean(0) - center).abs() < 4 * (spread / count).sqrt()).all())
    assert bool(((draws.var(0) - spread).abs() < 4 * spread * math.sqrt(2 / count)).all())


# Point predictions and policies


def test_a_point_prediction_is_one_scenario_whatever_is_asked_for() -> None:
    torch.manual_seed(0)
    predictor = _fitted(DeterministicPredictor(4, 2, width=8, layers=1))
    contexts, outcomes = _rows()
    one, many = (predictor.sample(contexts, count, _generator()) for count in (1, 50))
    assert one.shape == (40, 1, 2)
    assert torch.equal(one, many)
    loss = predictor.loss(contexts, outcomes, _generator())
    error = (predictor.outcomes(one[:, 0]) - predictor.outcomes(outcomes)).square().mean()
    assert float(loss.detach()) == pytest.approx(float(error), rel=1e-4)


def test_a_point_prediction_has_no_density() -> None:
    contexts, outcomes = _rows()
    predictor = DeterministicPredictor(4, 2, 8, 1)
    assert not predictor.has_density
    with pytest.raises(TypeError):
        predictor.weighted_log_density(
            contexts, outcomes.unsqueeze(1), torch.ones(40, 1), _generator()
        )


def test_an_untrained_policy_decides_in_the_units_of_the_outcomes() -> None:
    torch.manual_seed(0)
    policy = PolicyNetwork(4, 2, width=8, layers=1)
    _fitted(policy)
    decision = policy(_rows()[0])
    assert decision.shape == (40, 2)
    assert bool(((decision.mean(0) - _rows()[1].mean(0)).abs() < policy.outcomes.scale).all())


# Noise and graphs, of all that sample

SAMPLING = [_gaussian, _diffusion]


@pytest.mark.parametrize("make", SAMPLING)
def test_scenarios_come_from_the_generator_and_from_nothing_else(make) -> None:  # type: ignore[no-untyped-def]
    predictor, contexts = make(dropout=0.5), _rows()[0]
    torch.manual_seed(1)
    first = predictor.sample(contexts, 5, _generator(3))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(predictor.sample(contexts, 5, _generator(3)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(predictor.sample(contexts, 5, _generator(4)), first)
    assert first.shape == (40, 5, 2)


@pytest.mark.parametrize("make", SAMPLING)
def test_only_differentiable_scenarios_have_a_graph(make) -> None:  # type: ignore[no-untyped-def]
    predictor, contexts = make(), _rows()[0]
    plain = predictor.sample(contexts, 5, _generator())
    assert not plain.requires_grad
    with torch.no_grad():
        graph = predictor.sample(contexts, 5, _generator(), differentiable=True)
    assert graph.requires_grad
    assert torch.equal(plain, graph)
    graph.square().sum().backward()
    for name, parameter in predictor.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("make", SAMPLING)
def test_pathwise_gradient_is_the_derivative_of_the_scenarios(make) -> None:  # type: ignore[no-untyped-def]
    predictor, contexts = make(), _rows()[0][:3]
    direction = torch.randn(3, 6, 2, generator=_generator(8))

    def value() -> Tensor:
        draws = predictor.sample(contexts, 6, _generator(7), differentiable=True)
        return (direction * predictor.outcomes(draws)).double().sum()

    value().backward()
    weights = [parameter.detach().clone() for parameter in predictor.parameters()]
    moves = [torch.randn(w.shape, generator=_generator(i)) for i, w in enumerate(weights)]
    along = sum(
        float((p.grad.double() * move).sum())
        for p, move in zip(predictor.parameters(), moves, strict=True)
    )

    def moved(step: float) -> float:
        with torch.no_grad():
            for parameter, weight, move in zip(predictor.parameters(), weights, moves, strict=True):
                parameter.copy_(weight + step * move)
            return float(value())

    size = 3e-4  # single precision: rounding and curvature meet here
    assert along == pytest.approx((moved(size) - moved(-size)) / (2 * size), rel=5e-3)


@pytest.mark.parametrize("make", SAMPLING)
def test_density_is_linear_in_its_weights_and_moves_the_network(make) -> None:  # type: ignore[no-untyped-def]
    predictor = make()
    contexts, outcomes = _rows()
    scenarios = outcomes.unsqueeze(1) + torch.randn(40, 6, 2, generator=_generator())
    one = torch.randn(40, 6, dtype=torch.float64, generator=_generator(1))
    two = torch.randn(40, 6, dtype=torch.float64, generator=_generator(2))

    def density(weights: Tensor) -> Tensor:
        value: Tensor = predictor.weighted_log_density(
            contexts, scenarios, weights, _generator(3)
        ).value
        return value

    parts = 3 * density(one) - 2 * density(two)
    assert float(density(3 * one - 2 * two).detach()) == pytest.approx(
        float(parts.detach()), rel=1e-4
    )
    assert float(density(0 * one).detach()) == 0.0
    buffers = {name: value.clone() for name, value in predictor.named_buffers()}
    density(one).backward()
    for name, parameter in predictor.named_parameters():
        assert parameter.grad is not None, name
    for name, value in predictor.named_buffers():
        assert torch.equal(value, buffers[name])


def test_units_do_not_matter_and_rounding_is_no_deviation() -> None:
    values = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()
    plain, tiny = Standardiser(2), Standardiser(2)
    plain.fit(values)
    tiny.fit(1e-9 * values)
    torch.testing.assert_close(tiny.scale / 1e-9, plain.scale, rtol=1e-5, atol=0)
    values[:, 0] = 1e-16 * values[:, 0].sign()
    plain.fit(values)
    assert float(plain.scale[0]) == 1.0
