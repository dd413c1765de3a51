"""Score function (Eq. 9 and 10): scenarios without a graph, weighted log-densities with one."""

import torch
from torch import Tensor

from diffusion_dfl.estimators.base import Batch, Loss, check_weights, decision_cost, mix
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Predictor


def score_weights(
    layer: DecisionLayer, scenarios: Tensor, outcome: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean decision cost of a batch and its derivative in the scenario weights.

    The derivative in omega_m is ``w_m = -u' grad_z f(y_m, z*)`` (Eq. 10) plus, where the program is
    smoothed, the part that acts through the bandwidth. ``sum_m omega_m w_m = 0``: the weights are
    centred by construction, since z* is optimal for these very scenarios.

    Args:
        layer: decision layer.
        scenarios: ``(B, M, d_y)``, without graph.
        outcome: ``(B, d_y)``.

    Returns:
        The cost, a scalar, and the weights ``(B, M)``, float64; with omega = 1/M,
        ``d cost / d theta = sum_bm w_bm / M * d log p(y_bm) / d theta``.
    """
    count = scenarios.shape[1]
    shares = torch.full(
        scenarios.shape[:2], 1.0 / count, dtype=torch.float64, device=scenarios.device
    ).requires_grad_()
    with torch.enable_grad():
        cost = decision_cost(layer, outcome, layer(scenarios.detach(), shares))
        (weights,) = torch.autograd.grad(cost, shares)
    return cost.detach(), weights


class Score:
    """Score-function gradient of the mean decision cost, mixed with the predictor's own loss.

    Args:
        num_scenarios: M a context; take at least 100 (docs/method.md).
        decision_weight: weight of the decision cost; 0 is the twin that only fits on.
        fit_weight: weight of the predictor's own loss, which anchors the density: negative weights
            alone would raise the denoising loss without bound.
        weight_clip: weights are clipped at this many standard deviations (over the batch) and
            centred again an instance; 0 for none. Clipping trades noise for bias: docs/method.md
            has the measured cosines.
    """

    decision_focused = True

    def __init__(
        self,
        num_scenarios: int,
        decision_weight: float = 1.0,
        fit_weight: float = 0.0,
        weight_clip: float = 0.0,
    ) -> None:
        check_weights(decision_weight, fit_weight)
        if weight_clip < 0:
            raise ValueError(f"weight_clip={weight_clip} must be >= 0")
        self.num_scenarios = num_scenarios
        self.decision_weight, self.fit_weight = decision_weight, fit_weight
        self.weight_clip = weight_clip

    def __call__(
        self, predictor: Predictor, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> Loss:
        surrogate = fit = None
        metrics = {}
        if self.decision_weight:
            scenarios = predictor.sample(batch.context, self.num_scenarios, generator)
            cost, weights = score_weights(layer, scenarios, batch.outcome)
            metrics["decision_cost"] = cost
            metrics["score_imbalance"] = weights.mean(1).abs().amax()
            weights, clipped = self._clip(weights)
            metrics["clipped_share"] = clipped
            # The optimum uses the scenarios it is judged by: M/(M-1) undoes the shrinkage.
            factor = 1.0 / max(self.num_scenarios - 1, 1)
            surrogate = predictor.weighted_log_density(
                batch.context, scenarios, factor * weights, generator
            )
        if self.fit_weight:
            fit = predictor.loss(batch.context, batch.outcome, generator)
            metrics["fit_loss"] = fit.detach()
        return Loss(mix(surrogate, fit, self.decision_weight, self.fit_weight), metrics)

    def _clip(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        if not self.weight_clip:
            return weights, torch.zeros((), device=weights.device)
        bound = self.weight_clip * weights.square().mean().sqrt()
        clipped = (weights.abs() > bound).double().mean()
        bounded = torch.maximum(torch.minimum(weights, bound), -bound)
        return bounded - bounded.mean(1, keepdim=True), clipped
