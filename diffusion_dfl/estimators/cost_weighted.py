"""The predictor's own loss, with rows weighted by what their decisions cost (Donti et al., 2017)."""

from dataclasses import replace

import torch
from torch import Tensor

from diffusion_dfl.estimators.base import Batch, Loss, fit_loss
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Predictor
from diffusion_dfl.sizes import check_sizes
from diffusion_dfl.solvers import solve


class CostWeighted:
    """``mean_i w_i l_i``: no gradient passes a decision, but rows count more whose decisions are dear.

    ``w_i = 1 - share + share r_i / mean(r)``, ``r_i`` the cost of the decision made for row i by the
    predictor as it is, less that of the best one for its outcome. The baseline "cost-weighted RMSE" of
    Donti, Amos and Kolter (Task-based end-to-end model learning, NeurIPS 2017) is a point
    prediction with ``share=1``, its costs taken as they are.

    Args:
        num_scenarios: M a context (a deterministic predictor has one).
        decision_weight: the share; 0 is the twin, in which all rows count the same.

    Raises:
        ValueError: a share that is not between 0 and 1.
    """

    decision_focused = True
    takes_weights = True

    def __init__(self, num_scenarios: int, decision_weight: float = 1.0) -> None:
        if not 0 <= decision_weight <= 1:
            raise ValueError(
                f"decision_weight={decision_weight} is a share of the weights of rows here; expected 0 to 1"
            )
        check_sizes(num_scenarios=num_scenarios)
        self.num_scenarios = num_scenarios
        self.share = decision_weight

    def __call__(
        self, predictor: Predictor, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> Loss:
        metrics = {}
        if self.share:
            with torch.no_grad():
                regret, metrics["decision_cost"] = self._regret(predictor, layer, batch, generator)
                weights = 1 - self.share + self.share * regret / regret.mean().clamp_min(1e-300)
                if batch.weights is not None:
                    weights = weights * batch.weights
            batch = replace(batch, weights=weights)
        value = fit_loss(predictor, batch, generator)
        return Loss(value, metrics | {"fit_loss": value.detach()})

    def _regret(
        self, predictor: Predictor, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """``(B,)``, 0 where a program was not solved; and the mean cost."""
        scenarios = predictor.checked_sample(batch.decision_context, self.num_scenarios, generator)
        made = layer(scenarios, context=batch.constraint_context).expand(len(batch), -1)
        outcome = batch.outcome.double()
        context = batch.outcome_context.double()
        program = layer.program
        given = context if program.contextual else None
        best = solve(program, outcome.unsqueeze(1), context=given)
        cost = program.cost_given(outcome, made, context)
        regret = cost - program.cost_given(outcome, best.decision, context)
        good = regret.isfinite() & best.solved
        mean = torch.where(good, cost, 0.0).sum() / good.sum().clamp_min(1)
        return torch.where(good, regret.clamp_min(0.0), 0.0), mean
