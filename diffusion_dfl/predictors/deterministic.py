"""Point predictions, one scenario without noise; by a multilayer perceptron (Table 2, column 1)."""

import torch
from torch import Tensor

from diffusion_dfl.predictors.backbone import ActivationName, backbone
from diffusion_dfl.predictors.base import (
    FULL,
    Backpropagation,
    LogDensity,
    Predictor,
    Scaling,
    row_mean,
)


class PointPredictor(Predictor):
    """A prediction ``y_hat(x)`` in the place of a distribution, by the ``network`` of a subclass."""

    has_density = False
    stochastic = False
    network: torch.nn.Module

    def location_and_scale(self, context: Tensor) -> Scaling:
        """The prediction, and the outcome's own standard deviation, ``(B, d_y)`` each, raw units."""
        location = self.outcomes.inverse(self.network(self.encoded(context)))
        return Scaling(location, self.outcomes.scale.expand_as(location))

    def loss(
        self,
        context: Tensor,
        outcome: Tensor,
        generator: torch.Generator,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error in standardised units."""
        miss = self.network(self.encoded(context)) - self.outcomes(outcome)
        return row_mean(miss.square(), weights)

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        """The prediction as the only scenario, ``(B, 1, d_y)``, whatever ``num_scenarios``."""
        self.check_backpropagation(backpropagation)
        with torch.set_grad_enabled(differentiable):
            return self.outcomes.inverse(self.network(self.encoded(context))).unsqueeze(1)

    def weighted_log_density(
        self,
        context: Tensor,
        scenarios: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        trust_region: float = 0.0,
    ) -> LogDensity:
        raise TypeError("a point prediction has no density")


class DeterministicPredictor(PointPredictor):
    """``y_hat(x)``; trained on the mean squared error of standardised outcomes.

    Args:
        context_size: d_x.
        outcome_size: d_y.
        width: units a hidden layer.
        layers: hidden layers.
        dropout: share of hidden units dropped in training.
        activation: of hidden layers: silu, relu, gelu.
        context_rank: numbers the network knows a context by, a learned linear map; 0 for its
            features.
    """

    def __init__(
        self,
        context_size: int,
        outcome_size: int,
        width: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        activation: ActivationName = "silu",
        context_rank: int = 0,
    ) -> None:
        super().__init__(context_size, outcome_size, context_rank=context_rank)
        self.network = backbone(self.encoded_size, outcome_size, width, layers, activation, dropout)
