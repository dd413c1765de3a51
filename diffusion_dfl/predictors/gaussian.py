"""Gaussian prediction with diagonal covariance (appendix A.6; Table 2, column 2)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_dfl.predictors.base import (
    FULL,
    Backpropagation,
    LogDensity,
    Predictor,
    mlp,
    refuse_partial,
)


class GaussianPredictor(Predictor):
    """``N(mu(x), diag sigma(x)^2)`` with a bounded log-variance.

    Args:
        context_size: d_x.
        outcome_size: d_y.
        width: units a hidden layer.
        layers: hidden layers.
        dropout: share of hidden units dropped in training.
        min_log_variance: lower bound of log sigma^2, standardised units.
        max_log_variance: upper bound.
    """

    def __init__(
        self,
        context_size: int,
        outcome_size: int,
        width: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        min_log_variance: float = -9.0,
        max_log_variance: float = 3.0,
    ) -> None:
        super().__init__(context_size, outcome_size)
        self.network = mlp(context_size, width, layers, 2 * outcome_size, dropout, nn.ReLU)
        self.min_log_variance, self.max_log_variance = min_log_variance, max_log_variance

    def moments(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance in standardised units, ``(B, d_y)`` each."""
        mean, raw = self.network(self.contexts(context)).chunk(2, dim=-1)
        capped = self.max_log_variance - F.softplus(self.max_log_variance - raw)
        return mean, self.min_log_variance + F.softplus(capped - self.min_log_variance)

    def loss(self, context: Tensor, outcome: Tensor, generator: torch.Generator) -> Tensor:
        """Negative log-likelihood a dimension, standardised units."""
        mean, log_variance = self.moments(context)
        return -_log_density(self.outcomes(outcome), mean, log_variance).mean() / self.outcome_size

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        """``mu + sigma * noise``, ``(B, M, d_y)``."""
        refuse_partial(self, backpropagation)
        with torch.set_grad_enabled(differentiable):
            mean, log_variance = self.moments(context)
            noise = torch.randn(
                len(mean), num_scenarios, self.outcome_size, generator=generator, device=mean.device
            )
            values = mean.unsqueeze(1) + (0.5 * log_variance).exp().unsqueeze(1) * noise
            return self.outcomes.inverse(values)

    def weighted_log_density(
        self,
        context: Tensor,
        scenarios: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        trust_region: float = 0.0,
    ) -> LogDensity:
        """Exact (A.6), in the density of standardised outcomes: the constant does not matter.

        The sum over scenarios is one of their first and second moments about the present mean, so
        no graph grows with M.
        """
        mean, log_variance = self.moments(context)
        with torch.no_grad():
            centre = mean.detach().unsqueeze(1)
            offsets = self.outcomes(scenarios) - centre
            share = weights.to(offsets.dtype)
            outside = torch.zeros((), device=offsets.device)
            if trust_region:
                error = (offsets.square() * (-log_variance).exp().unsqueeze(1)).sum(-1)
                beyond = (share > 0) & (error > trust_region * self.outcome_size)
                share = share.masked_fill(beyond, 0.0)
                outside = beyond.double().mean()
            total = share.sum(1, keepdim=True)
            first = torch.einsum("bm,bmi->bi", share, offsets)
            second = torch.einsum("bm,bmi->bi", share, offsets.square())
        shift = mean - mean.detach()
        square = second - 2.0 * shift * first + shift.square() * total
        constant = log_variance + math.log(2 * math.pi)
        value = -0.5 * (square * (-log_variance).exp() + total * constant).sum()
        return LogDensity(value, outside)


def _log_density(value: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian summed over the last dimension."""
    square = (value - mean).square() * (-log_variance).exp()
    return -0.5 * (square + log_variance + math.log(2 * math.pi)).sum(-1)
