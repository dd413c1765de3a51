"""Reparameterisation (Eq. 4 and 5): through the sampler, the program and the cost."""

import torch
from torch import Tensor

from diffusion_dfl.estimators.base import Balance, Batch, Loss, Mixed, Mixture, decision_cost
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Backpropagation, Predictor
from diffusion_dfl.predictors.base import BackpropagationName
from diffusion_dfl.sizes import check_sizes


class Reparam(Mixed):
    """Pathwise gradient of the mean decision cost, mixed with the predictor's own loss.

    Args:
        num_scenarios: M a context (a deterministic predictor has one).
        decision_weight: weight of the decision cost; 0 is the twin that only fits on.
        fit_weight: weight of the predictor's own loss, which keeps the density what it was fitted
            to.
        balance: weights are of: gradient_norms (the two gradients' norms), none (the losses).
        backpropagation: through the sampler: full, checkpoint (recompute), last (last_steps only).
        last_steps: sampler steps that backpropagation=last differentiates.

    Raises:
        TypeError: at the first call, a predictor that has no pathwise gradient.
        ValueError: weights or ``last_steps`` out of range.
    """

    def __init__(
        self,
        num_scenarios: int,
        decision_weight: float = 1.0,
        fit_weight: float = 1.0,
        backpropagation: BackpropagationName = "full",
        last_steps: int = 0,
        balance: Balance = "gradient_norms",
    ) -> None:
        self.mixture = Mixture(decision_weight, fit_weight, balance)
        check_sizes(num_scenarios=num_scenarios)
        self.num_scenarios = num_scenarios
        self.backpropagation = Backpropagation(backpropagation, last_steps)

    def __call__(
        self, predictor: Predictor, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> Loss:
        if not predictor.pathwise:
            raise TypeError(f"grad=reparam: {type(predictor).__name__} has no pathwise gradient")
        return super().__call__(predictor, layer, batch, generator)

    def _surrogate(
        self,
        predictor: Predictor,
        layer: DecisionLayer,
        batch: Batch,
        generator: torch.Generator,
        metrics: dict[str, Tensor],
    ) -> Tensor:
        scenarios = predictor.checked_sample(
            batch.decision_context,
            self.num_scenarios,
            generator,
            differentiable=True,
            backpropagation=self.backpropagation,
        )
        decision = layer(scenarios, context=batch.constraint_context)
        cost = decision_cost(layer, batch.outcome, decision, batch.outcome_context, batch.weights)
        metrics["decision_cost"] = cost.detach()
        return cost
