"""The sampler on a known Gaussian: its moments follow the published update rules.

For data N(m, v) the exact denoiser is affine, so every step is, and the mean and variance of the
samples follow a recursion. The recursions here are written from the papers' own formulas (Ho et
al., 2020, Eq. 6 and 7; Song et al., 2021, Eq. 12 and 16), not from the code's coefficients.
"""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion_dfl.predictors.diffusion import NoiseSchedule, Sampler, sampling_timesteps

MEAN = torch.tensor([1.5, -0.7], dtype=torch.float64)
VARIANCE = torch.tensor([0.3, 2.0], dtype=torch.float64)
DRAWS = 200_000

#: (kind, eta, variance)
SAMPLERS = [
    ("ddim", 0.0, "posterior"),
    ("ddim", 0.5, "posterior"),
    ("ddim", 1.0, "posterior"),
    ("ancestral", 1.0, "posterior"),
    ("ancestral", 1.0, "beta"),
]


def _ddim_step(bar_t: float, bar_s: float, eta: float) -> tuple[float, float, float]:
    """Song et al.: factors of y_0, y_t and fresh noise, with eps put in terms of y_t and y_0."""
    sigma = eta * math.sqrt((1 - bar_s) / (1 - bar_t)) * math.sqrt(1 - bar_t / bar_s)
    direction = math.sqrt(max(1 - bar_s - sigma**2, 0.0))
    # eps = (y_t - sqrt(bar_t) y_0) / sqrt(1 - bar_t)
    from_clean = math.sqrt(bar_s) - direction * math.sqrt(bar_t) / math.sqrt(1 - bar_t)
    return from_clean, direction / math.sqrt(1 - bar_t), sigma


def _ddpm_step(bar_t: float, bar_s: float, variance: str) -> tuple[float, float, float]:
    """Ho et al., Eq. 7, for the step from t to s with alpha = bar_t / bar_s."""
    alpha = bar_t / bar_s
    beta = 1 - alpha
    from_clean = math.sqrt(bar_s) * beta / (1 - bar_t)
    from_noisy = math.sqrt(alpha) * (1 - bar_s) / (1 - bar_t)
    posterior = beta * (1 - bar_s) / (1 - bar_t)
    spread = beta if variance == "beta" else posterior
    return from_clean, from_noisy, math.sqrt(spread) if bar_s < 1 else 0.0


def _steps(
    schedule: NoiseSchedule, timesteps: list[int], kind: str, eta: float, variance: str
) -> list[tuple[int, float, float, float]]:
    """``(t, factor of y_0, of y_t, of noise)``, first step of the walk first."""
    curve = schedule.alpha_bar.double().tolist()
    steps = []
    for s, t in reversed(list(itertools.pairwise([0, *timesteps]))):
        if kind == "ddim":
            step = _ddim_step(curve[t], curve[s], eta)
        else:
            step = _ddpm_step(curve[t], curve[s], variance)
        steps.append((t, *step))
    return steps


def _moments(
    schedule: NoiseSchedule, steps: list[tuple[int, float, float, float]]
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the samples with the exact denoiser of N(MEAN, VARIANCE)."""
    mean, variance = torch.zeros_like(MEAN), torch.ones_like(MEAN)
    for t, from_clean, from_noisy, noise in steps:
        bar = float(schedule.alpha_bar[t].double())
        gain = math.sqrt(bar) * VARIANCE / (bar * VARIANCE + 1 - bar)
        offset = MEAN - gain * math.sqrt(bar) * MEAN
        slope = from_clean * gain + from_noisy
        mean = slope * mean + from_clean * offset
        variance = slope**2 * variance + noise**2
    return mean, variance


def _denoiser(schedule: NoiseSchedule) -> Callable[[Tensor, int, int], Tensor]:
    def predict(noisy: Tensor, index: int, step: int) -> Tensor:
        bar = float(schedule.alpha_bar[step].double())
        gain = math.sqrt(bar) * VARIANCE / (bar * VARIANCE + 1 - bar)
        return MEAN.float() + gain.float() * (noisy - (math.sqrt(bar) * MEAN).float())

    return predict


def _draw(sampler: Sampler, schedule: NoiseSchedule, draws: int = DRAWS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, draws, 2)
    return sampler(_denoiser(schedule), schedule, shape, generator, torch.device("cpu"))[0].double()


@pytest.mark.parametrize(("kind", "eta", "variance"), SAMPLERS)
@pytest.mark.parametrize(
    ("count", "spacing"), [(1000, "uniform"), (10, "quadratic"), (1, "uniform")]
)
def test_coefficients_are_the_published_ones(
    kind: str, eta: float, variance: str, count: int, spacing: str
) -> None:
    schedule = NoiseSchedule("linear", 1000)
    timesteps = sampling_timesteps(1000, count, spacing)  # type: ignore[arg-type]
    sampler = Sampler(kind, tuple(timesteps), eta, variance)  # type: ignore[arg-type]
    expected = [step[1:] for step in _steps(schedule, timesteps, kind, eta, variance)]
    torch.testing.assert_close(
        torch.tensor(sampler.coefficients(schedule), dtype=torch.float64),
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize(("kind", "eta", "variance"), SAMPLERS)
def test_sample_moments_follow_the_recursion(kind: str, eta: float, variance: str) -> None:
    schedule = NoiseSchedule("linear", 1000)
    timesteps = sampling_timesteps(1000, 6, "quadratic")
    sampler = Sampler(kind, tuple(timesteps), eta, variance)  # type: ignore[arg-type]
    mean, spread = _moments(schedule, _steps(schedule, timesteps, kind, eta, variance))
    draws = _draw(sampler, schedule)
    error = (spread / DRAWS).sqrt()
    assert bool(((draws.mean(0) - mean).abs() < 4 * error).all())
    # The samples are Gaussian: the standard error of a variance is v sqrt(2/N).
    assert bool(((draws.var(0) - spread).abs() < 4 * spread * math.sqrt(2 / DRAWS)).all())


def test_ddim_with_eta_one_is_ancestral_sampling_with_the_posterior_variance() -> None:
    schedule = NoiseSchedule("cosine", 100)
    timesteps = tuple(sampling_timesteps(100, 7, "uniform"))
    ddim = Sampler("ddim", timesteps, 1.0)
    ancestral = Sampler("ancestral", timesteps, 0.3, "posterior")
    torch.testing.assert_close(
        _draw(ddim, schedule, 50), _draw(ancestral, schedule, 50), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("kind", "eta", "variance"), SAMPLERS)
def test_the_full_schedule_recovers_the_data(kind: str, eta: float, variance: str) -> None:
    schedule = NoiseSchedule("linear", 1000)
    timesteps = list(range(1, 1001))
    sampler = Sampler(kind, tuple(timesteps), eta, variance)  # type: ignore[arg-type]
    steps = [
        (t, *step)
        for t, step in zip(reversed(timesteps), sampler.coefficients(schedule), strict=True)
    ]
    mean, spread = _moments(schedule, steps)
    # What is left of the data's mean at T is abar_T^(1/2) = 0.6 % of it.
    torch.testing.assert_close(mean, MEAN, rtol=1e-2, atol=0)
    torch.testing.assert_close(spread, VARIANCE, rtol=2e-2, atol=0)


@pytest.mark.parametrize(("kind", "eta", "variance"), SAMPLERS)
def test_the_last_step_returns_the_clean_prediction_without_noise(
    kind: str, eta: float, variance: str
) -> None:
    schedule = NoiseSchedule("linear", 50)
    sampler = Sampler(kind, (5, 20, 50), eta, variance)  # type: ignore[arg-type]
    assert sampler.coefficients(schedule)[-1] == pytest.approx((1.0, 0.0, 0.0), abs=1e-12)
    constant = torch.tensor([2.0, -3.0]).expand(1, 9, 2)
    draws = sampler(
        lambda noisy, index, step: constant,
        schedule,
        (1, 9, 2),
        torch.Generator(),
        torch.device("cpu"),
    )
    torch.testing.assert_close(draws, constant)


def test_the_walk_visits_its_timesteps_backwards() -> None:
    visited = []

    def predict(noisy: Tensor, index: int, step: int) -> Tensor:
        visited.append((index, step))
        return noisy

    Sampler("ddim", (2, 5, 9))(
        predict, NoiseSchedule("linear", 9), (1, 1, 1), torch.Generator(), torch.device("cpu")
    )
    assert visited == [(2, 9), (1, 5), (0, 2)]


def test_the_clip_bounds_the_clean_prediction() -> None:
    schedule = NoiseSchedule("linear", 100)

    def draw(clip: float) -> Tensor:
        return Sampler("ddim", (30, 100), 1.0, clip=clip)(
            lambda noisy, index, step: 50 * noisy,
            schedule,
            (1, 64, 1),
            torch.Generator().manual_seed(0),
            torch.device("cpu"),
        )

    assert float(draw(3.0).abs().max()) == 3.0
    assert float(draw(0.0).abs().max()) > 30.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "heun"}, "sampler='heun'"),
        ({"variance": "learned"}, "variance='learned'"),
        ({"eta": 1.5}, "eta=1.5"),
        ({"eta": -0.1}, "eta=-0.1"),
        ({"eta": math.nan}, "eta=nan"),
        ({"clip": -1.0}, "clip=-1.0"),
    ],
)
def test_senseless_samplers_are_refused_by_name(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(**{"kind": "ddim", "timesteps": (1, 2), **arguments})  # type: ignore[arg-type]
