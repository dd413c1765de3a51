"""Conditional diffusion predictor (section 3.2) with the ELBO surrogate of its score (Eq. 7, 8)."""

from typing import Literal

import torch
from torch import Tensor

from diffusion_dfl.predictors.base import Predictor
from diffusion_dfl.predictors.diffusion.denoiser import (
    Denoiser,
    Prediction,
    epsilon_error_scale,
    to_clean,
    to_target,
)
from diffusion_dfl.predictors.diffusion.sampler import Sampler
from diffusion_dfl.predictors.diffusion.schedule import (
    NoiseSchedule,
    ScheduleName,
    Spacing,
    sampling_timesteps,
)
from diffusion_dfl.predictors.gaussian import GaussianPredictor


class DiffusionPredictor(Predictor):
    """``P_theta(y | x)`` by a reverse diffusion on standardised outcomes.

    With ``outcome_scaling="residual"`` outcomes are standardised by the mean and standard deviation
    that a Gaussian model predicts for their context, not by those of the training days: the Gaussian
    (``base``) is fitted first and then fixed, and the diffusion learns the shape of its residuals.

    Args:
        context_size: d_x.
        outcome_size: d_y.
        width: units a hidden layer of the denoiser.
        layers: hidden layers.
        dropout: share of hidden units dropped in training.
        num_diffusion_steps: T, length of the noise schedule.
        num_sampling_steps: S <= T, steps the sampler takes.
        schedule: ``linear`` or ``cosine``.
        spacing: of the sampler's timesteps, ``uniform`` or ``quadratic``.
        prediction: what the network outputs, ``epsilon``, ``x0`` or ``v``.
        sampler: ``ddim`` or ``ancestral``.
        eta: noise of ``ddim``, 0 to 1.
        variance: of ``ancestral``, ``posterior`` or ``beta``.
        clip: largest standardised outcome of the sampler; 0 for none.
        num_elbo_timesteps: k, timesteps a scenario in :meth:`weighted_log_density`.
        elbo_timesteps: ``stratified`` (one in each k-th part of the schedule) or ``uniform``.
        antithetic: whether timesteps come in pairs that share noise of opposite sign.
        outcome_scaling: ``global`` or ``residual``.
        base_dropout: dropout of the Gaussian base of ``residual``, of the same width and depth.
    """

    def __init__(
        self,
        context_size: int,
        outcome_size: int,
        width: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        num_diffusion_steps: int = 1000,
        num_sampling_steps: int = 10,
        schedule: ScheduleName = "linear",
        spacing: Spacing = "quadratic",
        prediction: Prediction = "epsilon",
        sampler: Literal["ddim", "ancestral"] = "ddim",
        eta: float = 1.0,
        variance: Literal["posterior", "beta"] = "posterior",
        clip: float = 5.0,
        num_elbo_timesteps: int = 2,
        elbo_timesteps: Literal["stratified", "uniform"] = "stratified",
        antithetic: bool = True,
        outcome_scaling: Literal["global", "residual"] = "global",
        base_dropout: float = 0.1,
    ) -> None:
        super().__init__(context_size, outcome_size)
        if prediction not in ("epsilon", "x0", "v"):
            raise ValueError(f"prediction={prediction!r} is unknown; choose epsilon, x0 or v")
        if elbo_timesteps not in ("stratified", "uniform"):
            raise ValueError(
                f"elbo_timesteps={elbo_timesteps!r} is unknown; choose stratified or uniform"
            )
        if outcome_scaling not in ("global", "residual"):
            raise ValueError(
                f"outcome_scaling={outcome_scaling!r} is unknown; choose global or residual"
            )
        if not 1 <= num_elbo_timesteps <= num_diffusion_steps:
            raise ValueError(
                f"num_elbo_timesteps={num_elbo_timesteps} must lie in "
                f"1..num_diffusion_steps={num_diffusion_steps}"
            )
        self.schedule = NoiseSchedule(schedule, num_diffusion_steps)
        self.denoiser = Denoiser(
            context_size, outcome_size, width, layers, dropout, num_diffusion_steps
        )
        self.prediction: Prediction = prediction
        steps = sampling_timesteps(num_diffusion_steps, num_sampling_steps, spacing)
        self.sampler = Sampler(sampler, tuple(steps), eta, variance, clip)
        self.num_elbo_timesteps = num_elbo_timesteps
        self.elbo_timesteps = elbo_timesteps
        self.antithetic = antithetic
        self.base: GaussianPredictor | None = None
        if outcome_scaling == "residual":
            self.base = GaussianPredictor(context_size, outcome_size, width, layers, base_dropout)
            self.base.requires_grad_(False)

    def fit_scaling(self, contexts: Tensor, outcomes: Tensor) -> None:
        super().fit_scaling(contexts, outcomes)
        if self.base is not None:
            self.base.fit_scaling(contexts, outcomes)

    def foundation(self) -> GaussianPredictor | None:
        """The Gaussian that standardises the outcomes of ``residual`` scaling."""
        return self.base

    def train(self, mode: bool = True) -> "DiffusionPredictor":
        """Training mode of the denoiser; the fixed base stays in evaluation mode."""
        super().train(mode)
        if self.base is not None:
            self.base.eval()
        return self

    def _location_and_scale(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """What outcomes are standardised with, raw units, ``(B, d_y)`` or ``(d_y,)`` each."""
        if self.base is None:
            return self.outcomes.mean, self.outcomes.scale
        with torch.no_grad():
            mean, log_variance = self.base.moments(context)
            return self.outcomes.inverse(mean), self.outcomes.scale * (0.5 * log_variance).exp()

    def loss(self, context: Tensor, outcome: Tensor, generator: torch.Generator) -> Tensor:
        """Denoising mean squared error, one timestep a row, stratified over the batch."""
        location, scale = self._location_and_scale(context)
        clean = (outcome.to(scale.dtype) - location) / scale
        rows, total = len(clean), self.schedule.num_steps
        jitter = torch.rand(rows, generator=generator, device=clean.device)
        strata = torch.randperm(rows, generator=generator, device=clean.device)
        steps = ((strata + jitter) * (total / rows)).long().clamp_max(total - 1) + 1
        epsilon = torch.randn(clean.shape, generator=generator, device=clean.device)
        features = self.denoiser.context_features(self.contexts(context))
        error, _, _ = self._output_error(clean, features, steps, epsilon)
        return error.square().mean()

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
    ) -> Tensor:
        """Run the reverse process from noise: ``(B, M, d_y)``, raw units."""
        with torch.set_grad_enabled(differentiable):
            features = self.denoiser.context_features(self.contexts(context)).unsqueeze(1)
            steps = torch.tensor(self.sampler.timesteps, device=context.device)
            times = self.denoiser.time_features(steps)
            signal, noise = self.schedule.signal(steps), self.schedule.noise(steps)

            def predict(noisy: Tensor, index: int, step: int) -> Tensor:
                output = self.denoiser(noisy, times[index], features)
                return to_clean(self.prediction, output, noisy, signal[index], noise[index])

            shape = (len(context), num_scenarios, self.outcome_size)
            values = self.sampler(predict, self.schedule, shape, generator, context.device)
            location, scale = self._location_and_scale(context)
            if location.dim() == 2:
                location, scale = location.unsqueeze(1), scale.unsqueeze(1)
            return location + scale * values

    def weighted_log_density(
        self, context: Tensor, scenarios: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        """``sum_bm weights_bm ELBO(y_bm)`` with the simplified ELBO of section 5.1.

        ``ELBO(y_0) = -mean_t |eps - eps_theta(y_t, t, x)|^2`` over k timesteps a scenario: an
        unbiased estimate of the mean over the whole schedule for either choice of timesteps.
        """
        k = self.num_elbo_timesteps
        location, scale = self._location_and_scale(context)
        if location.dim() == 2:
            location, scale = location.unsqueeze(1), scale.unsqueeze(1)
        clean = (scenarios.to(scale.dtype) - location) / scale
        clean = clean.unsqueeze(2).expand(-1, -1, k, -1)
        steps = self._elbo_steps(scenarios.shape[:2], generator, scenarios.device)
        epsilon = torch.randn(clean.shape, generator=generator, device=clean.device)
        if self.antithetic:
            pairs = k // 2
            epsilon = torch.cat([epsilon[:, :, : k - pairs], -epsilon[:, :, :pairs]], dim=2)
        features = self.denoiser.context_features(self.contexts(context))[:, None, None]
        error, signal, noise = self._output_error(clean, features, steps, epsilon)
        factor = epsilon_error_scale(self.prediction, signal, noise)
        elbo = -(factor * error).square().sum(-1).mean(-1)
        return (weights.to(elbo.dtype) * elbo).sum()

    def _elbo_steps(
        self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """k timesteps in 1..T a scenario, each uniform on the schedule when taken together."""
        k, total = self.num_elbo_timesteps, self.schedule.num_steps
        draws = torch.rand(*shape, k, generator=generator, device=device)
        if self.elbo_timesteps == "stratified":
            draws = (torch.arange(k, device=device) + draws) / k
        return (draws * total).long().clamp_max(total - 1) + 1

    def _output_error(
        self, clean: Tensor, features: Tensor, steps: Tensor, epsilon: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Error of the network's output on noised rows, and the signal and noise scales.

        ``clean`` and ``epsilon`` are ``(..., d_y)``, ``steps`` ``(...)``, ``features`` broadcasts to
        ``(..., width)``.
        """
        signal = self.schedule.signal(steps).unsqueeze(-1)
        noise = self.schedule.noise(steps).unsqueeze(-1)
        noisy = signal * clean + noise * epsilon
        # Rows outnumber distinct steps: embed each step once.
        distinct, index = steps.unique(return_inverse=True)
        output = self.denoiser(noisy, self.denoiser.time_features(distinct)[index], features)
        target = to_target(self.prediction, clean, epsilon, signal, noise)
        return output - target, signal, noise
