"""Conditional diffusion predictor (section 3.2) with the densities its score needs.

Two of them: the ELBO surrogate (Eq. 7 and 8), and the exact density of a sampled reverse path.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffusion_dfl.predictors.backbone import ActivationName
from diffusion_dfl.predictors.base import (
    FULL,
    Backpropagation,
    LogDensity,
    Predictor,
    row_mean,
)
from diffusion_dfl.predictors.diffusion.chunks import Rows, Terms, TrustRegion, chunked_sum
from diffusion_dfl.predictors.diffusion.denoiser import (
    Denoiser,
    Prediction,
    clean_slope,
    epsilon_error_scale,
    to_clean,
    to_target,
)
from diffusion_dfl.predictors.diffusion.elbo import Elbo, ElboSurrogate
from diffusion_dfl.predictors.diffusion.sampler import CleanPrediction, Sampler, Sampling
from diffusion_dfl.predictors.diffusion.schedule import NoiseSchedule, ScheduleName
from diffusion_dfl.predictors.gaussian import base_of
from diffusion_dfl.predictors.residual import BaseModels, OutcomeScaling
from diffusion_dfl.sizes import check_sizes


class ScenarioPath(NamedTuple):
    """Scenarios with the reverse path that made them.

    Attributes:
        states: ``(S + 1, B, M, d_y)`` from y_T to y_0, in the network's units.
        scenarios: y_0 in raw units, ``(B, M, d_y)``.
    """

    states: Tensor
    scenarios: Tensor


class DiffusionPredictor(Predictor):
    """``P_theta(y | x)`` by a reverse diffusion on standardised outcomes.

    With ``outcome_scaling="residual"`` outcomes are standardised by the mean and standard deviation
    that Gaussians predict for their context (:mod:`~diffusion_dfl.predictors.residual`), not by those
    of the training days, and the diffusion learns the shape of their residuals.

    Args:
        context_size: d_x.
        outcome_size: d_y.
        width: units a hidden layer of the denoiser.
        layers: hidden layers.
        dropout: share of hidden units dropped in training.
        num_diffusion_steps: T, length of the noise schedule.
        schedule: noise schedule: linear, cosine.
        prediction: what the network predicts: epsilon, x0, v.
        sampling: how scenarios are drawn.
        elbo: the surrogate of the score.
        chunk_rows: rows of the denoiser whose activations the score surrogate holds at once.
        outcome_scaling: standardise outcomes by: global (training days), residual (a base fitted
            first).
        activation: of hidden layers: silu, relu, gelu.
        base_models: what that base is made of.
        context_rank: numbers the network knows a context by, a learned linear map; 0 for its
            features.
        outcome_frequencies: F, waves sin(f y), cos(f y) beside every noisy outcome; for densities
            with sharp modes.

    Raises:
        ValueError: an unknown name or a value out of range; the message names both.
    """

    has_path = True

    def __init__(
        self,
        context_size: int,
        outcome_size: int,
        width: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        num_diffusion_steps: int = 1000,
        schedule: ScheduleName = "linear",
        prediction: Prediction = "epsilon",
        sampling: Sampling = Sampling(),
        elbo: ElboSurrogate = ElboSurrogate(),
        chunk_rows: int = 512,
        outcome_scaling: OutcomeScaling = "global",
        activation: ActivationName = "silu",
        base_models: BaseModels = BaseModels(),
        context_rank: int = 0,
        outcome_frequencies: int = 0,
    ) -> None:
        base = base_of(outcome_scaling, context_size, outcome_size, base_models)
        super().__init__(context_size, outcome_size, base, context_rank)
        if prediction not in ("epsilon", "x0", "v"):
            raise ValueError(f"prediction={prediction!r} is unknown; choose epsilon, x0 or v")
        check_sizes(num_diffusion_steps=num_diffusion_steps, chunk_rows=chunk_rows)
        self.schedule = NoiseSchedule(schedule, num_diffusion_steps)
        self.denoiser = Denoiser(
            self.encoded_size,
            outcome_size,
            width,
            layers,
            dropout,
            num_diffusion_steps,
            activation,
            outcome_frequencies,
        )
        self.prediction: Prediction = prediction
        self.num_sampling_steps = sampling.num_sampling_steps
        self.antithetic_scenarios = sampling.antithetic_scenarios
        self.sampler = Sampler(self.schedule, sampling)
        self.elbo = Elbo(self.schedule, self.sampler, elbo)
        self.chunk_rows = chunk_rows

    def loss(
        self,
        context: Tensor,
        outcome: Tensor,
        generator: torch.Generator,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Denoising mean squared error, one timestep a row, stratified over the batch."""
        clean = self.standardised(context, outcome.unsqueeze(1)).squeeze(1)
        rows, total = len(clean), self.schedule.num_steps
        jitter = torch.rand(rows, generator=generator, device=clean.device)
        strata = torch.randperm(rows, generator=generator, device=clean.device)
        steps = ((strata + jitter) * (total / rows)).long().clamp_max(total - 1) + 1
        epsilon = torch.randn(clean.shape, generator=generator, device=clean.device)
        signal = self.schedule.signal(steps).unsqueeze(-1)
        noise = self.schedule.noise(steps).unsqueeze(-1)
        output = self.denoiser(
            signal * clean + noise * epsilon,
            self.denoiser.time_features(steps),
            self.denoiser.context_features(self.encoded(context)),
        )
        miss = output - to_target(self.prediction, clean, epsilon, signal, noise)
        return row_mean(miss.square(), weights)

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        """Run the reverse process from noise: ``(B, M, d_y)``, raw units."""
        with torch.set_grad_enabled(differentiable):
            shape = (len(context), num_scenarios, self.outcome_size)
            predict = self._clean_prediction(context, backpropagation)
            values = self.sampler(predict, shape, generator, context.device)
            return self.raw(context, values)

    @torch.no_grad()
    def sample_path(
        self, context: Tensor, num_scenarios: int, generator: torch.Generator
    ) -> ScenarioPath:
        """The same scenarios as :meth:`sample`, with their paths; without graph."""
        shape = (len(context), num_scenarios, self.outcome_size)
        predict = self._clean_prediction(context, FULL)
        states = self.sampler.walk(predict, shape, generator, context.device)
        return ScenarioPath(torch.stack(states), self.raw(context, states[-1]))

    def _clean_prediction(
        self, context: Tensor, backpropagation: Backpropagation
    ) -> CleanPrediction:
        """What the sampler asks at every step: the clean outcomes that noisy ones imply."""
        features = self.denoiser.context_features(self.encoded(context)).unsqueeze(1)
        times, signal, noise = self._at_steps(self.sampler.timesteps, context.device)
        kind, last = backpropagation.kind, backpropagation.steps
        self.check_backpropagation(backpropagation)

        def predict(noisy: Tensor, index: int) -> Tensor:
            if kind == "last" and index >= last:
                with torch.no_grad():
                    return implied(noisy, index)
            if kind == "checkpoint" and torch.is_grad_enabled():
                # Weights need gradients even where y_T does not.
                result: Tensor = checkpoint(implied, noisy, index, use_reentrant=False)
                return result
            return implied(noisy, index)

        def implied(noisy: Tensor, index: int) -> Tensor:
            output = self.denoiser(noisy, times[index], features)
            return to_clean(self.prediction, output, noisy, signal[index], noise[index])

        return predict

    def _at_steps(
        self, timesteps: Sequence[int] | Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Time features, signal and noise scales of timesteps, each computed once."""
        steps = torch.as_tensor(timesteps, device=device)
        return (
            self.denoiser.time_features(steps),
            self.schedule.signal(steps),
            self.schedule.noise(steps),
        )

    def weighted_log_density(
        self,
        context: Tensor,
        scenarios: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        trust_region: float = 0.0,
    ) -> LogDensity:
        """``sum_bm weights_bm ELBO(y_bm)`` from k evaluations a scenario (Eq. 7 and 8).

        An unbiased estimate of the sum over all steps (:class:`Elbo`), differentiated in chunks of
        ``chunk_rows`` rows: memory depends on neither k nor M.
        """
        clean = self.standardised(context, scenarios)
        batch, count, size = clean.shape
        draw = self.elbo.draw(batch, count, size, generator)
        k = self.elbo.num_timesteps
        times, signals, noises = self._at_steps(self.elbo.timesteps, clean.device)
        index = draw.which.reshape(-1)
        epsilon = draw.epsilon.reshape(-1, size)
        scenario = torch.arange(batch * count, device=clean.device).repeat_interleave(k)
        weight = (weights.to(clean.dtype).unsqueeze(-1) * draw.factor).reshape(-1)
        clean = clean.reshape(-1, size)
        scales = epsilon_error_scale(self.prediction, signals, noises).square()
        region = TrustRegion(trust_region * size, len(index), clean.device)

        def summands(part: slice) -> tuple[Tensor, Terms]:
            steps = index[part]
            signal, noise = signals[steps].unsqueeze(-1), noises[steps].unsqueeze(-1)
            outcome, added, scale = clean[scenario[part]], epsilon[part], scales[steps]
            target = to_target(self.prediction, outcome, added, signal, noise)

            def terms(output: Tensor) -> tuple[Tensor, Tensor]:
                miss = output - target
                error = scale * miss.square().sum(-1)
                share = region.weights(weight[part], error)
                return -share * error, (-2.0 * scale * share).unsqueeze(-1) * miss

            return signal * outcome + noise * added, terms

        rows = self._rows(context, times, index)
        norms = None
        if self.elbo.uses_history and torch.is_grad_enabled():
            norms = torch.zeros_like(weight)
            squares = self.denoiser.shared_squares(self.encoded(context), self.elbo.timesteps)
            rows = replace(rows, squares=squares)
        value = chunked_sum(self.denoiser, rows, summands, self.chunk_rows, norms)
        if norms is not None:
            self.elbo.remember(draw, norms.reshape(batch, count, k))
        return LogDensity(value, region.share())

    def weighted_path_density(
        self, context: Tensor, path: ScenarioPath, weights: Tensor, trust_region: float = 0.0
    ) -> LogDensity:
        """``sum_bm weights_bm sum_s log p(y_s | y_t, x_b)`` over the steps of sampled paths.

        With the path drawn from the present weights its gradient is an unbiased estimate of the
        gradient of ``E w(y)`` for a fixed function w of the scenario: the score of the joint density
        of the path has the score of y_0 as its conditional mean. The noise y_T has no weights in it.

        Args:
            context: ``(B, d_x)``.
            path: from :meth:`sample_path`.
            weights: ``(B, M)``.
            trust_region: as in :meth:`weighted_log_density`, a step at a time.

        Raises:
            ValueError: the sampler has a step without noise, whose density does not exist.
        """
        self.check_path_density()
        last, batch, count, size = path.states.shape[0] - 1, *path.states.shape[1:]
        times, signals, noises = self._at_steps(self.sampler.timesteps, path.states.device)
        # The walk goes down the timesteps.
        order = torch.arange(last - 1, -1, -1, device=path.states.device)
        index = order.repeat_interleave(batch * count)
        before, after = path.states[:-1].reshape(-1, size), path.states[1:].reshape(-1, size)
        # Coefficients are listed in the order of the walk.
        coefficients = before.new_tensor(self.sampler.steps).flip(0).unsqueeze(-1)
        scenario = torch.arange(batch * count, device=before.device).repeat(last)
        weight = weights.to(before.dtype).reshape(-1)
        region = TrustRegion(trust_region * size, len(index), before.device)

        def summands(part: slice) -> tuple[Tensor, Terms]:
            step, noisy = index[part], before[part]
            pull, keep, spread, _ = coefficients[step].unbind(1)
            signal, noise = signals[step].unsqueeze(-1), noises[step].unsqueeze(-1)
            target = after[part] - keep * noisy

            def terms(output: Tensor) -> tuple[Tensor, Tensor]:
                implied = to_clean(self.prediction, output, noisy, signal, noise)
                bounded = self.sampler.bound(implied)
                residual = (target - pull * bounded) / spread
                error = residual.square().sum(-1)
                share = region.weights(weight[scenario[part]], error)
                slope = pull / spread * clean_slope(self.prediction, signal, noise)
                inward = slope * share.unsqueeze(-1) * residual
                return -0.5 * share * error, torch.where(implied == bounded, inward, 0.0)

            return noisy, terms

        rows = self._rows(context, times, index, repeats=last)
        value = chunked_sum(self.denoiser, rows, summands, self.chunk_rows)
        return LogDensity(value, region.share())

    def check_path_density(self) -> None:
        """Raise ValueError unless every step of the sampler adds noise."""
        sampling = self.sampler.sampling
        if not (sampling.stochastic and sampling.final_noise):
            raise ValueError(
                f"the path of sampler={sampling.sampler}, eta={sampling.eta}, "
                f"final_noise={str(sampling.final_noise).lower()} has a step without noise, "
                "and so no density; use sampler=ancestral (or eta above 0) with final_noise=true"
            )

    def _rows(self, context: Tensor, times: Tensor, index: Tensor, repeats: int = 1) -> Rows:
        """Rows in the order (repeat, context, the rest)."""
        features = self.denoiser.context_features(self.encoded(context))
        order = torch.arange(len(context), device=context.device)
        each = len(index) // (len(context) * repeats)
        return Rows(features, order.repeat_interleave(each).repeat(repeats), times, index)
