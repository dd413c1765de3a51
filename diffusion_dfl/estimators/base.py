"""The interface of an estimator: (predictor, layer, batch) -> a loss whose gradient it is."""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Predictor


@dataclass(frozen=True)
class Batch:
    """Contexts ``(B, d_x)`` and outcomes ``(B, d_y)`` in raw units."""

    context: Tensor
    outcome: Tensor

    def __len__(self) -> int:
        return len(self.context)


@dataclass(frozen=True)
class Loss:
    """A scalar to differentiate, and detached scalars worth logging."""

    value: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Estimator(Protocol):
    """Turns a batch into a loss.

    Attributes:
        decision_focused: whether the loss involves the decision layer.
    """

    decision_focused: bool

    def __call__(
        self, predictor: Predictor, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> Loss:
        """Loss of a batch; noise comes from ``generator``, on the batch's device."""
        ...


def decision_cost(layer: DecisionLayer, outcome: Tensor, decision: Tensor) -> Tensor:
    """Mean cost of decisions over the instances that were solved, a scalar.

    Rows the layer dropped are NaN; they count neither in the mean nor in its gradient.
    """
    solution = layer.last_solution
    good = solution.solved if solution is not None else decision.isfinite().all(1)
    cost = layer.program.cost(outcome.double(), torch.where(good.unsqueeze(1), decision, 0.0))
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
    if decision_weight < 0 or fit_weight < 0 or decision_weight + fit_weight == 0:
        raise ValueError(
            f"decision_weight={decision_weight} and fit_weight={fit_weight} must be >= 0, "
            "and one of them positive"
        )
