"""Residual laws without a network: what a model on top of a base has to beat.

Empirical residuals, whole vectors drawn again (ER-SAA; Kannan, Bayraksan and Luedtke, 2022, "Data-driven
sample average approximation with covariate information"), or independent normal ones of their mean and
standard deviation. On a base of networks trained on squared errors the latter is the constant-sigma
Gaussian of Donti et al. (2017); on a base of Gaussians it is the Gaussian with its scale put right by
residuals it did not see.
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from diffusion_dfl.predictors.base import (
    FULL,
    Backpropagation,
    LogDensity,
    Predictor,
)
from diffusion_dfl.predictors.gaussian import residual_base
from diffusion_dfl.predictors.residual import BaseModels

Law = Literal["empirical", "normal"]


class ResidualBootstrap(Predictor):
    """``mu(x) + sigma(x) r`` with r from the base's residuals on training rows it did not see.

    Args:
        context_size: d_x.
        outcome_size: d_y.
        law: of the residuals: empirical (whole vectors), normal (independent).
        base_models: what the base is made of.

    Raises:
        ValueError: an unknown name or a value out of range.
    """

    pathwise = False
    has_density = False
    closed_form = True
    residuals: Tensor
    shares: Tensor | None

    def __init__(
        self,
        context_size: int,
        outcome_size: int,
        law: Law = "empirical",
        base_models: BaseModels = BaseModels(),
    ) -> None:
        if law not in get_args(Law):
            raise ValueError(f"law={law!r} is unknown; choose {', '.join(get_args(Law))}")
        base = residual_base(context_size, outcome_size, base_models)
        super().__init__(context_size, outcome_size, base)
        self.law = law
        self.register_buffer("residuals", torch.zeros(1, outcome_size))
        self.register_buffer("shares", None)

    def fit_rows(self, contexts: Tensor, outcomes: Tensor, weights: Tensor | None = None) -> None:
        """Keep the standardised residuals of rows ``(N, d_x)`` and ``(N, d_y)``, and their shares."""
        self.residuals = self.standardised(contexts, outcomes.unsqueeze(1)).squeeze(1)
        self.shares = None if weights is None else (weights / weights.sum()).to(self.residuals)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As many residuals as there are in the file."""
        saved = state_dict.get(prefix + "residuals")
        if saved is not None:
            self.residuals = self.residuals.new_zeros(saved.shape)
            weighted = prefix + "shares" in state_dict
            self.shares = self.residuals.new_zeros(len(saved)) if weighted else None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def loss(
        self,
        context: Tensor,
        outcome: Tensor,
        generator: torch.Generator,
        weights: Tensor | None = None,
    ) -> Tensor:
        raise TypeError(f"{type(self).__name__} is fitted in closed form; it has no loss")

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        """Scenarios ``(B, M, d_y)``; no gradient is known."""
        self.check_backpropagation(backpropagation)
        known, shares = self.residuals, self.shares
        shape = (len(context), num_scenarios)
        if self.law == "empirical" and shares is None:
            drawn = known[
                torch.randint(len(known), shape, generator=generator, device=known.device)
            ]
        elif self.law == "empirical":
            assert shares is not None
            chosen = torch.multinomial(shares, math.prod(shape), True, generator=generator)
            drawn = known[chosen.view(shape)]
        else:
            noise = torch.randn(*shape, self.outcome_size, generator=generator, device=known.device)
            mean, spread = known.mean(0), known.std(0, correction=0)
            if shares is not None:
                mean = shares @ known
                spread = (shares @ (known - mean).square()).sqrt()
            drawn = mean + spread * noise
        return self.raw(context, drawn)

    def weighted_log_density(
        self,
        context: Tensor,
        scenarios: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        trust_region: float = 0.0,
    ) -> LogDensity:
        raise TypeError("a bootstrap has no density in weights of its own")
