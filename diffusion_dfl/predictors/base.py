"""What every predictor offers: its own loss, scenarios, and a weighted log-density.

Contexts and outcomes come and go in raw units; a predictor standardises contexts with statistics of the
training days, kept as buffers beside its weights, and outcomes with those or by its ``base``
(:mod:`.residual`).
"""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from diffusion_dfl.errors import UserError
from diffusion_dfl.predictors.decision_maker import Decided, DecisionMaker, Rule
from diffusion_dfl.sizes import check_sizes

if TYPE_CHECKING:
    from diffusion_dfl.predictors.residual import ResidualBase

BackpropagationName = Literal["full", "checkpoint", "last"]


@dataclass(frozen=True)
class Backpropagation:
    """How a pathwise gradient passes a sampler of many steps.

    Attributes:
        kind: ``full``: every step's activations are kept; ``checkpoint``: only its input is, and the
            step is run again (Chen et al., 2016), the same gradient; ``last``: only the last
            ``steps`` steps are differentiated (Clark et al., 2024, DRaFT-K), a biased gradient.
        steps: K of ``last``.
    """

    kind: BackpropagationName = "full"
    steps: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("full", "checkpoint", "last"):
            raise ValueError(
                f"backpropagation={self.kind!r} is unknown; choose full, checkpoint or last"
            )
        check_sizes(0, last_steps=self.steps)
        if (self.kind == "last") != (self.steps > 0):
            raise ValueError(
                f"last_steps={self.steps} with backpropagation={self.kind}: last_steps is the "
                "number of steps of backpropagation=last, at least 1 there and 0 elsewhere"
            )


FULL = Backpropagation()


class LogDensity(NamedTuple):
    """A weighted sum of log-densities.

    Attributes:
        value: the sum, a scalar, differentiable in the network's weights.
        outside: share of the terms left out by the trust region, a scalar without graph.
    """

    value: Tensor
    outside: Tensor


class Scaling(NamedTuple):
    """What outcomes are standardised with, in raw units.

    Attributes:
        location: ``(B, d_y)``, or ``(1, d_y)`` for all contexts.
        scale: of the same shape, positive.
    """

    location: Tensor
    scale: Tensor

    def rows(self, index: Tensor | slice) -> "Scaling":
        """That of some contexts."""
        return Scaling(self.location[index], self.scale[index])


def row_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of ``values (B, ...)``, every row times its weight ``(B,)`` if there are any: a scalar."""
    if weights is None:
        return values.mean()
    return (weights.to(values.dtype).view(-1, *[1] * (values.dim() - 1)) * values).mean()


class Predictor(DecisionMaker):
    """Base of all predictors, with the attributes of a :class:`DecisionMaker` and

    Attributes:
        base: what gives outcomes their location and scale, fitted before everything else and then
            fixed, so that the predictor learns the law of what is left; None for the training days'
            mean and standard deviation.
        antithetic_scenarios: whether scenarios are drawn in pairs and not independently.

    A predictor of the user's own is residual where it passes ``base`` on and turns outcomes into the
    network's units and back by :meth:`standardised` and :meth:`raw`; training gives it out-of-fold
    scalings (:meth:`under`) without its doing.

    Args:
        context_size: d_x.
        outcome_size: d_y.
        base: see above.
        context_rank: as a :class:`DecisionMaker` has it.
    """

    pathwise = True
    has_density = True
    stochastic = True
    antithetic_scenarios = False

    def __init__(
        self,
        context_size: int,
        outcome_size: int,
        base: "ResidualBase | None" = None,
        context_rank: int = 0,
    ) -> None:
        super().__init__(context_size, outcome_size, context_rank)
        self.base = base
        self._scaling: Scaling | None = None

    @torch.no_grad()
    def decide(
        self,
        rules: Sequence[Rule],
        context: Tensor,
        exact_context: Tensor,
        generator: torch.Generator,
    ) -> tuple[list[Decided], Tensor]:
        count = max(rule.num_scenarios for rule in rules)
        scenarios = self.checked_sample(context, count, generator)[: len(exact_context)]
        return [rule.optimal(scenarios, exact_context) for rule in rules], scenarios

    def checked_sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        """What :meth:`sample` gives, checked: a predictor of the user's own may give anything.

        Raises:
            UserError: no tensor of floats ``(B, M, d_y)``, or one without a graph where it is to be
                differentiated.
        """
        options: dict[str, Any] = {}
        if differentiable:
            options = {"differentiable": True, "backpropagation": backpropagation}
        found = self.sample(context, num_scenarios, generator, **options)
        wanted, name = (len(context), num_scenarios, self.outcome_size), type(self).__name__
        # A prediction without spread may be one scenario, however many are asked for.
        alone = (len(context), 1, self.outcome_size)
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"{name}.sample gave {kind}; expected a tensor of floats {wanted}")
        if found.shape != wanted and (self.stochastic or found.shape != alone):
            raise UserError(
                f"{name}.sample gave scenarios {tuple(found.shape)}; expected (B, M, d_y) = {wanted}"
            )
        if differentiable and torch.is_grad_enabled() and not found.requires_grad:
            raise UserError(
                f"{name}.sample(differentiable=True) gave scenarios without a graph, and so no pathwise "
                "gradient; make them of its parameters and noise, or set pathwise = False and use Score"
            )
        return found

    def fit_rows(self, contexts: Tensor, outcomes: Tensor, weights: Tensor | None = None) -> None:
        """Fit to rows ``(N, d_x)`` and ``(N, d_y)`` in closed form; TypeError where there is none.

        ``weights (N,)`` as in :meth:`loss`.
        """
        raise TypeError(f"{type(self).__name__} has no fit in closed form")

    def scaling(self, context: Tensor) -> Scaling:
        """What outcomes of contexts ``(B, d_x)`` are standardised with."""
        if self._scaling is not None:
            return self._scaling.rows(slice(len(context)))
        if self.base is not None:
            return self.base(context)
        return Scaling(self.outcomes.mean.unsqueeze(0), self.outcomes.scale.unsqueeze(0))

    def under(self, scaling: Scaling) -> Self:
        """The same predictor, with the same weights, for rows whose scaling is known.

        Training rows have the scaling of the base that did not see them, at their true contexts,
        whatever noise is added to those that networks see. Methods of the result take these rows,
        in their order, or the first of them.

        Args:
            scaling: of the rows, ``(B, d_y)``.
        """
        view = copy.copy(self)
        view._scaling = scaling
        return view

    def standardised(self, context: Tensor, outcomes: Tensor) -> Tensor:
        """Outcomes ``(B, M, d_y)`` of contexts ``(B, d_x)`` in the network's units, float32."""
        location, scale = self.scaling(context)
        return (outcomes.to(scale.dtype) - location.unsqueeze(1)) / scale.unsqueeze(1)

    def raw(self, context: Tensor, values: Tensor) -> Tensor:
        """The inverse: the network's units ``(B, M, d_y)`` -> outcomes in raw units."""
        location, scale = self.scaling(context)
        return values * scale.unsqueeze(1) + location.unsqueeze(1)

    @abstractmethod
    def loss(
        self,
        context: Tensor,
        outcome: Tensor,
        generator: torch.Generator,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The predictor's own training loss on ``(B, d_x)`` and ``(B, d_y)``: a scalar.

        It is the mean over rows of the loss of each times its weight, of ``weights (B,)``, whose mean
        over all training rows is 1; None for rows that count the same. A predictor of the user's own
        may leave the argument out: it is then refused with data that have weights.
        """

    @abstractmethod
    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        """Scenarios ``(B, M, d_y)`` in raw units, with a graph to the weights if asked for.

        Raises ValueError for what :meth:`check_backpropagation` refuses.
        """

    def check_backpropagation(self, backpropagation: Backpropagation) -> None:
        """Raise ValueError unless the sampler has the steps it is to skip or to make again."""
        if backpropagation.kind != "full" and not self.num_sampling_steps:
            raise ValueError(
                f"backpropagation={backpropagation.kind} must be full: {type(self).__name__} has no "
                "sampler of many steps (num_sampling_steps = 0)"
            )
        if backpropagation.steps > self.num_sampling_steps:
            raise ValueError(
                f"last_steps={backpropagation.steps} must be at most num_sampling_steps="
                f"{self.num_sampling_steps}"
            )

    @abstractmethod
    def weighted_log_density(
        self,
        context: Tensor,
        scenarios: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        trust_region: float = 0.0,
    ) -> LogDensity:
        """``sum_bm weights_bm log p(y_bm | x_b)`` up to a constant, or a surrogate of it.

        Differentiable in the network's weights; scenarios ``(B, M, d_y)`` and weights ``(B, M)``
        are constants. Raises TypeError where a predictor has no density.

        Args:
            context: ``(B, d_x)``.
            scenarios: ``(B, M, d_y)``, raw units.
            weights: ``(B, M)``; minimising the sum makes scenarios of positive weight less likely.
            generator: noise of a surrogate.
            trust_region: scenarios being made less likely stop counting once their squared
                standardised error exceeds this multiple of d_y, so that the sum cannot be lowered
                without bound; 0 for none.
        """
