"""What predictors and policies have in common: they make decisions, with what is standardised alike."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from diffusion_dfl.sizes import check_sizes


class Decided(NamedTuple):
    """Decisions for B contexts by one rule.

    Attributes:
        decision: ``(B, n)`` float64; NaN in the rows that have none.
        status: ``(B,)`` int64 of :class:`~diffusion_dfl.solvers.Status`.
    """

    decision: Tensor
    status: Tensor


class Rule(Protocol):
    """How what a decision maker says becomes a feasible decision; it knows the program.

    ``context (B, d_x)``, float64, is for constraints that depend on it.
    """

    @property
    def num_scenarios(self) -> int:
        """M, scenarios a context."""
        ...

    def optimal(self, scenarios: Tensor, context: Tensor, weights: Tensor | None = None) -> Decided:
        """The best decisions for the first M of scenarios ``(B, M', d_y)``; with weights ``(B, M')``,
        rows with sum 1, for all of them."""
        ...

    def nearest(self, decision: Tensor, context: Tensor) -> Decided:
        """The feasible decisions next to ``(B, n)``."""
        ...


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
        # A deviation that is rounding, of a column's own numbers or of the largest of all, is none.
        size = values.double().abs().amax() if values.numel() else mean.new_zeros(())
        self.scale.copy_(torch.where(scale > 1e-8 * mean.abs() + 1e-13 * size, scale, 1.0))

    def forward(self, values: Tensor) -> Tensor:
        """``(..., size)`` in raw units -> standardised float32."""
        return (values.to(self.mean.dtype) - self.mean) / self.scale

    def inverse(self, values: Tensor) -> Tensor:
        """Standardised ``(..., size)`` -> raw units."""
        return values * self.scale + self.mean


class DecisionMaker(nn.Module, ABC):
    """Base of predictors, whose scenarios a rule decides on, and of policies, which decide by themselves.

    Attributes:
        pathwise: whether scenarios are differentiable functions of the weights and of noise.
        has_density: whether scenarios have a log-density to weight.
        stochastic: whether more than one scenario makes sense.
        has_path: whether its sampler has a path with a density of its own.
        decides: whether it maps contexts to decisions and predicts no outcome, as a policy does.
        num_sampling_steps: S, steps of a sampler that takes many; 0 for none.
        closed_form: whether it is fitted by ``fit_rows``, not by steps down a loss.

    Args:
        context_size: d_x.
        outcome_size: d_y; n for a policy.
        context_rank: numbers that the network knows a context by, a linear map of the standardised
            features that is learned with it; 0 for the features themselves. Few of them keep a network
            of many features and few rows from telling the rows apart.

    Raises:
        ValueError: no outcome, or a size or a rank below 0.
    """

    pathwise = False
    has_density = False
    stochastic = False
    has_path = False
    decides = False
    num_sampling_steps = 0
    closed_form = False

    def __init__(self, context_size: int, outcome_size: int, context_rank: int = 0) -> None:
        super().__init__()
        check_sizes(outcome_size=outcome_size)
        check_sizes(0, context_size=context_size, context_rank=context_rank)
        self.context_size, self.outcome_size = context_size, outcome_size
        self.contexts = Standardiser(context_size)
        self.outcomes = Standardiser(outcome_size)
        self.encoded_size = context_rank or context_size
        self.encoder: nn.Module = nn.Identity()
        if context_rank:
            self.encoder = nn.Linear(context_size, context_rank, bias=False)

    def encoded(self, context: Tensor) -> Tensor:
        """What the network knows of contexts ``(B, d_x)``: ``(B, encoded_size)``."""
        encoded: Tensor = self.encoder(self.contexts(context))
        return encoded

    def fit_scaling(self, contexts: Tensor, outcomes: Tensor) -> None:
        """Set the standardisation from training rows, ``(N, d_x)`` and ``(N, d_y)``, raw units."""
        self.contexts.fit(contexts)
        self.outcomes.fit(outcomes)

    @abstractmethod
    def decide(
        self,
        rules: Sequence[Rule],
        context: Tensor,
        exact_context: Tensor,
        generator: torch.Generator,
    ) -> tuple[list[Decided], Tensor]:
        """Decisions by every rule, without a graph, and what they were made of.

        Args:
            rules: all decide on the same scenarios, as many as the largest of them wants.
            context: ``(B', d_x)`` as networks see it, B' >= B.
            exact_context: ``(B, d_x)``, that of constraints; rows beyond it are drawn and left out.
            generator: noise of the scenarios.

        Returns:
            A decision a rule, and the scenarios ``(B, M, d_y)``, or ``(B, 1, n)`` of a policy what it
            says itself.
        """
