"""Timesteps, noise and weights of the ELBO surrogate: unbiased for the full sum over the steps."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_dfl.predictors.diffusion import Elbo, ElboSurrogate, NoiseSchedule, Sampler, Sampling
from diffusion_dfl.predictors.diffusion.elbo import ElboSteps, TimestepScheme, Weighting

SCHEMES: list[TimestepScheme] = ["uniform", "stratified", "importance", "stratified_importance"]
TOTAL = 12
SCHEDULE = NoiseSchedule("linear", TOTAL)
SAMPLER = Sampler(SCHEDULE, Sampling(5, sampler="ancestral", variance="beta"))


def _elbo(count: int = 3, sampler: Sampler = SAMPLER, **knobs: Any) -> Elbo:
    return Elbo(SCHEDULE, sampler, ElboSurrogate(count, **knobs))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _with_history(elbo: Elbo, seed: int = 0, spread: float = 1.0) -> Elbo:
    """Any positive history: log-normal over the bins."""
    elbo.history.copy_((spread * torch.randn(elbo.history.shape, generator=_generator(seed))).exp())
    return elbo


class _Errors:
    """A denoiser linear in the noise: ``|(I - A_i) eps - c_i|^2``, whose mean is known."""

    def __init__(self, count: int, size: int = 2) -> None:
        self.slope = 0.5 * torch.randn(count, size, size, generator=_generator(8))
        self.offset = torch.randn(count, size, generator=_generator(9))

    def __call__(self, which: Tensor, epsilon: Tensor) -> Tensor:
        moved = torch.einsum("bmkij,bmkj->bmki", self.slope[which], epsilon)
        return (epsilon - moved - self.offset[which]).square().sum(-1)

    def means(self) -> Tensor:
        rest = torch.eye(self.slope.shape[1]) - self.slope
        return rest.square().sum((1, 2)) + self.offset.square().sum(1)


def _estimates(elbo: Elbo, errors: _Errors, draws: int, seed: int = 1) -> Tensor:
    """Estimates of the sum over the steps, one an instance of two scenarios."""
    draw = elbo.draw(draws, 2, 2, _generator(seed))
    values: Tensor = (draw.factor * errors(draw.which, draw.epsilon)).double().sum(2).mean(1)
    return values


@pytest.mark.parametrize("timesteps", SCHEMES)
@pytest.mark.parametrize("weighting", ["simple", "vlb"])
@pytest.mark.parametrize("steps", ["schedule", "sampler"])
@pytest.mark.parametrize(
    ("antithetic", "common_noise"), [(False, False), (True, False), (True, True)]
)
@pytest.mark.parametrize("count", [1, 3, 5])
def test_an_estimate_is_unbiased_for_the_sum_over_all_steps(
    timesteps: TimestepScheme,
    weighting: Weighting,
    steps: ElboSteps,
    antithetic: bool,
    common_noise: bool,
    count: int,
) -> None:
    elbo = _elbo(
        count,
        elbo_steps=steps,
        elbo_weighting=weighting,
        elbo_timesteps=timesteps,
        elbo_mixing=0.2 if count == 3 else 0.0,
        antithetic=antithetic,
        common_noise=common_noise,
    )
    _with_history(elbo)
    errors = _Errors(len(elbo.timesteps))
    expected = float((elbo.weights.double() * errors.means().double()).sum())
    draws = 8000
    found = _estimates(elbo, errors, draws)
    error = float(found.std()) / math.sqrt(draws)
    assert abs(float(found.mean()) - expected) < 4 * error
    assert error < 0.05 * expected


@settings(max_examples=12, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.1, 1.0, 2.0]))
@pytest.mark.parametrize("timesteps", ["importance", "stratified_importance"])
def test_importance_is_unbiased_whatever_the_history(
    timesteps: TimestepScheme, seed: int, spread: float
) -> None:
    """The expectation summed out: a timestep counts ``k p_i`` times, times ``W_i / (k p_i)``."""
    elbo = _with_history(_elbo(elbo_timesteps=timesteps, elbo_weighting="vlb"), seed, spread)
    probabilities = elbo.probabilities()
    assert float(probabilities.sum()) == pytest.approx(1.0, rel=1e-5)
    draw = elbo.draw(20_000, 1, 1, _generator(seed))
    counts = torch.bincount(draw.which.flatten(), minlength=TOTAL).double()
    shares, expected = counts / counts.sum(), probabilities.double()
    # Binomial for independent timesteps; strata can only lower the variance.
    error = (expected * (1 - expected) / counts.sum()).sqrt()
    assert bool(((shares - expected).abs() < 4.5 * error + 1e-5).all())
    factors = (elbo.weights / (3 * probabilities))[draw.which]
    torch.testing.assert_close(draw.factor, factors)


@pytest.mark.parametrize("timesteps", ["importance", "stratified_importance"])
def test_importance_has_no_variance_where_its_history_is_the_summand(
    timesteps: TimestepScheme,
) -> None:
    elbo = _elbo(4, elbo_timesteps=timesteps, elbo_weighting="vlb")
    norms = torch.rand(TOTAL, generator=_generator(3)) + 0.1
    elbo.history[elbo._bins()] = (elbo.weights * norms).square()
    draw = elbo.draw(500, 1, 1, _generator())
    estimates = (draw.factor * norms[draw.which]).sum(2)
    expected = float((elbo.weights * norms).sum())
    torch.testing.assert_close(estimates, torch.full_like(estimates, expected))


def test_without_a_history_of_every_step_importance_is_uniform() -> None:
    elbo = _elbo(elbo_timesteps="importance")
    uniform = torch.full((TOTAL,), 1 / TOTAL)
    torch.testing.assert_close(elbo.probabilities(), uniform)
    elbo.history[elbo._bins()[:-1]] = torch.arange(1.0, TOTAL)
    torch.testing.assert_close(elbo.probabilities(), uniform)
    elbo.history.fill_(torch.inf)
    torch.testing.assert_close(elbo.probabilities(), uniform)


@pytest.mark.parametrize("mixing", [0.0, 0.1, 0.5, 1.0])
def test_mixing_bounds_the_probabilities_from_below(mixing: float) -> None:
    elbo = _with_history(_elbo(elbo_timesteps="importance", elbo_mixing=mixing), spread=6.0)
    probabilities = elbo.probabilities()
    assert float(probabilities.amin()) >= mixing / TOTAL * (1 - 1e-6)
    assert float(probabilities.sum()) == pytest.approx(1.0, rel=1e-5)
    if mixing == 0.0:
        assert float(probabilities.amin()) < 0.1 / TOTAL


@pytest.mark.parametrize("count", [1, 4, 5, TOTAL])
def test_stratified_timesteps_cover_every_part_of_the_schedule(count: int) -> None:
    draw = _elbo(count, elbo_timesteps="stratified").draw(3, 500, 1, _generator())
    for j in range(count):
        places = draw.which[:, :, j]
        assert int(places.min()) >= math.floor(TOTAL * j / count)
        assert int(places.max()) <= math.ceil(TOTAL * (j + 1) / count) - 1
    shares = torch.bincount(draw.which.flatten(), minlength=TOTAL) / draw.which.numel()
    torch.testing.assert_close(shares, torch.full((TOTAL,), 1 / TOTAL), rtol=0.25, atol=0)
    torch.testing.assert_close(draw.factor, torch.full_like(draw.factor, 1 / count))


def test_stratified_importance_takes_one_timestep_of_every_part_of_the_mass() -> None:
    elbo = _with_history(_elbo(4, elbo_timesteps="stratified_importance"))
    edges = torch.cat([torch.zeros(1), elbo.probabilities().cumsum(0)])
    draw = elbo.draw(1, 2000, 1, _generator())
    for j in range(4):
        which = draw.which[:, :, j]
        assert bool((edges[which] < (j + 1) / 4 + 1e-6).all())
        assert bool((edges[which + 1] > j / 4 - 1e-6).all())


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("common_noise", [False, True])
def test_antithetic_evaluations_come_in_pairs_of_opposite_noise(
    count: int, common_noise: bool
) -> None:
    epsilon = _elbo(count, common_noise=common_noise).draw(4, 5, 3, _generator()).epsilon
    assert epsilon.shape == (4, 5, count, 3)
    pairs = count // 2
    first, second = epsilon[:, :, : 2 * pairs : 2], epsilon[:, :, 1 : 2 * pairs : 2]
    assert torch.equal(first, -second)
    # Beyond the pairs noise is fresh.
    for one, two in itertools.combinations(range(0, count, 2), 2):
        assert not torch.equal(epsilon[:, :, one].abs(), epsilon[:, :, two].abs())
    assert bool((epsilon[:, :1] == epsilon).all()) == common_noise
    assert not torch.equal(epsilon[0], epsilon[1])


def test_scenarios_share_timesteps_and_noise_only_where_it_is_common() -> None:
    for common in (False, True):
        draw = _elbo(2, common_noise=common, elbo_timesteps="uniform").draw(6, 9, 2, _generator())
        assert bool((draw.which[:, :1] == draw.which).all()) == common
        assert draw.which.shape == draw.factor.shape == (6, 9, 2)


# Weights of the bound


def _plain_divergence(
    bar_t: float,
    bar_s: float,
    eta: float,
    spread: float,
    clean: Tensor,
    guess: Tensor,
    noisy: Tensor,
) -> float:
    """KL from the forward posterior of Song et al. (Eq. 7) to N(the same with the guess, spread^2)."""
    sigma = eta * math.sqrt((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s))

    def mean(value: Tensor) -> Tensor:
        epsilon = (noisy - math.sqrt(bar_t) * value) / math.sqrt(1 - bar_t)
        return math.sqrt(bar_s) * value + math.sqrt(1 - bar_s - sigma**2) * epsilon

    one = torch.distributions.Normal(mean(clean), sigma)
    two = torch.distributions.Normal(mean(guess), spread)
    return float(torch.distributions.kl_divergence(one, two).sum())


@pytest.mark.parametrize(
    ("kind", "eta", "variance"),
    [
        ("ancestral", 1.0, "beta"),
        ("ancestral", 1.0, "posterior"),
        ("ddim", 1.0, "posterior"),
        ("ddim", 0.4, "posterior"),
    ],
)
@pytest.mark.parametrize("steps", ["schedule", "sampler"])
def test_vlb_weights_are_divergences_of_the_reverse_steps(
    kind: str, eta: float, variance: str, steps: ElboSteps
) -> None:
    sampling = Sampling(5, sampler=kind, eta=eta, variance=variance)  # type: ignore[arg-type]
    sampler = Sampler(SCHEDULE, sampling)
    elbo = _elbo(sampler=sampler, elbo_steps=steps, elbo_weighting="vlb")
    chain = [0, *elbo.timesteps.tolist()]
    clean, epsilon = torch.randn(2, 3, dtype=torch.float64, generator=_generator())
    for i, (s, t) in enumerate(itertools.pairwise(chain)):
        bar_s, bar_t = SCHEDULE.curve[s], SCHEDULE.curve[t]
        noisy = math.sqrt(bar_t) * clean + math.sqrt(1 - bar_t) * epsilon
        wrong = epsilon + torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
        guess = (noisy - math.sqrt(1 - bar_t) * wrong) / math.sqrt(bar_t)
        if s == 0:
            # -log p(y_0 | y_1) of a Gaussian about the guess, with the noise of the last step.
            variance_0 = eta**2 * (1 - bar_t)
            expected = float((clean - guess).square().sum()) / (2 * variance_0)
        else:
            beta = 1 - bar_t / bar_s
            posterior = eta * math.sqrt(beta * (1 - bar_s) / (1 - bar_t))
            spread = math.sqrt(beta) if variance == "beta" else posterior
            arguments = (bar_t, bar_s, eta, spread, clean)
            expected = _plain_divergence(*arguments, guess, noisy)
            expected -= _plain_divergence(*arguments, clean, noisy)
        found = float(elbo.weights[i]) * float((wrong - epsilon).square().sum())
        assert found == pytest.approx(expected, rel=1e-5)


def test_vlb_weights_of_ancestral_sampling_are_those_of_ho_et_al() -> None:
    """``beta_t^2 / (2 sigma_t^2 alpha_t (1 - abar_t))`` with sigma^2 = beta (2020, Eq. 12)."""
    schedule = NoiseSchedule("linear", 1000)
    sampler = Sampler(schedule, Sampling(2, sampler="ancestral", variance="beta"))
    weights = Elbo(schedule, sampler, ElboSurrogate(elbo_weighting="vlb")).weights.double()
    bar = schedule.alpha_bar
    alpha = bar[1:] / bar[:-1]
    expected = (1 - alpha) / (2 * alpha * (1 - bar[1:]))
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)


def test_simple_weights_are_a_mean() -> None:
    for steps, count in (("schedule", TOTAL), ("sampler", 5)):
        weights = _elbo(elbo_steps=steps).weights
        torch.testing.assert_close(weights, torch.full((count,), 1 / count))


# The history of gradient norms


def test_the_history_is_the_mean_square_norm_and_decays() -> None:
    elbo = _elbo(3, elbo_timesteps="importance")
    draw = elbo.draw(50, 6, 1, _generator())
    squares = torch.rand(50, 6, 3, generator=_generator(1)) + 0.5
    elbo.remember(draw, squares)
    # Of summands without the 1/(k p) they were drawn with.
    raw = squares * (3 / TOTAL) ** 2
    means = torch.stack([raw[draw.which == i].mean() for i in range(TOTAL)])
    torch.testing.assert_close(elbo.history[elbo._bins()], means)
    torch.testing.assert_close(elbo.probabilities(), means.sqrt() / means.sqrt().sum())
    again = elbo.draw(50, 6, 1, _generator(2))
    scale = (3 * elbo.probabilities()).square()
    elbo.remember(again, squares)
    raw = squares * scale[again.which]
    later = torch.stack([raw[again.which == i].mean() for i in range(TOTAL)])
    torch.testing.assert_close(elbo.history[elbo._bins()], 0.9 * means + 0.1 * later)


def test_bins_that_saw_no_row_keep_their_history() -> None:
    elbo = _with_history(_elbo(1, elbo_timesteps="importance"))
    before = elbo.history.clone()
    draw = elbo.draw(1, 1, 1, _generator())
    elbo.remember(draw, torch.full((1, 1, 1), 5.0))
    changed = torch.nonzero(elbo.history != before).flatten()
    assert changed.tolist() == [int(elbo._bins()[draw.which.flatten()])]


def test_norms_of_zero_leave_the_distribution_as_it_is() -> None:
    elbo = _elbo(2, elbo_timesteps="importance")
    elbo.remember(elbo.draw(50, 6, 1, _generator()), torch.zeros(50, 6, 2))
    torch.testing.assert_close(elbo.probabilities(), torch.full((TOTAL,), 1 / TOTAL))


@pytest.mark.parametrize("count", [1, 7, 49, 50, 51, 1000])
def test_every_step_has_a_bin_and_bins_hold_neighbours(count: int) -> None:
    schedule = NoiseSchedule("linear", count)
    sampler = Sampler(schedule, Sampling(1))
    elbo = Elbo(schedule, sampler, ElboSurrogate(1, elbo_timesteps="importance"))
    bins = elbo._bins()
    assert bool((bins.diff() >= 0).all()) and int(bins[0]) == 0 and int(bins[-1]) < 50
    counts = torch.bincount(bins)
    assert int(counts.max()) <= math.ceil(count / 50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"num_elbo_timesteps": 0},
            "num_elbo_timesteps=0 must be an integer >= 1",
        ),
        ({"num_elbo_timesteps": 13}, "num_elbo_timesteps=13"),
        (
            {"num_elbo_timesteps": 6, "elbo_steps": "sampler"},
            r"=6 must lie in 1\.\.num_sampling_steps=5",
        ),
        ({"elbo_steps": "both"}, "elbo_steps='both'"),
        ({"elbo_weighting": "snr"}, "elbo_weighting='snr'"),
        ({"elbo_timesteps": "random"}, "elbo_timesteps='random'"),
        ({"elbo_mixing": -0.1}, r"elbo_mixing=-0\.1"),
        ({"elbo_mixing": math.nan}, "elbo_mixing=nan"),
    ],
)
def test_senseless_values_are_refused_by_name(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Elbo(SCHEDULE, SAMPLER, ElboSurrogate(**arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("sampling", [Sampling(2, eta=0.0), Sampling(2, sampler="dpm_solver")])
def test_a_deterministic_sampler_has_no_bound(sampling: Sampling) -> None:
    sampler = Sampler(SCHEDULE, sampling)
    with pytest.raises(ValueError, match="elbo_weighting=vlb needs a sampler with noise"):
        _elbo(1, sampler, elbo_weighting="vlb")
    assert len(_elbo(1, sampler, elbo_steps="sampler").weights) == 2
