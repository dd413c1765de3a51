"""The bandit baseline (appendix A.7): a network that maps the context to a decision."""

import torch
from torch import Tensor

from diffusion_dfl.predictors.backbone import ActivationName, backbone
from diffusion_dfl.predictors.base import FULL, Backpropagation, LogDensity, Predictor


class PolicyNetwork(Predictor):
    """``z = phi(x)``, trained on the cost itself; it knows no constraint and predicts no outcome.

    Args:
        context_size: d_x.
        outcome_size: n, size of a decision. :meth:`fit_scaling` takes decisions in place of
            outcomes, those that would have been best in hindsight: they set the output's scale.
        width: units a hidden layer.
        layers: hidden layers.
        dropout: share of hidden units dropped in training.
        activation: of hidden layers: silu, relu, gelu.
        context_rank: numbers the network knows a context by, a learned linear map; 0 for its
            features.
    """

    decides = True
    pathwise = False
    has_density = False
    stochastic = False

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

    def decide(self, context: Tensor) -> Tensor:
        """Decisions ``(B, n)`` in raw units, before any projection on the feasible set."""
        return self.outcomes.inverse(self.network(self.encoded(context)))

    def loss(
        self,
        context: Tensor,
        outcome: Tensor,
        generator: torch.Generator,
        weights: Tensor | None = None,
    ) -> Tensor:
        raise TypeError("a policy predicts no outcome; train it with grad=policy")

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        raise TypeError("a policy predicts no outcome; use decide()")

    def weighted_log_density(
        self,
        context: Tensor,
        scenarios: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        trust_region: float = 0.0,
    ) -> LogDensity:
        raise TypeError("a policy predicts no outcome")
