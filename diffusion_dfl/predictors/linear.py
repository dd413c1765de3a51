"""Linear prediction in closed form: ridge regression, the penalty chosen by leave-one-out."""

import torch
from torch import Tensor

from diffusion_dfl.predictors.deterministic import PointPredictor

# Penalties tried, in units of the largest squared singular value of the standardised contexts.
_PENALTIES = torch.logspace(-8, 0, 17, dtype=torch.float64)


class LinearPredictor(PointPredictor):
    """``y_hat(x) = W x + b``, one penalty for all outcomes: that of the least leave-one-out error.

    Args:
        context_size: d_x.
        outcome_size: d_y.
    """

    closed_form = True
    network: torch.nn.Linear

    def __init__(self, context_size: int, outcome_size: int) -> None:
        super().__init__(context_size, outcome_size)
        self.network = torch.nn.Linear(context_size, outcome_size)

    @torch.no_grad()
    def fit_rows(self, contexts: Tensor, outcomes: Tensor, weights: Tensor | None = None) -> None:
        """Least squares on ``(N, d_x)`` and ``(N, d_y)``, raw units, squares times ``weights (N,)``.

        The leave-one-out error of a row is ``e_i / (1 - H_ii)`` with the hat matrix H; the mean, which
        is fitted too, takes 1/N of every row's leverage, ``w_i / N`` of one with a weight.
        """
        self.fit_scaling(contexts, outcomes)
        inputs = self.contexts(contexts).double()
        targets = self.outcomes(outcomes).double()
        weight = inputs.new_ones(len(inputs), 1)
        if weights is not None:
            weight = (weights / weights.mean()).to(inputs).unsqueeze(1)
        centre, mean = (weight * inputs).mean(0), (weight * targets).mean(0)
        inputs, targets = weight.sqrt() * (inputs - centre), weight.sqrt() * (targets - mean)
        left, size, right = torch.linalg.svd(inputs, full_matrices=False)
        projected = left.T @ targets
        best, slopes = torch.inf, torch.zeros_like(right.T @ projected)
        for penalty in _PENALTIES.to(size.device) * size.square().amax().clamp_min(1e-12):
            shrink = size.square() / (size.square() + penalty)
            leverage = (left.square() @ shrink).unsqueeze(1) + weight / len(inputs)
            residual = targets - (left * shrink) @ projected
            free = (1.0 - leverage).clamp_min(1e-9)
            error = float((residual / free).square().mean())
            if error < best:
                best = error
                slopes = right.T @ ((size / (size.square() + penalty)).unsqueeze(1) * projected)
        self.network.weight.copy_(slopes.T)
        self.network.bias.copy_(mean - centre @ slopes)
