"""Full-information policy learning (appendix A.7): the cost of the network's own decision."""

import torch

from diffusion_dfl.estimators.base import Batch, Loss
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DecisionMaker
from diffusion_dfl.predictors.base import row_mean


class Policy:
    """``mean f(y, phi(x))``; constraints are ignored in training, as in the paper."""

    decision_focused = True
    takes_weights = True

    def __call__(
        self,
        predictor: DecisionMaker,
        layer: DecisionLayer,
        batch: Batch,
        generator: torch.Generator,
    ) -> Loss:
        if not predictor.decides:
            raise TypeError(f"grad=policy needs model=policy, not {type(predictor).__name__}")
        decision = predictor(batch.context)
        context = batch.outcome_context.double()
        costs = layer.program.cost_given(batch.outcome.double(), decision.double(), context)
        cost = row_mean(costs, batch.weights)
        return Loss(cost, {"decision_cost": cost.detach()})
