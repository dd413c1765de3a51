"""Score function of whole sets of scenarios: a gradient that needs no derivative of the program.

A decision z(Y) made of a set Y = (y_1, ..., y_M) costs f(y, z(Y)) at the outcome y, and

    grad E f(y, z(Y)) = E[(f(y, z(Y)) - b) sum_m grad log p(y_m)]

for every b that does not depend on Y (the likelihood ratio; Glynn, 1990). Of S sets each has the mean of
the others as b (leave-one-out; Kool et al., 2019):

    1/(S - 1) sum_s (f_s - mean f) sum_m grad log p(y_sm),

unbiased, and 0 where all sets lead to one cost. f need not be differentiable in z, nor z in Y: it is the
gradient for linear programs, whose decisions jump from vertex to vertex.
"""

import torch
from torch import Tensor

from diffusion_dfl.estimators.base import Balance, Batch, Mixed, Mixture
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Predictor
from diffusion_dfl.sizes import check_sizes


class SetScore(Mixed):
    """Likelihood-ratio gradient of the mean decision cost, mixed with the predictor's own loss.

    Its noise grows with M, as the log-density of a set does, and falls with S; a program with curvature
    is trained with less of it by :class:`Score` or :class:`Reparam`. Where all sets of a row lead to one
    cost the row says nothing: few scenarios and a ``fit_weight`` keep the sets apart. Rows of which a set
    was not solved are left out.

    Args:
        num_scenarios: M a set; every decision is made from so many.
        num_sets: S, sets a context, at least 2; one solve each.
        decision_weight: weight of the decision cost; 0 is the twin that only fits on.
        fit_weight: weight of the predictor's own loss, which keeps the density what it was fitted to.
        balance: weights are of: gradient_norms (the two gradients' norms), none (the losses).

    Raises:
        ValueError: weights or ``num_sets`` out of range; at the first call, a predictor that draws
            antithetic scenarios: the scores of the two of a pair cancel.
    """

    needs_density = True

    def __init__(
        self,
        num_scenarios: int,
        num_sets: int = 4,
        decision_weight: float = 1.0,
        fit_weight: float = 1.0,
        balance: Balance = "gradient_norms",
    ) -> None:
        check_sizes(num_scenarios=num_scenarios, num_sets=num_sets)
        if num_sets < 2:
            raise ValueError(
                f"num_sets={num_sets} must be at least 2: the baseline of a set is the mean of the others"
            )
        self.mixture = Mixture(decision_weight, fit_weight, balance)
        self.num_scenarios, self.num_sets = num_scenarios, num_sets

    @staticmethod
    def check_predictor(predictor: Predictor) -> None:
        """Raise ValueError unless scenarios are independent: only then is a set's density their product."""
        if predictor.antithetic_scenarios:
            raise ValueError(
                "antithetic_scenarios=true: the scores of a pair's two scenarios cancel, so that SetScore "
                "would move no mean; make the predictor with antithetic_scenarios=false, or use Score or "
                "Reparam"
            )

    def _surrogate(
        self,
        predictor: Predictor,
        layer: DecisionLayer,
        batch: Batch,
        generator: torch.Generator,
        metrics: dict[str, Tensor],
    ) -> Tensor:
        self.check_predictor(predictor)
        sets, context = self.num_sets, batch.decision_context
        scenarios = predictor.checked_sample(context, sets * self.num_scenarios, generator)
        with torch.no_grad():
            costs = self._costs(layer, scenarios, batch)
            gain = (costs - costs.mean(1, keepdim=True)) / (sets - 1)
        metrics["decision_cost"] = costs.mean(1).sum()
        weights = gain.repeat_interleave(self.num_scenarios, dim=1)
        return predictor.weighted_log_density(context, scenarios, weights, generator).value

    def _costs(self, layer: DecisionLayer, scenarios: Tensor, batch: Batch) -> Tensor:
        """Every set's share in the mean cost of the batch, ``(B, S)``, B = 1 if pooled."""
        sets = self.num_sets
        split = scenarios.reshape(-1, self.num_scenarios, scenarios.shape[2])
        known = batch.constraint_context.repeat_interleave(sets, dim=0)
        made = layer(split, context=known).reshape(len(scenarios), sets, -1)
        outcome = batch.outcome.double().unsqueeze(1).expand(-1, sets, -1)
        known = batch.outcome_context.double().unsqueeze(1).expand(-1, sets, -1)
        decision = made.expand(len(outcome), -1, -1)
        cost = layer.program.cost_given(outcome, decision, known)
        # As in decision_cost: the rows that were solved stand for the weight of all.
        good = decision.isfinite().all(2).all(1)
        counts = cost.new_ones(len(batch)) if batch.weights is None else batch.weights.to(cost)
        counted = torch.where(good, counts, 0.0)
        total = counted.sum()
        share = counts.mean() * counted / torch.where(total > 0, total, 1.0)
        shared = share.unsqueeze(1) * torch.where(good.unsqueeze(1), cost, 0.0)
        return shared.sum(0, keepdim=True) if batch.pooled else shared
