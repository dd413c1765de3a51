"""The interface of an estimator: (predictor, layer, batch) -> a loss whose gradient it is."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from diffusion_dfl.errors import UserError
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Predictor


@dataclass(frozen=True)
class Batch:
    """Rows of data, all of a part or a few: contexts ``(B, d_x)`` and outcomes ``(B, d_y)`` in raw units.

    Attributes:
        context: what is known before the decision.
        outcome: what happened.
        pooled: whether all rows share one context and one decision; then one set of scenarios is
            drawn, for the first row.
        exact_context: the contexts in float64, without the noise that training may add to
            ``context``, for constraints that depend on them: rounded to the networks' float32, limits
            that fit each other may contradict. None for ``context``.
        weights: ``(B,)``, what every row's losses are multiplied by, with mean 1 over all training
            rows; None for rows that count the same.
    """

    context: Tensor
    outcome: Tensor
    pooled: bool = False
    exact_context: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.context)

    def select(self, index: Tensor | slice) -> "Batch":
        """Some of the rows."""
        exact, weights = (
            None if values is None else values[index]
            for values in (self.exact_context, self.weights)
        )
        return Batch(self.context[index], self.outcome[index], self.pooled, exact, weights)

    def split(self, size: int) -> "list[Batch]":
        """So many rows at once; those of one decision stay together."""
        size = max(len(self), 1) if self.pooled else size
        starts = range(0, max(len(self), 1), size)
        return [self.select(slice(start, start + size)) for start in starts]

    @property
    def decision_context(self) -> Tensor:
        """The contexts a decision is made for, ``(B, d_x)`` or ``(1, d_x)``."""
        return self.context[:1] if self.pooled else self.context

    @property
    def constraint_context(self) -> Tensor:
        """What constraints that depend on the context see, rows as in :attr:`decision_context`."""
        return self.outcome_context[:1] if self.pooled else self.outcome_context

    @property
    def outcome_context(self) -> Tensor:
        """What costs that depend on the context see: the exact contexts of all outcomes."""
        return self.context if self.exact_context is None else self.exact_context


class Parts(NamedTuple):
    """The two scalars of a loss whose gradients are brought to like size before they are added.

    Attributes:
        decision, fit: of separate graphs.
        decision_weight, fit_weight: relative norms of their gradients.
    """

    decision: Tensor
    fit: Tensor
    decision_weight: float
    fit_weight: float


@dataclass(frozen=True)
class Loss:
    """A scalar to differentiate, and detached scalars worth logging.

    Attributes:
        value: the scalar.
        metrics: name -> detached scalar.
        parts: where not None, training differentiates these in place of ``value``
            (:mod:`diffusion_dfl.training.balance`).
    """

    value: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    parts: Parts | None = None


class Estimator(Protocol):
    """Turns a batch into a loss.

    Attributes:
        decision_focused: whether the loss involves the decision layer.

    One that weights log-densities may say ``needs_density = True``; it is then refused before training
    with a predictor that has none. One that multiplies by ``batch.weights`` says
    ``takes_weights = True``; others are refused with data that have weights.
    """

    decision_focused: bool

    def __call__(
        self, predictor: Any, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> Loss:
        """Loss of a batch; noise comes from ``generator``, on the batch's device.

        ``predictor`` is a :class:`~diffusion_dfl.predictors.Predictor`, or a policy for its estimator.
        """
        ...


def fit_loss(predictor: Predictor, batch: Batch, generator: torch.Generator) -> Tensor:
    """The predictor's own loss of a batch, a scalar.

    Raises:
        UserError: a predictor's that is none, or that has no graph.
    """
    weights = {} if batch.weights is None else {"weights": batch.weights}
    value = predictor.loss(batch.context, batch.outcome, generator, **weights)
    name = type(predictor).__name__
    if not isinstance(value, Tensor) or value.dim():
        told = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise UserError(
            f"{name}.loss gave {told}; expected a scalar tensor, the mean over the rows"
        )
    if torch.is_grad_enabled() and not value.requires_grad:
        raise UserError(
            f"{name}.loss gave a number without a graph, which trains nothing; compute it from the "
            "predictor's parameters, without detach() or no_grad()"
        )
    return value


def decision_cost(
    layer: DecisionLayer,
    outcome: Tensor,
    decision: Tensor,
    context: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean cost of decisions over the instances that were solved, a scalar.

    Rows the layer dropped are NaN; they count neither in the mean nor in its gradient. One decision
    for many outcomes is judged by all of them.

    Args:
        layer: the layer that just made the decisions.
        outcome: ``(B, d_y)``.
        decision: ``(B, n)`` or ``(1, n)``.
        context: ``(B, d_x)``, for costs that depend on it.
        weights: ``(B,)``, of :class:`Batch`; those of the rows that were solved stand for all.
    """
    solution = layer.last_solution
    good = solution.solved if solution is not None else decision.isfinite().all(1)
    decision = torch.where(good.unsqueeze(1), decision, 0.0).expand(len(outcome), -1)
    good = good.expand(len(outcome))
    context = None if context is None else context.double()
    cost = layer.program.cost_given(outcome.double(), decision, context)
    if weights is None:
        return torch.where(good, cost, 0.0).sum() / good.sum().clamp_min(1)
    counted = torch.where(good, weights.double(), 0.0)
    known = counted.sum()
    total = (counted * torch.where(good, cost, 0.0)).sum() / torch.where(known > 0, known, 1.0)
    return weights.double().mean() * total


Balance = Literal["gradient_norms", "none"]


@dataclass(frozen=True)
class Mixture:
    """How the decision's loss and the predictor's own become one.

    Attributes:
        decision_weight: weight of the decision; 0 is the twin that only fits on.
        fit_weight: weight of the predictor's own loss.
        balance: ``gradient_norms``: weights are relative norms of the two gradients in training, so
            that they mean the same for every estimator and task; ``none``: of the losses themselves.

    Raises:
        ValueError: an unknown balance, a weight below 0 or not finite, or none positive.
    """

    decision_weight: float = 1.0
    fit_weight: float = 1.0
    balance: Balance = "gradient_norms"

    def __post_init__(self) -> None:
        total = self.decision_weight + self.fit_weight
        if not (self.decision_weight >= 0 and self.fit_weight >= 0 and 0 < total < math.inf):
            raise ValueError(
                f"decision_weight={self.decision_weight} and fit_weight={self.fit_weight} must be "
                "finite and >= 0, and one of them positive"
            )
        if self.balance not in get_args(Balance):
            raise ValueError(
                f"balance={self.balance!r} is unknown; choose {' or '.join(get_args(Balance))}"
            )

    def loss(self, decision: Tensor | None, fit: Tensor | None, metrics: dict[str, Tensor]) -> Loss:
        """The loss of both; a term with weight 0 may be None."""
        total = torch.zeros(())
        for term, weight in ((decision, self.decision_weight), (fit, self.fit_weight)):
            if term is not None and weight != 0:
                total = total.to(term.device) + weight * term
        if decision is None or fit is None or self.balance == "none":
            return Loss(total, metrics)
        parts = Parts(decision, fit, self.decision_weight, self.fit_weight)
        return Loss(total, metrics, parts)


class Mixed(ABC):
    """An estimator of the decision's gradient, mixed with the predictor's own loss.

    Attributes:
        mixture: of the two.
    """

    decision_focused = True
    takes_weights = True
    mixture: Mixture

    def __call__(
        self, predictor: Predictor, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> Loss:
        surrogate = fit = None
        metrics: dict[str, Tensor] = {}
        if self.mixture.decision_weight:
            surrogate = self._surrogate(predictor, layer, batch, generator, metrics)
        if self.mixture.fit_weight:
            fit = fit_loss(predictor, batch, generator)
            metrics["fit_loss"] = fit.detach()
        return self.mixture.loss(surrogate, fit, metrics)

    @abstractmethod
    def _surrogate(
        self,
        predictor: Predictor,
        layer: DecisionLayer,
        batch: Batch,
        generator: torch.Generator,
        metrics: dict[str, Tensor],
    ) -> Tensor:
        """The scalar whose gradient is that of the decision cost; adds to the metrics."""
