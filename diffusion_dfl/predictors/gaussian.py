"""Gaussian prediction with diagonal covariance (appendix A.6; Table 2, column 2)."""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_dfl.predictors.backbone import ActivationName, backbone
from diffusion_dfl.predictors.base import (
    FULL,
    Backpropagation,
    LogDensity,
    Predictor,
    Scaling,
    row_mean,
)
from diffusion_dfl.predictors.deterministic import DeterministicPredictor
from diffusion_dfl.predictors.forest import ForestWeights
from diffusion_dfl.predictors.linear import LinearPredictor
from diffusion_dfl.predictors.noise import scenario_noise
from diffusion_dfl.predictors.residual import (
    BaseKind,
    BaseModels,
    OutcomeScaling,
    ResidualBase,
)

logger = logging.getLogger(__name__)


class GaussianPredictor(Predictor):
    """``N(mu(x), diag sigma(x)^2)`` with a bounded log-variance.

    With ``outcome_scaling="residual"`` it is the law of the standardised residuals of a base
    (:mod:`.residual`), and starts as N(0, 1) whatever the context.

    Args:
        context_size: d_x.
        outcome_size: d_y.
        width: units a hidden layer.
        layers: hidden layers.
        dropout: share of hidden units dropped in training.
        min_log_variance: lower bound of log sigma^2, standardised units.
        max_log_variance: upper bound.
        activation: of hidden layers: silu, relu, gelu.
        outcome_scaling: standardise outcomes by: global (training days), residual (a base fitted
            first).
        base_models: what that base is made of.
        context_rank: numbers the network knows a context by, a learned linear map; 0 for its
            features.
        antithetic_scenarios: scenarios in pairs made of noise of opposite signs, so that their mean has
            hardly any of it.

    Raises:
        ValueError: an unknown name or a value out of range; the message names both.
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
        activation: ActivationName = "silu",
        outcome_scaling: OutcomeScaling = "global",
        base_models: BaseModels = BaseModels(),
        context_rank: int = 0,
        antithetic_scenarios: bool = False,
    ) -> None:
        if not -math.inf < min_log_variance < max_log_variance < math.inf:
            raise ValueError(
                f"min_log_variance={min_log_variance} must be a finite number below "
                f"max_log_variance={max_log_variance}"
            )
        base = base_of(outcome_scaling, context_size, outcome_size, base_models)
        super().__init__(context_size, outcome_size, base, context_rank)
        self.network = backbone(
            self.encoded_size, 2 * outcome_size, width, layers, activation, dropout
        )
        if base is not None:
            head = self.network[-1]
            assert isinstance(head, torch.nn.Linear)
            torch.nn.init.zeros_(head.weight)
            start = [0.0] * outcome_size + [
                _unbounded(min_log_variance, max_log_variance)
            ] * outcome_size
            with torch.no_grad():
                head.bias.copy_(head.bias.new_tensor(start))
        self.min_log_variance, self.max_log_variance = min_log_variance, max_log_variance
        self.antithetic_scenarios = antithetic_scenarios

    def location_and_scale(self, context: Tensor) -> Scaling:
        """Mean and standard deviation in raw units, ``(B, d_y)`` each."""
        mean, log_variance = self.moments(context)
        location, scale = self.scaling(context)
        return Scaling(mean * scale + location, scale * (0.5 * log_variance).exp())

    def moments(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance in standardised units, ``(B, d_y)`` each."""
        mean, raw = self.network(self.encoded(context)).chunk(2, dim=-1)
        capped = self.max_log_variance - F.softplus(self.max_log_variance - raw)
        return mean, self.min_log_variance + F.softplus(capped - self.min_log_variance)

    def loss(
        self,
        context: Tensor,
        outcome: Tensor,
        generator: torch.Generator,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood a dimension, standardised units."""
        mean, log_variance = self.moments(context)
        value = self.standardised(context, outcome.unsqueeze(1)).squeeze(1)
        return -row_mean(_log_density(value, mean, log_variance), weights) / self.outcome_size

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        """``mu + sigma * noise``, ``(B, M, d_y)``."""
        self.check_backpropagation(backpropagation)
        with torch.set_grad_enabled(differentiable):
            mean, log_variance = self.moments(context)
            shape = (len(mean), num_scenarios, self.outcome_size)
            noise = scenario_noise(
                shape, generator, mean.device, antithetic=self.antithetic_scenarios
            )
            values = mean.unsqueeze(1) + (0.5 * log_variance).exp().unsqueeze(1) * noise
            return self.raw(context, values)

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
            offsets = self.standardised(context, scenarios) - centre
            share = weights.to(offsets.dtype)
            outside = torch.zeros((), device=offsets.device)
            if trust_region:
                error = (offsets.square() * (-log_variance).exp().unsqueeze(1)).sum(-1)
                beyond = (share > 0) & (error > trust_region * self.outcome_size)
                share = share.masked_fill(beyond, 0.0)
                outside = beyond.double().mean()
            # A square may overflow where it has no say.
            offsets = torch.where((share == 0).unsqueeze(2), 0.0, offsets)
            total = share.sum(1, keepdim=True)
            first = torch.einsum("bm,bmi->bi", share, offsets)
            second = torch.einsum("bm,bmi->bi", share, offsets.square())
        shift = mean - mean.detach()
        square = second - 2.0 * shift * first + shift.square() * total
        constant = log_variance + math.log(2 * math.pi)
        value = -0.5 * (square * (-log_variance).exp() + total * constant).sum()
        return LogDensity(value, outside)


def _unbounded(low: float, high: float) -> float:
    """What :meth:`GaussianPredictor.moments` bounds to a log-variance of 0; 0 where nothing is."""
    if low >= 0:
        return 0.0
    capped = math.log(-math.expm1(low))
    return capped - math.log(-math.expm1(capped - high)) if capped < high else 0.0


def residual_base(
    context_size: int, outcome_size: int, models: BaseModels = BaseModels()
) -> ResidualBase:
    """A base, not fitted yet, for a residual predictor of outcomes ``(B, d_y)`` given ``(B, d_x)``."""
    kinds: dict[BaseKind, Callable[..., Predictor]] = {
        "gaussian": models.networks(GaussianPredictor),
        "deterministic": models.networks(DeterministicPredictor),
        "linear": LinearPredictor,
        # All features at every split, as regression wants it: a split on few of them is for weights.
        "forest": partial(
            ForestWeights, trees=100, leaf_rows=models.base_leaf_rows, feature_share=1.0
        ),
    }
    make = kinds[models.base]
    return ResidualBase(make(context_size, outcome_size) for _ in range(models.base_folds))


def base_of(
    outcome_scaling: OutcomeScaling, context_size: int, outcome_size: int, models: BaseModels
) -> ResidualBase | None:
    """:func:`residual_base` of ``residual``; None for ``global``.

    Raises:
        ValueError: neither of them.
    """
    if outcome_scaling not in get_args(OutcomeScaling):
        raise ValueError(
            f"outcome_scaling={outcome_scaling!r} is unknown; choose "
            f"{' or '.join(get_args(OutcomeScaling))}"
        )
    residual = outcome_scaling == "residual"
    if not residual and models.base != "gaussian":
        logger.warning(
            "base=%s changes nothing with outcome_scaling=global; with outcome_scaling=residual outcomes are "
            "standardised by it",
            models.base,
        )
    return residual_base(context_size, outcome_size, models) if residual else None


def _log_density(value: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian summed over the last dimension."""
    square = (value - mean).square() * (-log_variance).exp()
    return -0.5 * (square + log_variance + math.log(2 * math.pi)).sum(-1)
