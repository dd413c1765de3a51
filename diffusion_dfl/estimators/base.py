"""The interface of an estimator: (predictor, layer, batch) -> a loss whose gradient it is."""

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Predictor


@dataclass(frozen=True)
class Batch:
    """Contexts ``(B, d_x)`` and outcomes ``(B, d_y)`` in raw units.

    Attributes:
        context: what is known before the decision.
        outcome: what happened.
        pooled: whether all rows share one context and one decision; then one set of scenarios is
            drawn, for the first row.
        exact_context: the contexts in float64, without the noise that training may add to
            ``context``, for constraints that depend on them; None for ``context``.
    """

    context: Tensor
    outcome: Tensor
    pooled: bool = False
    exact_context: Tensor | None = None

    def __len__(self) -> int:
        return len(self.context)

    @property
    def decision_context(self) -> Tensor:
        """The contexts a decision is made for, ``(B, d_x)`` or ``(1, d_x)``."""
        return self.context[:1] if self.pooled else self.context

    @property
    def constraint_context(self) -> Tensor:
        """What constraints that depend on the context see, rows as in :attr:`decision_context`."""
        exact = self.context if self.exact_context is None else self.exact_context
        return exact[:1] if self.pooled else exact


@dataclass(frozen=True)
class Loss:
    """A scalar to differentiate, and detached scalars worth logging."""

    value: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Estimator(Protocol):
    """Turns a batch into a loss.

    Attributes:
        decision_focused: whether the loss involves the decision layer.

    One that weights log-densities may say ``needs_density = True``; it is then refused before training
    with a predictor that has none.
    """

    decision_focused: bool

    def __call__(
        self, predictor: Predictor, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> Loss:
        """Loss of a batch; noise comes from ``generator``, on the batch's device."""
        ...


def decision_cost(layer: DecisionLayer, outcome: Tensor, decision: Tensor) -> Tensor:
    """Mean cost of decisions over the instances that were solved, a scalar.

    Rows the layer dropped are NaN; they count neither in the mean nor in its gradient. One decision
    for many outcomes is judged by all of them.

    Args:
        layer: the layer that just made the decisions.
        outcome: ``(B, d_y)``.
        decision: ``(B, n)`` or ``(1, n)``.
    """
    solution = layer.last_solution
    good = solution.solved if solution is not None else decision.isfinite().all(1)
    decision = torch.where(good.unsqueeze(1), decision, 0.0).expand(len(outcome), -1)
    good = good.expand(len(outcome))
    cost = layer.program.cost(outcome.double(), decision)
    return torch.where(good, cost, 0.0).sum() / good.sum().clamp_min(1)


def mix(
    decision: Tensor | None, fit: Tensor | None, decision_weight: float, fit_weight: float
) -> Tensor:
    """``decision_weight * decision + fit_weight * fit``; a term with weight 0 may be None."""
    total = torch.zeros(())
    for term, weight in ((decision, decision_weight), (fit, fit_weight)):
        if term is not None and weight != 0:
            total = total.to(term.device) + weight * term
    return total


def check_weights(decision_weight: float, fit_weight: float) -> None:
    """Raise ValueError unless both are >= 0 and one is positive."""
    total = decision_weight + fit_weight
    if not (decision_weight >= 0 and fit_weight >= 0 and 0 < total < math.inf):
        raise ValueError(
            f"decision_weight={decision_weight} and fit_weight={fit_weight} must be finite and "
            ">= 0, and one of them positive"
        )
