"""Conditional normalising flow: an exact density and a pathwise sampler, of equal cost.

The generative model of Gen-DFL (Wang et al., 2025): a location and a scale of every coordinate given
the context, and coupling layers of splines (:mod:`.coupling`) on what is left.
"""

import math

import torch
from torch import Tensor, nn

from diffusion_dfl.predictors.backbone import ActivationName, backbone
from diffusion_dfl.predictors.base import (
    FULL,
    Backpropagation,
    LogDensity,
    Predictor,
    row_mean,
)
from diffusion_dfl.predictors.coupling import Coupling, log_slope
from diffusion_dfl.predictors.gaussian import base_of
from diffusion_dfl.predictors.noise import scenario_noise
from diffusion_dfl.predictors.residual import BaseModels, OutcomeScaling
from diffusion_dfl.sizes import check_sizes

# Rows of scenarios transformed at once where no graph is kept.
_ROWS = 8192


class FlowPredictor(Predictor):
    """``y = mu(x) + sigma(x) * T(z; x)`` in standardised units, with z standard normal.

    T is a stack of couplings: each leaves every other coordinate as it is and sends the rest through
    splines whose knots depend on those left and on the context. Splines are the identity outside of
    [-5, 5], so samples and densities stay finite. An untrained T is the identity: training starts
    from a Gaussian prediction. With ``outcome_size`` 1 nothing is left to couple with, and T is a
    stack of splines that depend on the context alone.

    Args:
        context_size: d_x.
        outcome_size: d_y.
        width: units a hidden layer of the network of location and scale.
        layers: hidden layers of every network.
        dropout: share of hidden units dropped in training.
        couplings: coupling layers.
        coupling_width: units a hidden layer of a coupling's network.
        bins: pieces of a coupling's splines.
        activation: of hidden layers: silu, relu, gelu.
        outcome_scaling: standardise outcomes by: global (training days), residual (a base fitted
            first).
        base_models: what that base is made of.
        context_rank: numbers the network knows a context by, a learned linear map; 0 for its
            features.
        antithetic_scenarios: scenarios in pairs made of noise of opposite signs, so that their mean has
            hardly any of it.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        context_size: int,
        outcome_size: int,
        width: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        couplings: int = 4,
        coupling_width: int = 64,
        bins: int = 8,
        activation: ActivationName = "silu",
        outcome_scaling: OutcomeScaling = "global",
        base_models: BaseModels = BaseModels(),
        context_rank: int = 0,
        antithetic_scenarios: bool = False,
    ) -> None:
        base = base_of(outcome_scaling, context_size, outcome_size, base_models)
        super().__init__(context_size, outcome_size, base, context_rank)
        self.antithetic_scenarios = antithetic_scenarios
        check_sizes(
            context_size=context_size, width=width, layers=layers, coupling_width=coupling_width
        )
        check_sizes(0, couplings=couplings)
        check_sizes(2, bins=bins)
        self.location_scale = backbone(
            self.encoded_size, 2 * outcome_size, width, layers, activation, dropout
        )
        self.couplings = nn.ModuleList(
            Coupling(
                self.encoded_size,
                outcome_size,
                number % 2,
                bins,
                coupling_width,
                layers,
                activation,
                dropout,
            )
            for number in range(couplings)
        )

    def log_density(self, context: Tensor, outcome: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of standardised outcomes and the noise that makes them.

        Args:
            context: ``(B, d_x)``, raw units.
            outcome: ``(B, M, d_y)``, raw units.

        Returns:
            ``log p``, ``(B, M)``, and z, ``(B, M, d_y)``.

        Raises:
            ValueError: outcomes of another shape.
        """
        if outcome.dim() != 3 or outcome.shape[::2] != (len(context), self.outcome_size):
            raise ValueError(
                f"outcome has shape {tuple(outcome.shape)}; expected ({len(context)}, M, {self.outcome_size}), "
                "M of each context"
            )
        noise, determinant = self._noise(context, self.standardised(context, outcome))
        constant = self.outcome_size * math.log(2 * math.pi)
        return determinant - 0.5 * (noise.square().sum(-1) + constant), noise

    def loss(
        self,
        context: Tensor,
        outcome: Tensor,
        generator: torch.Generator,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood a dimension, standardised units."""
        value, _ = self.log_density(context, outcome.unsqueeze(1))
        return -row_mean(value, weights) / self.outcome_size

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        """Noise through the inverse transformation, ``(B, M, d_y)``; one pass, like a density."""
        self.check_backpropagation(backpropagation)
        mean, shape = self.outcomes.mean, (len(context), num_scenarios, self.outcome_size)
        antithetic = self.antithetic_scenarios
        noise = scenario_noise(shape, generator, mean.device, mean.dtype, antithetic)
        size = len(context) if differentiable else max(_ROWS // max(num_scenarios, 1), 1)
        with torch.set_grad_enabled(differentiable):
            parts = [
                self._outcome(rows, part)
                for rows, part in zip(context.split(size), noise.split(size), strict=True)
            ]
            return self.raw(context, torch.cat(parts))

    def weighted_log_density(
        self,
        context: Tensor,
        scenarios: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        trust_region: float = 0.0,
    ) -> LogDensity:
        """Exact, in the density of standardised outcomes: the constant does not matter.

        The squared error of the trust region is that of the noise that makes a scenario.
        """
        value, noise = self.log_density(context, scenarios)
        share = weights.to(value.dtype)
        outside = torch.zeros((), device=value.device)
        if trust_region:
            error = noise.detach().square().sum(-1)
            beyond = (share > 0) & (error > trust_region * self.outcome_size)
            share = share.masked_fill(beyond, 0.0)
            outside = beyond.double().mean()
        # A density may overflow where it has no say.
        return LogDensity(torch.where(share == 0, 0.0, share * value).sum(), outside)

    def _noise(self, context: Tensor, outcome: Tensor) -> tuple[Tensor, Tensor]:
        """Noise ``(B, M, d_y)`` of standardised outcomes given ``(B, d_x)``, and the log-determinant."""
        encoded = self.encoded(context)
        shift, logarithm = self._location_scale(encoded)
        noise = outcome * logarithm.exp() + shift
        determinant = logarithm.sum(-1)
        for coupling in self.couplings:
            noise, part = coupling(encoded, noise)
            determinant = determinant + part
        return noise, determinant

    def _outcome(self, context: Tensor, noise: Tensor) -> Tensor:
        """Standardised outcomes ``(B, M, d_y)`` of noise, given ``(B, d_x)``."""
        encoded = self.encoded(context)
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, Coupling)
            noise = coupling.inverse(encoded, noise)
        shift, logarithm = self._location_scale(encoded)
        return (noise - shift) * (-logarithm).exp()

    def _location_scale(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and log-slope from outcomes to noise, ``(B, 1, d_y)`` each."""
        raw = self.location_scale(encoded).unsqueeze(1)
        shift, logarithm = raw.unflatten(-1, (self.outcome_size, 2)).unbind(-1)
        return shift, log_slope(logarithm)
