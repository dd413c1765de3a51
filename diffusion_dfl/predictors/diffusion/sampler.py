"""Reverse-process samplers; they hold no network.

A step goes from t to an earlier s. With ``x`` the clean outcome y_0 that the denoiser implies and the
noise ``eps = (y_t - sqrt(abar_t) x) / sqrt(1 - abar_t)``,

    ddim:        y_s = sqrt(abar_s) x + sqrt(1 - abar_s - sigma^2) eps + sigma xi,
                 sigma = eta sqrt((1 - abar_s)/(1 - abar_t)) sqrt(1 - abar_t/abar_s)
                 (Song et al., 2021, Eq. 12 and 16)
    ancestral:   the same mean as eta = 1, with sigma^2 = 1 - abar_t/abar_s (``beta``; Eq. 2) or the
                 posterior variance, which is ddim with eta = 1 (``posterior``; Ho et al., 2020)
    dpm_solver:  DPM-Solver++(2M) (Lu et al., 2022, Algorithm 2): second order in the log of the
                 signal-to-noise ratio, from the clean outcomes of two steps; no noise.

Every step is linear, ``y_s = a x + b y_t + c xi + d x_previous``, with coefficients that depend on
the schedule alone. The last step, to s = 0, returns x; ``final_noise`` adds noise of standard
deviation ``sqrt(1 - abar_t)`` (times eta), as Eq. 2 has it, so that the path has a density.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffusion_dfl.predictors.diffusion.schedule import (
    NoiseSchedule,
    Spacing,
    sampling_timesteps,
)
from diffusion_dfl.predictors.noise import scenario_noise
from diffusion_dfl.sizes import check_sizes

SamplerName = Literal["ddim", "ancestral", "dpm_solver"]
SAMPLERS: tuple[SamplerName, ...] = ("ddim", "ancestral", "dpm_solver")

#: ``(y_t (B, M, d_y), index of the step in the timesteps) -> y_0 (B, M, d_y)``.
CleanPrediction = Callable[[Tensor, int], Tensor]


class Step(NamedTuple):
    """One step: ``y_s = clean * x + keep * y_t + noise * xi + previous * x_previous``."""

    clean: float
    keep: float
    noise: float
    previous: float = 0.0


@dataclass(frozen=True)
class Sampling:
    """How outcomes are drawn.

    Attributes:
        num_sampling_steps: S <= T, steps the sampler takes.
        spacing: of the sampler's timesteps: uniform, quadratic (denser near the data), log_snr.
        sampler: ddim, ancestral or dpm_solver (DPM-Solver++(2M), no noise).
        eta: noise of ddim: 0 deterministic, 1 posterior variance.
        variance: of ancestral: posterior, beta (keeps unit variance in few steps).
        clip: largest standardised outcome inside the sampler; 0 for none.
        final_noise: whether the last step adds noise too; false for dpm_solver and eta=0.
        antithetic_scenarios: scenarios in pairs made of noise of opposite signs, so that their mean has
            hardly any of it.

    Raises:
        ValueError: an unknown name or a value out of range; the message names both.
    """

    num_sampling_steps: int = 10
    spacing: Spacing = "quadratic"
    sampler: SamplerName = "ddim"
    eta: float = 1.0
    variance: Literal["posterior", "beta"] = "posterior"
    clip: float = 5.0
    final_noise: bool = False
    antithetic_scenarios: bool = False

    def __post_init__(self) -> None:
        check_sizes(num_sampling_steps=self.num_sampling_steps)
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler={self.sampler!r} is unknown; choose {', '.join(SAMPLERS)}")
        if self.variance not in ("posterior", "beta"):
            raise ValueError(f"variance={self.variance!r} is unknown; choose posterior or beta")
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta={self.eta} must lie in [0, 1]")
        if not self.clip >= 0:
            raise ValueError(f"clip={self.clip} must be >= 0")
        if self.final_noise and not self.stochastic:
            raise ValueError(
                f"final_noise=true with sampler={self.sampler}, eta={self.eta}: a deterministic "
                "sampler has no noise to add; set final_noise=false with it"
            )

    @property
    def stochastic(self) -> bool:
        """Whether steps add noise."""
        return self.sampler == "ancestral" or (self.sampler == "ddim" and self.eta > 0)


class Sampler:
    """A stochastic or deterministic walk from noise to an outcome.

    Args:
        schedule: of the noise.
        sampling: which steps the walk takes.

    Attributes:
        timesteps: rising, t_1 < ... < t_S = T.
        steps: the S steps, last timestep first.

    Raises:
        ValueError: S outside 1..T, or an unknown spacing.
    """

    def __init__(self, schedule: NoiseSchedule, sampling: Sampling = Sampling()) -> None:
        self.sampling = sampling
        self.timesteps = sampling_timesteps(schedule, sampling.num_sampling_steps, sampling.spacing)
        curve = schedule.curve
        pairs = list(zip([0, *self.timesteps[:-1]], self.timesteps, strict=True))[::-1]
        bars = [(curve[s], curve[t]) for s, t in pairs]
        if sampling.sampler == "dpm_solver":
            self.steps = _dpm_solver(bars)
        else:
            self.steps = [_markov(sampling, *pair) for pair in bars]

    def walk(
        self,
        predict: CleanPrediction,
        shape: tuple[int, ...],
        generator: torch.Generator,
        device: torch.device,
    ) -> list[Tensor]:
        """States of one walk, ``[y_T, ..., y_0]`` of ``shape`` each, S + 1 of them.

        Differentiable if ``predict`` is and gradients are enabled.
        """
        states = [self._noise(shape, generator, device)]
        for step in self._steps(predict, states[0], generator):
            states.append(step)
        return states

    def __call__(
        self,
        predict: CleanPrediction,
        shape: tuple[int, ...],
        generator: torch.Generator,
        device: torch.device,
    ) -> Tensor:
        """Draw ``shape`` outcomes: the end of :meth:`walk`, its other states dropped."""
        current = self._noise(shape, generator, device)
        for step in self._steps(predict, current, generator):
            current = step
        return current

    def _steps(self, predict, current, generator):  # type: ignore[no-untyped-def]
        last = len(self.timesteps) - 1
        previous: Tensor | None = None
        for i, step in enumerate(self.steps):
            clean = self.bound(predict(current, last - i))
            # In place: large tensors, whose fresh memory costs more than the sums.
            following = (step.keep * current).add_(clean, alpha=step.clean)
            if step.previous and previous is not None:
                following.add_(previous, alpha=step.previous)
            if step.noise:
                noise = self._noise(current.shape, generator, current.device, current.dtype)
                following.add_(noise, alpha=step.noise)
            previous, current = clean, following
            yield current

    def _noise(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        antithetic = self.sampling.antithetic_scenarios
        return scenario_noise(shape, generator, device, dtype, antithetic)

    def bound(self, clean: Tensor) -> Tensor:
        """``clean`` within +-clip."""
        clip = self.sampling.clip
        return clean.clamp(-clip, clip) if clip else clean


def _markov(sampling: Sampling, bar_s: float, bar_t: float) -> Step:
    """A step of ``ddim`` or ``ancestral`` from alpha_bar_t to alpha_bar_s."""
    beta = 1.0 - bar_t / bar_s
    posterior = beta * (1.0 - bar_s) / (1.0 - bar_t)
    share = 1.0 if sampling.sampler == "ancestral" else sampling.eta**2
    keep = math.sqrt(max(1.0 - bar_s - share * posterior, 0.0) / (1.0 - bar_t))
    variance = share * posterior
    if bar_s == 1.0:
        variance = share * beta if sampling.final_noise else 0.0
    elif sampling.sampler == "ancestral" and sampling.variance == "beta":
        variance = beta
    return Step(math.sqrt(bar_s) - keep * math.sqrt(bar_t), keep, math.sqrt(variance))


def _dpm_solver(pairs: list[tuple[float, float]]) -> list[Step]:
    """Coefficients of DPM-Solver++(2M) for pairs (alpha_bar_s, alpha_bar_t), last timestep first.

    With lambda = log(sqrt(abar)/sqrt(1 - abar)), h = lambda_s - lambda_t and r = h_before/h,
    ``y_s = (sigma_s/sigma_t) y_t - sqrt(abar_s) (e^-h - 1) ((1 + 1/2r) x - 1/2r x_previous)``.
    The first step has no x_previous, and the last, with h infinite, returns x: both first order.
    """
    steps: list[Step] = []
    before = 0.0
    for bar_s, bar_t in pairs:
        if bar_s == 1.0:
            steps.append(Step(1.0, 0.0, 0.0))
            break
        length = _log_snr(bar_s) - _log_snr(bar_t)
        keep = math.sqrt((1.0 - bar_s) / (1.0 - bar_t))
        scale = -math.sqrt(bar_s) * math.expm1(-length)
        correction = 0.5 * length / before if steps else 0.0
        steps.append(Step(scale * (1.0 + correction), keep, 0.0, -scale * correction))
        before = length
    return steps


def _log_snr(bar: float) -> float:
    return 0.5 * math.log(bar / (1.0 - bar))
