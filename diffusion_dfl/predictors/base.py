"""What every predictor offers: its own loss, scenarios, and a weighted log-density.

Contexts and outcomes come and go in raw units; a predictor standardises both with statistics of the
training days, kept as buffers beside its weights.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Standardiser(nn.Module):
    """Column-wise ``(value - mean) / scale``; a constant column gets scale 1."""

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, values: Tensor) -> None:
        """Take the statistics of ``values`` ``(N, size)``: training rows only."""
        mean, scale = values.double().mean(0), values.double().std(0, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > 1e-8 * (1.0 + mean.abs()), scale, 1.0))

    def forward(self, values: Tensor) -> Tensor:
        """``(..., size)`` in raw units -> standardised float32."""
        return (values.to(self.mean.dtype) - self.mean) / self.scale

    def inverse(self, values: Tensor) -> Tensor:
        """Standardised ``(..., size)`` -> raw units."""
        return values * self.scale + self.mean


class Predictor(nn.Module, ABC):
    """Base of all predictors.

    Attributes:
        pathwise: whether scenarios are differentiable functions of the weights and of noise.
        has_density: whether :meth:`weighted_log_density` exists.
        stochastic: whether more than one scenario makes sense.
    """

    pathwise = True
    has_density = True
    stochastic = True

    def __init__(self, context_size: int, outcome_size: int) -> None:
        super().__init__()
        self.context_size, self.outcome_size = context_size, outcome_size
        self.contexts = Standardiser(context_size)
        self.outcomes = Standardiser(outcome_size)

    def fit_scaling(self, contexts: Tensor, outcomes: Tensor) -> None:
        """Set the standardisation from training rows, ``(N, d_x)`` and ``(N, d_y)``, raw units."""
        self.contexts.fit(contexts)
        self.outcomes.fit(outcomes)

    def foundation(self) -> "Predictor | None":
        """A predictor this one is built on, to be fitted first and then fixed; None for most."""
        return None

    @abstractmethod
    def loss(self, context: Tensor, outcome: Tensor, generator: torch.Generator) -> Tensor:
        """The predictor's own training loss on ``(B, d_x)`` and ``(B, d_y)``: a scalar."""

    @abstractmethod
    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
    ) -> Tensor:
        """Scenarios ``(B, M, d_y)`` in raw units, with a graph to the weights if asked for."""

    @abstractmethod
    def weighted_log_density(
        self, context: Tensor, scenarios: Tensor, weights: Tensor, generator: torch.Generator
    ) -> Tensor:
        """``sum_bm weights_bm log p(y_bm | x_b)`` up to a constant, or a surrogate of it: a scalar.

        Differentiable in the network's weights; scenarios ``(B, M, d_y)`` and weights ``(B, M)``
        are constants. Raises TypeError where a predictor has no density.
        """


def mlp(
    inputs: int, width: int, layers: int, outputs: int, dropout: float, activation: type[nn.Module]
) -> nn.Sequential:
    """``layers`` hidden layers of ``width`` units with dropout after each, and a linear head."""
    modules: list[nn.Module] = []
    size = inputs
    for _ in range(layers):
        modules += [nn.Linear(size, width), activation(), nn.Dropout(dropout)]
        size = width
    return nn.Sequential(*modules, nn.Linear(size, outputs))
