"""Noise schedules of length T and the timesteps a shorter sampler takes.

Step ``t`` runs from 1 to T; ``alpha_bar[t]`` is the share of signal variance left after t steps,
``alpha_bar[0] = 1``. The linear schedule is the one of Ho et al. (2020), beta from 1e-4 to 0.02 at
T = 1000; for another T its curve is resampled, so that the last step is noise for any T.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from diffusion_dfl.sizes import check_sizes

ScheduleName = Literal["linear", "cosine"]
Spacing = Literal["uniform", "quadratic", "log_snr"]

_REFERENCE_STEPS = 1000
_MAX_BETA = 0.999


class NoiseSchedule(nn.Module):
    """``q(y_t | y_0) = N(sqrt(alpha_bar_t) y_0, (1 - alpha_bar_t) I)``.

    Args:
        name: ``linear`` (Ho et al., 2020) or ``cosine`` (Nichol and Dhariwal, 2021, Eq. 17).
        num_steps: T.

    Attributes:
        alpha_bar: ``(T + 1,)``, float64.
        curve: the same as Python floats, so that coefficients of steps need no copy from a device.
    """

    alpha_bar: Tensor

    def __init__(self, name: ScheduleName, num_steps: int) -> None:
        super().__init__()
        check_sizes(num_steps=num_steps)
        curves = {"linear": _linear, "cosine": _cosine}
        if name not in curves:
            raise ValueError(f"schedule={name!r} is unknown; choose one of {sorted(curves)}")
        self.num_steps = num_steps
        curve = torch.cat([torch.ones(1, dtype=torch.float64), curves[name](num_steps)])
        # float64: steps are ratios of neighbours, and 1 - alpha_bar_1 is 1e-4.
        self.register_buffer("alpha_bar", curve, persistent=False)
        self.curve: tuple[float, ...] = tuple(curve.tolist())

    def signal(self, steps: Tensor) -> Tensor:
        """sqrt(alpha_bar_t), float32, of the shape of ``steps`` (integers in 0..T)."""
        return self.alpha_bar[steps].sqrt().float()

    def noise(self, steps: Tensor) -> Tensor:
        """sqrt(1 - alpha_bar_t), float32, of the shape of ``steps``."""
        return (1.0 - self.alpha_bar[steps]).sqrt().float()


def _linear(num_steps: int) -> Tensor:
    """alpha_bar_1..alpha_bar_T of the linear schedule, by its log-curve at T = 1000."""
    beta = torch.linspace(1e-4, 0.02, _REFERENCE_STEPS, dtype=torch.float64)
    log_curve = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-beta).cumsum(0)])
    place = torch.arange(1, num_steps + 1, dtype=torch.float64) * _REFERENCE_STEPS / num_steps
    below = place.floor().clamp_max(_REFERENCE_STEPS - 1).long()
    share = place - below
    return ((1 - share) * log_curve[below] + share * log_curve[below + 1]).exp()


def _cosine(num_steps: int) -> Tensor:
    """alpha_bar_t = f(t)/f(0), f(t) = cos^2((t/T + 0.008)/1.008 * pi/2), with beta <= 0.999."""
    place = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    curve = torch.cos((place + 0.008) / 1.008 * math.pi / 2) ** 2
    beta = (1 - curve[1:] / curve[:-1]).clamp_max(_MAX_BETA)
    return (1 - beta).cumprod(0)


def sampling_timesteps(
    schedule: NoiseSchedule, num_sampling_steps: int, spacing: Spacing
) -> list[int]:
    """The S timesteps a sampler visits, rising, the last one T.

    ``uniform``: ``round(T i / S)``; ``quadratic``: ``round(T (i / S)^2)``, denser near the data;
    ``log_snr``: where the log of the signal-to-noise ratio is nearest to S even parts of its range,
    the spacing DPM-Solver++ is derived for; for i = 1..S. Repeated steps are moved apart.

    Raises:
        ValueError: S outside 1..T, or an unknown spacing.
    """
    total, count = schedule.num_steps, num_sampling_steps
    if not 1 <= count <= total:
        raise ValueError(f"num_sampling_steps={count} must lie in 1..num_diffusion_steps={total}")
    powers = {"uniform": 1, "quadratic": 2}
    if spacing == "log_snr":
        wanted = _even_log_snr(schedule, count)
    elif spacing in powers:
        wanted = [round(total * (i / count) ** powers[spacing]) for i in range(1, count + 1)]
    else:
        raise ValueError(
            f"spacing={spacing!r} is unknown; choose one of {sorted([*powers, 'log_snr'])}"
        )
    steps: list[int] = []
    for i, step in enumerate(wanted):
        lowest = steps[-1] + 1 if steps else 1
        # Enough later timesteps must be left for the later steps.
        steps.append(min(max(step, lowest), total - (count - 1 - i)))
    return steps


def _even_log_snr(schedule: NoiseSchedule, count: int) -> list[int]:
    """Timesteps in 1..T nearest to even parts of log(abar/(1 - abar)), rising."""
    curve = schedule.alpha_bar[1:].double()
    ratio = torch.log(curve) - torch.log1p(-curve)
    parts = torch.linspace(0.0, 1.0, count, dtype=torch.float64) if count > 1 else torch.ones(1)
    wanted = ratio[0] + parts.to(ratio) * (ratio[-1] - ratio[0])
    return [int(step) for step in (ratio.unsqueeze(0) - wanted.unsqueeze(1)).abs().argmin(1) + 1]
