"""Which timesteps stand for the evidence lower bound of a diffusion (Eq. 7 and 8), and with what weight.

    ELBO(y_0) = -sum_i W_i E |eps - eps_theta(y_ti, t_i, x)|^2 + constant,    i = 1..L

over the T steps of the schedule or the S steps of the sampler. ``simple`` takes ``W_i = 1/L`` (Ho et
al., 2020, Eq. 14). ``vlb`` takes the bound itself: with a step ``y_s = a y_0 + b y_t + c xi`` of the
sampler, the divergence of the forward posterior from the reverse step is, up to a constant,

    W_i = a^2 / (2 c^2) (1 - abar_t)/abar_t.

The last step has no noise; there W uses the variance that ``final_noise`` would give it,
``c^2 = 1 - abar_t`` as in Eq. 2 (times ``eta^2`` for ddim).

An estimate from k timesteps is ``-1/k sum_j W_ij / p_ij |eps - eps_theta|^2``, unbiased for any p that
is nowhere 0.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from diffusion_dfl.predictors.diffusion.sampler import Sampler
from diffusion_dfl.predictors.diffusion.schedule import NoiseSchedule
from diffusion_dfl.sizes import check_sizes

ElboSteps = Literal["schedule", "sampler"]
Weighting = Literal["simple", "vlb"]
TimestepScheme = Literal["uniform", "stratified", "importance", "stratified_importance"]

# Gradient norms are averaged in this many bins over the steps, and over training steps.
_NUM_BINS = 50
_HISTORY_DECAY = 0.9


class ElboDraw(NamedTuple):
    """k evaluations a scenario.

    Attributes:
        which: which of the L steps, ``(B, M, k)``.
        factor: ``W / (k p)`` of it, ``(B, M, k)``: what the squared error is multiplied by.
        epsilon: noise, ``(B, M, k, d_y)``.
    """

    which: Tensor
    factor: Tensor
    epsilon: Tensor


@dataclass(frozen=True)
class ElboSurrogate:
    """Which evaluations of the denoiser stand for the bound.

    Attributes:
        num_elbo_timesteps: k, timesteps a scenario in the score surrogate.
        elbo_steps: the steps they are drawn from: schedule (all T; with simple) or sampler (its own
            S; with vlb).
        elbo_weighting: of the squared errors: simple (cosine .97, length .14 of the true gradient)
            or vlb (the bound itself; .80, .98 with sampler).
        elbo_timesteps: how they are drawn: uniform, stratified, importance, stratified_importance.
            Uniform ones are independent; of stratified ones there is one in each k-th part of the
            steps, or of the mass of p. Importance has ``p_i`` proportional to the root mean square of
            past gradient norms at step i (section 5.2), uniform until every step has a history.
        elbo_mixing: share of the uniform distribution mixed into the importance distribution.
        antithetic: timesteps in pairs that share noise of opposite sign.
        common_noise: whether all scenarios of a context share timesteps and noise.

    Raises:
        ValueError: an unknown name, no timestep, or ``elbo_mixing`` outside [0, 1].
    """

    num_elbo_timesteps: int = 2
    elbo_steps: ElboSteps = "schedule"
    elbo_weighting: Weighting = "simple"
    elbo_timesteps: TimestepScheme = "stratified"
    elbo_mixing: float = 0.0
    antithetic: bool = True
    common_noise: bool = False

    def __post_init__(self) -> None:
        check_sizes(num_elbo_timesteps=self.num_elbo_timesteps)
        for name, names in (
            ("elbo_steps", ElboSteps),
            ("elbo_weighting", Weighting),
            ("elbo_timesteps", TimestepScheme),
        ):
            value, known = getattr(self, name), get_args(names)
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; choose {', '.join(known)}")
        if not 0 <= self.elbo_mixing <= 1:
            raise ValueError(f"elbo_mixing={self.elbo_mixing} must lie in [0, 1]")


class Elbo(nn.Module):
    """Draws timesteps and noise for the ELBO surrogate, and remembers gradient norms.

    Args:
        schedule: noise schedule.
        sampler: its steps and variances define ``elbo_steps=sampler`` and ``vlb`` weights.
        surrogate: which of them are drawn, and how.

    Raises:
        ValueError: k outside 1..L, or ``vlb`` with a deterministic sampler, whose steps have no
            density.
    """

    timesteps: Tensor
    weights: Tensor
    history: Tensor

    def __init__(
        self,
        schedule: NoiseSchedule,
        sampler: Sampler,
        surrogate: ElboSurrogate = ElboSurrogate(),
    ) -> None:
        super().__init__()
        self.surrogate, self.num_timesteps = surrogate, surrogate.num_elbo_timesteps
        sampling, limit = sampler.sampling, "num_sampling_steps"
        if surrogate.elbo_steps == "schedule":
            total, limit = schedule.num_steps, "num_diffusion_steps"
            sampling = replace(sampling, num_sampling_steps=total, spacing="uniform")
        count = sampling.num_sampling_steps
        if not 1 <= self.num_timesteps <= count:
            raise ValueError(
                f"num_elbo_timesteps={self.num_timesteps} must lie in 1..{limit}={count}"
            )
        vlb = surrogate.elbo_weighting == "vlb"
        if vlb and not sampling.stochastic:
            raise ValueError(
                "elbo_weighting=vlb needs a sampler with noise: the steps of a deterministic one "
                "have no density; use elbo_weighting=simple, sampler=ancestral or eta above 0"
            )
        chain = Sampler(schedule, replace(sampling, final_noise=sampling.stochastic))
        self.register_buffer("timesteps", torch.tensor(chain.timesteps), persistent=False)
        weights = torch.full((count,), 1.0 / count, dtype=torch.float64)
        if vlb:
            weights = _bound_weights(schedule, chain)
        self.register_buffer("weights", weights.float(), persistent=False)
        # Mean squared gradient norms a bin; 0 for no history. A buffer, so checkpoints hold it.
        self.register_buffer("history", torch.zeros(_NUM_BINS))

    @property
    def uses_history(self) -> bool:
        """Whether gradient norms are wanted."""
        return self.surrogate.elbo_timesteps in ("importance", "stratified_importance")

    def probabilities(self) -> Tensor:
        """``p`` ``(L,)``, the distribution of one timestep."""
        count = len(self.timesteps)
        uniform = torch.full_like(self.weights, 1.0 / count)
        if not self.uses_history:
            return uniform
        norms = self.history[self._bins()].sqrt()
        known = (norms > 0).all() & norms.isfinite().all()
        norms = torch.where(known, norms, torch.ones_like(norms))
        mixing = self.surrogate.elbo_mixing
        return (1.0 - mixing) * norms / norms.sum() + mixing * uniform

    def draw(self, batch: int, scenarios: int, size: int, generator: torch.Generator) -> ElboDraw:
        """Timesteps and noise of k evaluations a scenario, ``(B, M, k)`` and ``(B, M, k, d_y)``."""
        k, device = self.num_timesteps, self.timesteps.device
        shape = (batch, 1 if self.surrogate.common_noise else scenarios, k)
        place = torch.rand(shape, generator=generator, device=device)
        if self.surrogate.elbo_timesteps.startswith("stratified"):
            place = (torch.arange(k, device=device) + place) / k
        probabilities = self.probabilities()
        cumulative = probabilities.cumsum(0)
        last = len(self.timesteps) - 1
        place = place * cumulative[-1]
        index = torch.searchsorted(cumulative, place, right=True).clamp_max(last)
        epsilon = torch.randn((*shape, size), generator=generator, device=device)
        if self.surrogate.antithetic and k > 1:
            # Neighbours in time share noise: their errors are alike, so that most of it cancels.
            epsilon = epsilon[:, :, : (k + 1) // 2].repeat_interleave(2, dim=2)[:, :, :k]
            epsilon[:, :, 1::2].neg_()
        factor = (self.weights / (k * probabilities))[index]
        return ElboDraw(
            index.expand(batch, scenarios, k),
            factor.expand(batch, scenarios, k),
            epsilon.expand(batch, scenarios, k, size),
        )

    @torch.no_grad()
    def remember(self, draw: ElboDraw, squared_norms: Tensor) -> None:
        """Take squared gradient norms of the summands, ``(B, M, k)``, into the history."""
        # Of w W |eps - eps_theta|^2, without the 1/(k p) of how it was drawn.
        scale = (self.num_timesteps * self.probabilities())[draw.which].square()
        bins = self._bins()[draw.which].flatten()
        sums = torch.zeros_like(self.history)
        sums.index_add_(0, bins, (squared_norms * scale).flatten().to(sums.dtype))
        counts = torch.zeros_like(self.history)
        counts.index_add_(0, bins, torch.ones_like(bins, dtype=counts.dtype))
        mean = sums / counts.clamp_min(1.0)
        mixed = _HISTORY_DECAY * self.history + (1.0 - _HISTORY_DECAY) * mean
        updated = torch.where(self.history > 0, mixed, mean)
        self.history.copy_(torch.where(counts > 0, updated, self.history))

    def _bins(self) -> Tensor:
        """The history bin of every step, ``(L,)``."""
        count = len(self.timesteps)
        return torch.arange(count, device=self.timesteps.device) * _NUM_BINS // count


def _bound_weights(schedule: NoiseSchedule, sampler: Sampler) -> Tensor:
    """``a^2 / (2 c^2) (1 - abar_t)/abar_t`` of the sampler's steps, earliest timestep first."""
    curve = schedule.curve
    steps = reversed(sampler.steps)
    weights = [
        0.5 * (step.clean / step.noise) ** 2 * (1.0 - curve[t]) / curve[t]
        for step, t in zip(steps, sampler.timesteps, strict=True)
    ]
    return torch.tensor(weights, dtype=torch.float64)
