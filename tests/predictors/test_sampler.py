"""The sampler on a known Gaussian: its moments follow the published update rules.

For data N(m, v) the exact denoiser is affine, so every step is, and the mean and variance of the
samples follow a recursion. The recursions here are written from the papers' own formulas (Ho et
al., 2020, Eq. 6 and 7; Song et al., 2021, Eq. 12 and 16), not from the code's coefficients.
"""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_dfl.predictors.diffusion import NoiseSchedule, Sampler, Sampling
from diffusion_dfl.predictors.diffusion.sampler import CleanPrediction, SamplerName
from diffusion_dfl.predictors.diffusion.schedule import ScheduleName, Spacing

MEAN = torch.tensor([1.5, -0.7], dtype=torch.float64)
VARIANCE = torch.tensor([0.3, 2.0], dtype=torch.float64)
DRAWS = 100_000
CPU = torch.device("cpu")

#: (kind, eta, variance)
SAMPLERS = [
    ("ddim", 0.0, "posterior"),
    ("ddim", 0.5, "posterior"),
    ("ddim", 1.0, "posterior"),
    ("ancestral", 1.0, "posterior"),
    ("ancestral", 1.0, "beta"),
]
#: The same, with and without noise in the last step where there is a choice.
ENDS = [(*kind, False) for kind in SAMPLERS] + [(*kind, True) for kind in SAMPLERS[1:]]


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
    schedule: NoiseSchedule,
    timesteps: list[int],
    kind: str,
    eta: float,
    variance: str,
    final_noise: bool = False,
) -> list[tuple[int, float, float, float]]:
    """``(t, factor of y_0, of y_t, of noise)``, first step of the walk first."""
    curve = schedule.alpha_bar.tolist()
    steps = []
    for s, t in reversed(list(itertools.pairwise([0, *timesteps]))):
        if kind == "ddim":
            step = _ddim_step(curve[t], curve[s], eta)
        else:
            step = _ddpm_step(curve[t], curve[s], variance)
        if s == 0 and final_noise:
            # Eq. 2's sigma^2 = beta of this step; there is no posterior variance at s = 0.
            step = (*step[:2], (eta if kind == "ddim" else 1.0) * math.sqrt(1 - curve[t]))
        steps.append((t, *step))
    return steps


def _moments(
    schedule: NoiseSchedule, steps: list[tuple[int, float, float, float]]
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the samples with the exact denoiser of N(MEAN, VARIANCE)."""
    mean, variance = torch.zeros_like(MEAN), torch.ones_like(MEAN)
    for t, from_clean, from_noisy, noise in steps:
        bar = float(schedule.alpha_bar[t])
        gain = math.sqrt(bar) * VARIANCE / (bar * VARIANCE + 1 - bar)
        offset = MEAN - gain * math.sqrt(bar) * MEAN
        slope = from_clean * gain + from_noisy
        mean = slope * mean + from_clean * offset
        variance = slope**2 * variance + noise**2
    return mean, variance


def _denoiser(schedule: NoiseSchedule, timesteps: list[int]) -> CleanPrediction:
    def predict(noisy: Tensor, index: int) -> Tensor:
        bar = float(schedule.alpha_bar[timesteps[index]])
        gain = math.sqrt(bar) * VARIANCE / (bar * VARIANCE + 1 - bar)
        return MEAN.float() + gain.float() * (noisy - (math.sqrt(bar) * MEAN).float())

    return predict


def _sampler(schedule: NoiseSchedule, count: int, spacing: Spacing, *knobs: Any) -> Sampler:
    """Without a clip; knobs are sampler, eta, variance and final_noise."""
    kind, eta, variance, *last = knobs
    sampling = Sampling(count, spacing, kind, eta, variance, 0.0, *last)
    return Sampler(schedule, sampling)


def _draw(sampler: Sampler, schedule: NoiseSchedule, draws: int = DRAWS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    predict = _denoiser(schedule, sampler.timesteps)
    return sampler(predict, (1, draws, 2), generator, CPU)[0].double()


@pytest.mark.parametrize(("kind", "eta", "variance", "final_noise"), ENDS)
@pytest.mark.parametrize(
    ("count", "spacing"),
    [(1000, "uniform"), (10, "quadratic"), (10, "log_snr"), (1, "uniform")],
)
def test_coefficients_are_the_published_ones(
    kind: SamplerName, eta: float, variance: str, final_noise: bool, count: int, spacing: Spacing
) -> None:
    schedule = NoiseSchedule("linear", 1000)
    sampler = _sampler(schedule, count, spacing, kind, eta, variance, final_noise)
    expected = _steps(schedule, sampler.timesteps, kind, eta, variance, final_noise)
    torch.testing.assert_close(
        torch.tensor(sampler.steps, dtype=torch.float64),
        torch.tensor([(*step[1:], 0.0) for step in expected], dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize(("kind", "eta", "variance", "final_noise"), ENDS)
@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "log_snr"])
def test_sample_moments_follow_the_recursion(
    kind: SamplerName, eta: float, variance: str, final_noise: bool, spacing: Spacing
) -> None:
    schedule = NoiseSchedule("linear", 1000)
    sampler = _sampler(schedule, 6, spacing, kind, eta, variance, final_noise)
    steps = _steps(schedule, sampler.timesteps, kind, eta, variance, final_noise)
    mean, spread = _moments(schedule, steps)
    draws = _draw(sampler, schedule)
    error = (spread / DRAWS).sqrt()
    assert bool(((draws.mean(0) - mean).abs() < 4 * error).all())
    # The samples are Gaussian: the standard error of a variance is v sqrt(2/N).
    assert bool(((draws.var(0) - spread).abs() < 4 * spread * math.sqrt(2 / DRAWS)).all())


@pytest.mark.parametrize(
    ("kind", "eta", "variance", "final_noise", "golden"),
    [
        ("ddim", 0.0, "posterior", False, 61.903708),
        ("ddim", 0.5, "posterior", False, 54.882044),
        ("ddim", 1.0, "posterior", False, 54.757058),
        ("ddim", 1.0, "posterior", True, 53.281837),
        ("ancestral", 1.0, "posterior", False, 54.757058),
        ("ancestral", 1.0, "beta", False, 64.182707),
        ("ancestral", 1.0, "beta", True, 62.856875),
        ("dpm_solver", 0.0, "posterior", False, 66.946843),
    ],
)
def test_golden_sums_of_the_full_loop(
    kind: SamplerName, eta: float, variance: str, final_noise: bool, golden: float
) -> None:
    """Sum of absolute outcomes of the whole loop, a fixed denoiser and a fixed seed.

    The numbers were written down when every coefficient had been checked against the papers: they
    notice a change of the order in which noise is drawn, which the moments above cannot.
    """
    schedule = NoiseSchedule("linear", 1000)
    sampling = Sampling(10, "uniform", kind, eta, variance, 3.0, final_noise)  # type: ignore[arg-type]

    def predict(noisy: Tensor, index: int) -> Tensor:
        return noisy * (1.0 - index / 20) + 0.1 * noisy.sin()

    generator = torch.Generator().manual_seed(0)
    draws = Sampler(schedule, sampling)(predict, (2, 8, 3), generator, CPU)
    assert float(draws.double().abs().sum()) == pytest.approx(golden, rel=1e-5)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(data=st.data())
def test_every_sampler_is_finite_for_every_count_of_steps(data: st.DataObject) -> None:
    total = data.draw(st.sampled_from([1, 2, 5, 50, 120]))
    count = data.draw(st.one_of(st.just(total), st.integers(1, total)))
    name: ScheduleName = data.draw(st.sampled_from(["linear", "cosine"]))
    spacing: Spacing = data.draw(st.sampled_from(["uniform", "quadratic", "log_snr"]))
    schedule = NoiseSchedule(name, total)
    for knobs in [*ENDS, ("dpm_solver", 1.0, "posterior", False)]:
        sampler = _sampler(schedule, count, spacing, *knobs)
        coefficients = torch.tensor(sampler.steps, dtype=torch.float64)
        assert coefficients.shape == (count, 4)
        assert bool(coefficients.isfinite().all())
        assert bool((coefficients[:, 2] >= 0).all())
        draws = _draw(sampler, schedule, 64)
        assert bool(draws.isfinite().all())
        assert float(draws.abs().max()) < 20


def test_ddim_with_eta_one_is_ancestral_sampling_with_the_posterior_variance() -> None:
    schedule = NoiseSchedule("cosine", 100)
    ddim = _sampler(schedule, 7, "uniform", "ddim", 1.0, "posterior")
    ancestral = _sampler(schedule, 7, "uniform", "ancestral", 0.3, "posterior")
    torch.testing.assert_close(
        _draw(ddim, schedule, 50), _draw(ancestral, schedule, 50), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("kind", "eta", "variance", "final_noise"), ENDS)
def test_the_full_schedule_recovers_the_data(
    kind: SamplerName, eta: float, variance: str, final_noise: bool
) -> None:
    schedule = NoiseSchedule("linear", 1000)
    sampler = _sampler(schedule, 1000, "uniform", kind, eta, variance, final_noise)
    assert sampler.timesteps == list(range(1, 1001))
    steps = [
        (t, *step[:3]) for t, step in zip(reversed(sampler.timesteps), sampler.steps, strict=True)
    ]
    mean, spread = _moments(schedule, steps)
    # What is left of the data's mean at T is abar_T^(1/2) = 0.6 % of it.
    torch.testing.assert_close(mean, MEAN, rtol=1e-2, atol=0)
    torch.testing.assert_close(spread, VARIANCE, rtol=2e-2, atol=0)


@pytest.mark.parametrize(("kind", "eta", "variance"), [*SAMPLERS, ("dpm_solver", 0.0, "posterior")])
def test_the_last_step_returns_the_clean_prediction_without_noise(
    kind: SamplerName, eta: float, variance: str
) -> None:
    schedule = NoiseSchedule("linear", 50)
    sampler = _sampler(schedule, 3, "quadratic", kind, eta, variance)
    assert sampler.steps[-1] == pytest.approx((1.0, 0.0, 0.0, 0.0), abs=1e-12)
    constant = torch.tensor([2.0, -3.0]).expand(1, 9, 2)
    draws = sampler(lambda noisy, index: constant, (1, 9, 2), torch.Generator(), CPU)
    torch.testing.assert_close(draws, constant)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_noise_of_the_last_step_is_that_of_equation_2(name: ScheduleName) -> None:
    schedule = NoiseSchedule(name, 100)
    for kind, eta in (("ddim", 1.0), ("ddim", 0.25), ("ancestral", 1.0)):
        for variance in ("posterior", "beta"):
            sampler = _sampler(schedule, 3, "quadratic", kind, eta, variance, True)
            bar = schedule.curve[sampler.timesteps[0]]
            assert sampler.steps[-1].noise == pytest.approx(eta * math.sqrt(1 - bar), rel=1e-12)


def test_the_walk_visits_its_timesteps_backwards() -> None:
    visited = []

    def predict(noisy: Tensor, index: int) -> Tensor:
        visited.append(index)
        return noisy

    sampler = Sampler(NoiseSchedule("linear", 9), Sampling(3))
    sampler(predict, (1, 1, 1), torch.Generator(), CPU)
    assert visited == [2, 1, 0]


@pytest.mark.parametrize("kind", ["ddim", "ancestral", "dpm_solver"])
def test_a_walk_keeps_the_states_of_the_draw_from_the_same_noise(kind: SamplerName) -> None:
    schedule = NoiseSchedule("linear", 9)
    sampler = Sampler(schedule, Sampling(3, sampler=kind))
    arguments = (_denoiser(schedule, sampler.timesteps), (2, 4, 2))
    walk = sampler.walk(*arguments, torch.Generator().manual_seed(3), CPU)
    assert len(walk) == 4
    assert torch.equal(walk[0], torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(walk[-1], sampler(*arguments, torch.Generator().manual_seed(3), CPU))


def test_the_clip_bounds_the_clean_prediction() -> None:
    schedule = NoiseSchedule("linear", 100)

    def draw(clip: float) -> Tensor:
        sampler = Sampler(schedule, Sampling(2, clip=clip))
        generator = torch.Generator().manual_seed(0)
        return sampler(lambda noisy, index: 50 * noisy, (1, 64, 1), generator, CPU)

    assert float(draw(3.0).abs().max()) == 3.0
    assert float(draw(0.0).abs().max()) > 30.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "heun"}, "sampler='heun'"),
        ({"variance": "learned"}, "variance='learned'"),
        ({"eta": 1.5}, "eta=1.5"),
        ({"eta": -0.1}, "eta=-0.1"),
        ({"eta": math.nan}, "eta=nan"),
        ({"clip": -1.0}, "clip=-1.0"),
        ({"clip": math.nan}, "clip=nan"),
        ({"eta": 0.0, "final_noise": True}, "final_noise=true with sampler=ddim, eta=0.0"),
        (
            {"sampler": "dpm_solver", "final_noise": True},
            "final_noise=true with sampler=dpm_solver",
        ),
    ],
)
def test_senseless_samplers_are_refused_by_name(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**arguments)  # type: ignore[arg-type]
