"""The bandit baseline (appendix A.7): a network that maps the context to a decision."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_dfl.predictors.backbone import ActivationName, backbone
from diffusion_dfl.predictors.decision_maker import Decided, DecisionMaker, Rule


class PolicyNetwork(DecisionMaker):
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

    def forward(self, context: Tensor) -> Tensor:
        """Decisions ``(B, n)`` in raw units, before any projection on the feasible set."""
        return self.outcomes.inverse(self.network(self.encoded(context)))

    @torch.no_grad()
    def decide(
        self,
        rules: Sequence[Rule],
        context: Tensor,
        exact_context: Tensor,
        generator: torch.Generator,
    ) -> tuple[list[Decided], Tensor]:
        decision = self(context)
        return [rule.nearest(decision, exact_context) for rule in rules], decision.unsqueeze(1)
