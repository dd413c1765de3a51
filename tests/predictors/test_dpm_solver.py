"""DPM-Solver++(2M) against the probability-flow equation, which Gaussian data solve on paper.

For data N(m, v) the flow moves ``(y_t - sqrt(abar_t) m) / sqrt(abar_t v + 1 - abar_t)`` nowhere.
Steps are followed in float64, from their coefficients, down to the first timestep: the step from
there to 0 has an infinite log-ratio and returns the clean prediction, whatever the order.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from diffusion_dfl.predictors.diffusion import NoiseSchedule, Sampler, Sampling
from diffusion_dfl.predictors.diffusion.sampler import SamplerName
from diffusion_dfl.predictors.diffusion.schedule import ScheduleName, Spacing

MEAN, VARIANCE, START = 1.5, 0.3, 0.8


def _clean(bar: float, noisy: float) -> float:
    gain = math.sqrt(bar) * VARIANCE / (bar * VARIANCE + 1 - bar)
    return MEAN + gain * (noisy - math.sqrt(bar) * MEAN)


def _flow(bar_t: float, bar_s: float, noisy: float) -> float:
    """The exact state at s of the flow that is at ``noisy`` at t."""
    scale = math.sqrt((bar_s * VARIANCE + 1 - bar_s) / (bar_t * VARIANCE + 1 - bar_t))
    return math.sqrt(bar_s) * MEAN + scale * (noisy - math.sqrt(bar_t) * MEAN)


def _error(kind: SamplerName, schedule: NoiseSchedule, count: int) -> float:
    """Distance to the flow at the first timestep, after ``count`` steps from T."""
    sampler = Sampler(schedule, Sampling(count + 1, "log_snr", kind, eta=0.0))
    state, previous = START, 0.0
    for t, step in zip(reversed(sampler.timesteps), sampler.steps[:-1], strict=False):
        clean = _clean(schedule.curve[t], state)
        state = step.clean * clean + step.keep * state + step.previous * previous
        previous = clean
    return abs(state - _flow(schedule.curve[-1], schedule.curve[sampler.timesteps[0]], START))


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    """So long that timesteps lie where log-ratios are even, to a small rounding."""
    return NoiseSchedule("linear", 100_000)


def test_the_error_falls_by_four_when_the_steps_double(schedule: NoiseSchedule) -> None:
    errors = [_error("dpm_solver", schedule, count) for count in (25, 50, 100)]
    for coarse, fine in itertools.pairwise(errors):
        assert 3.3 < coarse / fine < 4.7


def test_ddim_without_noise_is_of_first_order_and_meets_the_same_flow(
    schedule: NoiseSchedule,
) -> None:
    errors = [_error("ddim", schedule, count) for count in (25, 50, 100)]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.3
    assert _error("dpm_solver", schedule, 100) < 0.1 * errors[-1]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_its_first_step_is_that_of_ddim_without_noise(name: ScheduleName) -> None:
    """At first order both integrate the same exponential exactly (Lu et al., 2022, section 4)."""
    schedule = NoiseSchedule(name, 100)
    solver = Sampler(schedule, Sampling(3, sampler="dpm_solver")).steps[0]
    ddim = Sampler(schedule, Sampling(3, eta=0.0)).steps[0]
    assert solver == pytest.approx(ddim, rel=1e-9)


def test_a_constant_clean_prediction_is_met_exactly_by_every_step() -> None:
    """With x constant the flow is ``sqrt(abar_s) x + sigma_s eps``; the correction cancels."""
    schedule, clean, noise = NoiseSchedule("linear", 100), 1.7, -0.6
    sampler = Sampler(schedule, Sampling(5, sampler="dpm_solver"))
    bars = [schedule.curve[t] for t in sampler.timesteps]
    states = [math.sqrt(bar) * clean + math.sqrt(1 - bar) * noise for bar in bars]
    for i, step in enumerate(sampler.steps[:-1]):
        found = (step.clean + step.previous) * clean + step.keep * states[-1 - i]
        assert found == pytest.approx(states[-2 - i], rel=1e-12)


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "log_snr"])
def test_the_whole_walk_follows_its_own_recursion(spacing: Spacing) -> None:
    """The network's calls and the two-step memory of the walk, against the coefficients."""
    schedule = NoiseSchedule("linear", 1000)
    sampler = Sampler(schedule, Sampling(8, spacing, "dpm_solver", clip=0.0))
    steps = sampler.timesteps

    def predict(noisy: Tensor, index: int) -> Tensor:
        bar = schedule.curve[steps[index]]
        gain = math.sqrt(bar) * VARIANCE / (bar * VARIANCE + 1 - bar)
        return MEAN + gain * (noisy - math.sqrt(bar) * MEAN)

    start = torch.randn(1, 5, 1, generator=torch.Generator().manual_seed(2))
    draws = sampler(predict, (1, 5, 1), torch.Generator().manual_seed(2), torch.device("cpu"))
    for value, first in zip(draws.flatten().tolist(), start.flatten().tolist(), strict=True):
        state, previous = first, 0.0
        for t, step in zip(reversed(steps), sampler.steps, strict=True):
            clean = _clean(schedule.curve[t], state)
            state, previous = (
                step.clean * clean + step.keep * state + step.previous * previous,
                clean,
            )
        assert value == pytest.approx(state, rel=1e-5, abs=1e-5)
