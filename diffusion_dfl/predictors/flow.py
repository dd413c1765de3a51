"""Conditional normalising flow: an exact density and a pathwise sampler, of equal cost.

The generative model of Gen-DFL (Wang et al., 2025). Transformations are zuko's: a location and a
scale of every coordinate given the context, and coupling layers (Dinh et al., 2017) of monotonic
rational-quadratic splines (Durkan et al., 2019) on what is left.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_dfl.errors import UserError
from diffusion_dfl.extras import installing
from diffusion_dfl.predictors.backbone import ActivationName, hidden_layer
from diffusion_dfl.predictors.base import (
    FULL,
    Backpropagation,
    LogDensity,
    Predictor,
    row_mean,
)
from diffusion_dfl.predictors.gaussian import base_of
from diffusion_dfl.predictors.noise import scenario_noise
from diffusion_dfl.predictors.residual import BaseModels, OutcomeScaling
from diffusion_dfl.sizes import check_sizes

# Smallest slope of an affine map and of a spline's knots, its inverse being the largest: a standard
# deviation given the context stays within 0.01..100 of the outcome's own.
_SLOPE = 1e-2

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
        UserError: zuko is not installed.
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
        try:
            from zuko.flows.coupling import GeneralCouplingTransform
            from zuko.flows.gaussianization import ElementWiseTransform
            from zuko.lazy import LazyComposedTransform
            from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform
        except ImportError as error:
            raise UserError(f"the flow needs the package zuko: {installing('flow')}") from error
        between = partial(_between_layers, activation, dropout)
        location_scale = ElementWiseTransform(
            outcome_size,
            self.encoded_size,
            univariate=partial(MonotonicAffineTransform, slope=_SLOPE),
            hidden_features=[width] * layers,
            activation=between,
        )
        stack = [
            GeneralCouplingTransform(
                outcome_size,
                self.encoded_size,
                mask=torch.arange(outcome_size) % 2 == number % 2,
                univariate=partial(MonotonicRQSTransform, slope=_SLOPE),
                shapes=[(bins,), (bins,), (bins - 1,)],
                hidden_features=[coupling_width] * layers,
                activation=between,
            )
            for number in range(couplings)
        ]
        for coupling in stack:
            _make_identity(coupling)
        # From standardised outcomes to noise, as zuko has it.
        self.transform = LazyComposedTransform(location_scale, *stack)

    def log_density(self, context: Tensor, outcome: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of standardised outcomes and the noise that makes them.

        Args:
            context: ``(B, d_x)``, raw units.
            outcome: ``(B, M, d_y)``, raw units.

        Returns:
            ``log p``, ``(B, M)``, and z, ``(B, M, d_y)``.
        """
        noise, determinant = self._given(context).call_and_ladj(self.standardised(context, outcome))
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
        size = len(context) if differentiable else max(_ROWS // num_scenarios, 1)
        with torch.set_grad_enabled(differentiable):
            parts = [
                self._given(rows).inv(part)
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
        return LogDensity((share * value).sum(), outside)

    def _given(self, context: Tensor) -> Any:
        """The zuko transform of ``(B, M, d_y)`` given ``(B, d_x)``."""
        return self.transform(self.encoded(context).unsqueeze(1))


def _between_layers(activation: ActivationName, dropout: float) -> nn.Module:
    return nn.Sequential(*hidden_layer(activation, dropout))


def _make_identity(transform: nn.Module) -> None:
    """Zero the last layer of a coupling's network: splines with equal bins and slope 1."""
    network = transform.get_submodule("hyper")
    assert isinstance(network, nn.Sequential)
    for parameter in network[-1].parameters():
        nn.init.zeros_(parameter)
