"""The weighted ELBO of the diffusion predictor: the plain sum, its gradient, its mean."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_dfl.predictors import DiffusionPredictor
from tests.configs import by_keys

STEPS = 8


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _predictor(size: int = 1, **knobs: object) -> DiffusionPredictor:
    torch.manual_seed(0)
    knobs = {"num_diffusion_steps": STEPS, "num_sampling_steps": 4, "layers": 1, **knobs}
    predictor: DiffusionPredictor = by_keys(DiffusionPredictor, 2, size, width=8, **knobs)
    predictor.fit_scaling(
        torch.randn(50, 2, generator=_generator(1)),
        4 + 3 * torch.randn(50, size, generator=_generator(2)),
    )
    if predictor.elbo.uses_history:
        history = torch.randn(predictor.elbo.history.shape, generator=_generator(3)).exp()
        predictor.elbo.history.copy_(history)
    return predictor.eval()


def _noise(predictor: DiffusionPredictor, output: Tensor, noisy: Tensor, bar: Tensor) -> Tensor:
    """The noise that an output of the network means, by the definitions of the three."""
    signal, noise = bar.sqrt().float(), (1 - bar).sqrt().float()
    return {
        "epsilon": output,
        "x0": (noisy - signal * output) / noise,
        "v": noise * noisy + signal * output,
    }[predictor.prediction]


def _plain(
    predictor: DiffusionPredictor,
    context: Tensor,
    scenarios: Tensor,
    weights: Tensor,
    generator: torch.Generator,
    trust_region: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The surrogate in one piece with autograd, and which evaluations the trust region leaves out."""
    location, scale = predictor.outcomes.mean, predictor.outcomes.scale
    if predictor.base is not None:
        of_base = [one.location_and_scale(context.float()) for one in predictor.base.members]
        location = torch.stack([one.location for one in of_base]).mean(0).detach().unsqueeze(1)
        squares = torch.stack([one.scale for one in of_base]).square().mean(0)
        scale = squares.sqrt().detach().unsqueeze(1)
    clean = ((scenarios.float() - location) / scale).unsqueeze(2)
    draw = predictor.elbo.draw(*scenarios.shape, generator)
    steps = predictor.elbo.timesteps[draw.which]
    bar = predictor.schedule.alpha_bar[steps].unsqueeze(-1)
    noisy = bar.sqrt().float() * clean + (1 - bar).sqrt().float() * draw.epsilon
    features = predictor.denoiser.context_features(predictor.contexts(context))
    output = predictor.denoiser(
        noisy, predictor.denoiser.time_features(steps), features[:, None, None]
    )
    error = (_noise(predictor, output, noisy, bar) - draw.epsilon).square().sum(-1)
    weight = weights.float().unsqueeze(-1) * draw.factor
    beyond = torch.zeros_like(weight, dtype=torch.bool)
    if trust_region:
        beyond = (weight > 0) & (error > trust_region * predictor.outcome_size)
    return -(weight.masked_fill(beyond, 0.0) * error).sum(), beyond


def _gradient(predictor: DiffusionPredictor, value: Tensor) -> Tensor:
    weights = list(predictor.denoiser.parameters())
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)])


@settings(max_examples=60, derandomize=True, deadline=None)
@given(data=st.data())
def test_value_and_gradient_are_those_of_the_plain_sum(data: st.DataObject) -> None:
    """Any prediction, scaling, scheme, count, chunk and batch; single and double weights."""
    draw = data.draw
    steps = draw(st.sampled_from(["schedule", "sampler"]))
    sampling = draw(st.sampled_from([1, 4, STEPS]))
    predictor = _predictor(
        size=draw(st.sampled_from([1, 3])),
        layers=draw(st.sampled_from([1, 2])),
        num_sampling_steps=sampling,
        prediction=draw(st.sampled_from(["epsilon", "x0", "v"])),
        outcome_scaling=draw(st.sampled_from(["global", "residual"])),
        elbo_steps=steps,
        elbo_weighting=draw(st.sampled_from(["simple", "vlb"])),
        elbo_timesteps=draw(
            st.sampled_from(["uniform", "stratified", "importance", "stratified_importance"])
        ),
        elbo_mixing=draw(st.sampled_from([0.0, 0.3])),
        num_elbo_timesteps=draw(st.integers(1, STEPS if steps == "schedule" else sampling)),
        antithetic=draw(st.booleans()),
        common_noise=draw(st.booleans()),
        chunk_rows=draw(st.sampled_from([1, 5, 512])),
    )
    batch, count = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 2, 6]))
    size = predictor.outcome_size
    context = torch.randn(2, batch, generator=_generator(4)).T
    scenarios = 4 + 3 * torch.randn(batch, size, count, generator=_generator(5)).transpose(1, 2)
    weights = torch.randn(count, batch, dtype=torch.float64, generator=_generator(6)).T.clone().T.T
    if draw(st.booleans()):
        weights[:, 0] = 0.0
        weights[:, -1] = -0.5
    if draw(st.booleans()):
        context, scenarios, weights = context.double(), scenarios.double(), weights.float()
    trust_region = draw(st.sampled_from([0.0, 0.5]))
    seed = draw(st.integers(0, 99))
    plain, beyond = _plain(predictor, context, scenarios, weights, _generator(seed), trust_region)
    found = predictor.weighted_log_density(
        context, scenarios, weights, _generator(seed), trust_region
    )
    size_of = float(plain.detach().abs()) + 1.0
    assert float(found.value.detach()) == pytest.approx(
        float(plain.detach()), rel=1e-4, abs=1e-5 * size_of
    )
    assert float(found.outside) == pytest.approx(float(beyond.double().mean()), abs=1e-12)
    expected = _gradient(predictor, plain)
    torch.testing.assert_close(
        _gradient(predictor, found.value),
        expected,
        rtol=1e-4,
        atol=2e-5 * (1e-3 + float(expected.abs().max())),
    )


# The mean


def _full_sum(predictor: DiffusionPredictor, context: Tensor, clean: float) -> Tensor:
    """``-sum_i W_i E |eps - eps_theta|^2`` over all steps, by Gauss-Hermite quadrature."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)
    epsilon = torch.as_tensor(nodes, dtype=torch.float32).unsqueeze(-1)
    shares = torch.as_tensor(shares / math.sqrt(2 * math.pi))
    features = predictor.denoiser.context_features(predictor.contexts(context))
    total = torch.zeros((), dtype=torch.float64)
    for t, weight in zip(predictor.elbo.timesteps, predictor.elbo.weights, strict=True):
        bar = predictor.schedule.alpha_bar[t]
        noisy = bar.sqrt().float() * clean + (1 - bar).sqrt().float() * epsilon
        output = predictor.denoiser(noisy, predictor.denoiser.time_features(t), features)
        error = (_noise(predictor, output, noisy, bar) - epsilon).square().squeeze(-1)
        total = total - weight.double() * (shares * error.double()).sum()
    return total


@pytest.mark.parametrize(
    "timesteps", ["uniform", "stratified", "importance", "stratified_importance"]
)
@pytest.mark.parametrize(
    ("weighting", "steps", "knobs"),
    [
        ("simple", "schedule", {"antithetic": False, "num_elbo_timesteps": 1}),
        ("vlb", "schedule", {"elbo_mixing": 0.3, "num_elbo_timesteps": 3}),
        ("simple", "sampler", {"common_noise": True, "num_elbo_timesteps": 2}),
        ("vlb", "sampler", {"prediction": "v", "num_elbo_timesteps": 4}),
    ],
)
def test_value_and_gradient_are_unbiased_for_the_full_sum(
    timesteps: str, weighting: str, steps: str, knobs: dict[str, object]
) -> None:
    predictor = _predictor(
        elbo_timesteps=timesteps, elbo_weighting=weighting, elbo_steps=steps, **knobs
    )
    batch, count, replicates, clean = 60, 4, 100, 0.8
    context = torch.tensor([[0.3, -1.2]]).expand(batch, 2)
    scenarios = predictor.outcomes.inverse(torch.tensor([clean])).expand(batch, count, 1)
    weights = torch.full((batch, count), 1 / (batch * count))
    exact = _full_sum(predictor, context[:1], clean)
    # Many directions at once: random mixtures of the gradient's entries, beside the value.
    directions = torch.randn(
        8, sum(p.numel() for p in predictor.denoiser.parameters()), generator=_generator(7)
    )
    expected = torch.cat(
        [exact.detach().float().reshape(1), directions @ _gradient(predictor, exact)]
    )
    generator, found = _generator(11), []
    for _ in range(replicates):
        value = predictor.weighted_log_density(context, scenarios, weights, generator).value
        gradient = _gradient(predictor, value)
        found.append(torch.cat([value.detach().reshape(1), directions @ gradient]))
    values = torch.stack(found)
    error = values.std(0) / math.sqrt(replicates)
    assert bool(((values.mean(0) - expected).abs() < 4 * error).all())
    assert float(error[0]) < 0.05 * float(expected[0].abs())


# The history


def _with_importance(**knobs: object) -> DiffusionPredictor:
    predictor = _predictor(elbo_timesteps="importance", num_elbo_timesteps=3, layers=2, **knobs)
    predictor.elbo.history.zero_()
    return predictor


@pytest.mark.parametrize("weighting", ["simple", "vlb"])
def test_timesteps_become_likely_as_the_root_mean_square_of_their_rows_gradients(
    weighting: str,
) -> None:
    """Gradients of every evaluation by brute force, but for the embedding's inner layer."""
    predictor = _with_importance(elbo_weighting=weighting, chunk_rows=50)
    context = torch.randn(3, 2, generator=_generator(4))
    scenarios = 4 + 3 * torch.randn(3, 40, 1, generator=_generator(5))
    weights = torch.randn(3, 40, generator=_generator(6))
    predictor.weighted_log_density(context, scenarios, weights, _generator(9))
    found = predictor.elbo.probabilities()

    predictor.elbo.history.zero_()
    names = [n for n, _ in predictor.denoiser.named_parameters() if not n.startswith("from_time.0")]
    watched = [predictor.denoiser.get_parameter(name) for name in names]
    draw = predictor.elbo.draw(3, 40, 1, _generator(9))
    squares: list[list[float]] = [[] for _ in range(STEPS)]
    features = predictor.denoiser.context_features(predictor.contexts(context))
    for b in range(3):
        clean = predictor.outcomes(scenarios[b])
        for m in range(40):
            for j in range(3):
                i = int(draw.which[b, m, j])
                bar = predictor.schedule.alpha_bar[i + 1]
                epsilon = draw.epsilon[b, m, j]
                noisy = bar.sqrt().float() * clean[m] + (1 - bar).sqrt().float() * epsilon
                time = predictor.denoiser.time_features(torch.tensor(i + 1))
                error = (predictor.denoiser(noisy, time, features[b]) - epsilon).square().sum()
                summand = weights[b, m] * predictor.elbo.weights[i] * error
                gradients = torch.autograd.grad(summand, watched, retain_graph=True)
                squares[i].append(sum(float(gradient.square().sum()) for gradient in gradients))
    norms = torch.tensor([math.sqrt(sum(values) / len(values)) for values in squares])
    torch.testing.assert_close(found, norms / norms.sum(), rtol=1e-4, atol=0)


def test_the_history_is_saved_with_the_weights_and_comes_back() -> None:
    predictor = _with_importance()
    context, scenarios = torch.zeros(4, 2), 4 + torch.randn(4, 30, 1, generator=_generator())
    predictor.weighted_log_density(context, scenarios, torch.ones(4, 30), _generator(1))
    state = predictor.state_dict()
    assert bool((state["elbo.history"][predictor.elbo._bins()] > 0).all())
    other = _with_importance()
    other.load_state_dict(state)
    assert torch.equal(other.elbo.probabilities(), predictor.elbo.probabilities())
    assert float(predictor.elbo.probabilities().std()) > 1e-3


def test_values_without_gradient_and_schemes_without_history_remember_nothing() -> None:
    arguments = (torch.zeros(4, 2), torch.randn(4, 30, 1), torch.ones(4, 30), _generator())
    predictor = _with_importance()
    with torch.no_grad():
        predictor.weighted_log_density(*arguments)
    assert not bool(predictor.elbo.history.any())
    plain = _predictor(elbo_timesteps="stratified")
    plain.weighted_log_density(*arguments)
    assert not bool(plain.elbo.history.any())


# The trust region


def _pushed(trust_region: float) -> tuple[list[float], float]:
    """One scenario made less likely: squared noise errors after 300 and 600 steps.

    Also the share of evaluations that the trust region left out in the last step.
    """
    predictor = _predictor()
    context, scenario = torch.zeros(1, 2), predictor.outcomes.inverse(torch.zeros(1, 1, 1))
    optimizer = torch.optim.Adam(predictor.denoiser.parameters(), lr=2e-3)
    generator, errors = _generator(), []
    for step in range(1, 601):
        optimizer.zero_grad()
        density = predictor.weighted_log_density(
            context, scenario.expand(1, 16, 1), torch.full((1, 16), 1 / 16), generator, trust_region
        )
        density.value.backward()
        optimizer.step()
        if step % 300 == 0:
            with torch.no_grad():
                value = predictor.weighted_log_density(
                    context, scenario.expand(1, 400, 1), torch.full((1, 400), 1 / 400), generator
                ).value
            errors.append(-float(value))
    return errors, float(density.outside)


def test_the_trust_region_stops_what_a_positive_weight_would_push_away_without_end() -> None:
    """It stops when all evaluations are outside; the optimizer's steps overshoot its border."""
    (middle, end), outside = _pushed(4.0)
    assert outside > 0.95
    assert middle < 50 and end < 1.2 * middle
    (middle, end), outside = _pushed(0.0)
    assert outside == 0.0
    assert end > 10 * middle > 1e5


def test_negative_weights_are_not_bounded_by_the_trust_region() -> None:
    """Pulling a far scenario closer is what the region leaves alone."""
    predictor = _predictor()
    context, far = torch.zeros(1, 2), predictor.outcomes.inverse(torch.full((1, 5, 1), 30.0))
    arguments = (context, far, -torch.ones(1, 5))
    free = predictor.weighted_log_density(*arguments, _generator(3))
    bounded = predictor.weighted_log_density(*arguments, _generator(3), trust_region=0.1)
    assert float(bounded.value.detach()) == float(free.value.detach()) > 0
    assert float(bounded.outside) == 0.0
