"""Reparameterisation (Eq. 4 and 5): through the sampler, the program and the cost."""

import torch

from diffusion_dfl.estimators.base import Batch, Loss, check_weights, decision_cost, mix
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Predictor


class Reparam:
    """Pathwise gradient of the mean decision cost, mixed with the predictor's own loss.

    Args:
        num_scenarios: M a context (a deterministic predictor has one).
        decision_weight: weight of the decision cost; 0 is the twin that only fits on.
        fit_weight: weight of the predictor's own loss.
    """

    decision_focused = True

    def __init__(
        self, num_scenarios: int, decision_weight: float = 1.0, fit_weight: float = 0.0
    ) -> None:
        check_weights(decision_weight, fit_weight)
        self.num_scenarios = num_scenarios
        self.decision_weight, self.fit_weight = decision_weight, fit_weight

    def __call__(
        self, predictor: Predictor, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> Loss:
        cost = fit = None
        metrics = {}
        if self.decision_weight:
            scenarios = predictor.sample(
                batch.context, self.num_scenarios, generator, differentiable=True
            )
            cost = decision_cost(layer, batch.outcome, layer(scenarios))
            metrics["decision_cost"] = cost.detach()
        if self.fit_weight:
            fit = predictor.loss(batch.context, batch.outcome, generator)
            metrics["fit_loss"] = fit.detach()
        return Loss(mix(cost, fit, self.decision_weight, self.fit_weight), metrics)
