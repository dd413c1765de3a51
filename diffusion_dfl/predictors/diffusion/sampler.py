"""Reverse-process samplers; they hold no network (Eq. 2; Song et al., 2021, DDIM, Eq. 12 and 16).

A step goes from t to an earlier s. With the clean outcome y_0 that the denoiser implies and the
noise ``eps = (y_t - sqrt(abar_t) y_0) / sqrt(1 - abar_t)``,

    DDIM:       y_s = sqrt(abar_s) y_0 + sqrt(1 - abar_s - sigma^2) eps + sigma xi,
                sigma = eta sqrt((1 - abar_s)/(1 - abar_t)) sqrt(1 - abar_t/abar_s)
    ancestral:  the same mean as eta = 1, with sigma^2 = 1 - abar_t/abar_s (``beta``)
                or the posterior variance, which is eta = 1 (``posterior``).

The last step, to s = 0, adds no noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffusion_dfl.predictors.diffusion.schedule import NoiseSchedule

#: ``(y_t (B, M, d_y), step index i, t) -> y_0 (B, M, d_y)``.
CleanPrediction = Callable[[Tensor, int, int], Tensor]


@dataclass(frozen=True)
class Sampler:
    """A stochastic or deterministic walk from noise to an outcome.

    Attributes:
        kind: ``ddim`` or ``ancestral``.
        timesteps: rising timesteps t_1 < ... < t_S = T.
        eta: for ``ddim``, 0 is deterministic, 1 has the posterior variance.
        variance: for ``ancestral``, ``posterior`` or ``beta``.
        clip: largest absolute value of y_0, in the predictor's units; 0 for none.
    """

    kind: Literal["ddim", "ancestral"]
    timesteps: tuple[int, ...]
    eta: float = 1.0
    variance: Literal["posterior", "beta"] = "posterior"
    clip: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("ddim", "ancestral"):
            raise ValueError(f"sampler={self.kind!r} is unknown; choose ddim or ancestral")
        if self.variance not in ("posterior", "beta"):
            raise ValueError(f"variance={self.variance!r} is unknown; choose posterior or beta")
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta={self.eta} must lie in [0, 1]")
        if self.clip < 0:
            raise ValueError(f"clip={self.clip} must be >= 0")

    def coefficients(self, schedule: NoiseSchedule) -> list[tuple[float, float, float]]:
        """``(a, b, c)`` of every step, last timestep first: ``y_s = a y_0 + b y_t + c xi``."""
        result = []
        curve = schedule.alpha_bar.double().tolist()
        for earlier, later in zip((0, *self.timesteps[:-1]), self.timesteps, strict=True):
            bar_s, bar_t = curve[earlier], curve[later]
            beta = 1.0 - bar_t / bar_s
            posterior = beta * (1.0 - bar_s) / (1.0 - bar_t)
            share = 1.0 if self.kind == "ancestral" else self.eta**2
            keep = max(1.0 - bar_s - share * posterior, 0.0) ** 0.5 / (1.0 - bar_t) ** 0.5
            variance = (
                beta if self.kind == "ancestral" and self.variance == "beta" else share * posterior
            )
            noise = variance**0.5 if earlier > 0 else 0.0
            result.append((bar_s**0.5 - keep * bar_t**0.5, keep, noise))
        return result[::-1]

    def __call__(
        self,
        predict: CleanPrediction,
        schedule: NoiseSchedule,
        shape: tuple[int, ...],
        generator: torch.Generator,
        device: torch.device,
    ) -> Tensor:
        """Draw ``shape`` outcomes; differentiable if ``predict`` is and gradients are enabled."""
        current = torch.randn(shape, generator=generator, device=device)
        last = len(self.timesteps) - 1
        for i, (a, b, c) in enumerate(self.coefficients(schedule)):
            clean = predict(current, last - i, self.timesteps[last - i])
            if self.clip:
                clean = clean.clamp(-self.clip, self.clip)
            current = a * clean + b * current
            if c:
                current = current + c * torch.randn(shape, generator=generator, device=device)
        return current
