"""Random-forest weights: the law of the outcome is that of the training outcomes, weighted by a forest.

With R_t(x) the training rows in the leaf of x in tree t,

    w_n(x) = 1/T sum_t 1{n in R_t(x)} / |R_t(x)|,

the weights of Meinshausen (2006, "Quantile regression forests"), whose decision is the prescription
``argmin_z sum_n w_n(x) f(y_n, z)`` of Bertsimas and Kallus (2020, "From predictive to prescriptive
analytics"). One forest for all outcomes keeps their dependence.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.errors import UserError
from diffusion_dfl.extras import installing
from diffusion_dfl.predictors.base import FULL, Backpropagation, Scaling
from diffusion_dfl.predictors.decision_maker import Decided, Rule
from diffusion_dfl.predictors.trees import TreePredictor
from diffusion_dfl.sizes import check_sizes

# Scenarios of a batch of solves: bounds its memory.
_CHUNK = 65536
_LEAST_SCALE = 1e-2
# Forests of a process by what they were grown from: predictors that share a fit, one that is loaded again.
_KEPT: "dict[bytes, _Forest]" = {}
_MOST_NODES = 2_000_000  # about half a gigabyte


@dataclass(frozen=True, eq=False)
class _Forest:
    """A grown forest.

    Attributes:
        forest: scikit-learn's.
        leaves: of every known row in every tree ``(N, T)``.
        mass: of known rows ``(N,)``.
        outcomes: of known rows less their mean ``(N, d_y)``.
    """

    forest: Any
    leaves: np.ndarray
    mass: np.ndarray
    outcomes: np.ndarray

    def __deepcopy__(self, memo: Any) -> "_Forest":
        return self  # Nothing of it is ever changed.

    def places(self, context: Tensor) -> np.ndarray:
        """The leaf of every context in every tree, ``(B, T)``; of one that is not finite any."""
        values = context.double().cpu().numpy()
        if not len(values):
            return self.leaves[:0]
        largest = float(np.finfo(np.float32).max)  # In which scikit-learn compares.
        clean = np.nan_to_num(values, nan=0.0, posinf=largest, neginf=-largest)
        found: np.ndarray = self.forest.apply(clean.clip(-largest, largest))
        return found

    @cached_property
    def nodes(self) -> int:
        """How many there are in all trees."""
        return int(sum(tree.tree_.node_count for tree in self.forest.estimators_))

    @cached_property
    def first_nodes(self) -> np.ndarray:
        """The number of every tree's first node among the nodes of all trees, ``(T,)``."""
        counts = [tree.tree_.node_count for tree in self.forest.estimators_]
        found: np.ndarray = np.cumsum([0, *counts[:-1]])
        return found

    @cached_property
    def node_moments(self) -> np.ndarray:
        """Means of the outcomes and of their squares over the known rows of all nodes, of leaves alone
        finite: ``(nodes, 2 d_y)``."""
        nodes = (self.leaves + self.first_nodes).ravel()
        values = np.concatenate([self.outcomes, self.outcomes**2], axis=1)
        mass = np.repeat(self.mass, self.leaves.shape[1])
        sums = [
            np.bincount(nodes, mass * np.repeat(column, self.leaves.shape[1]))
            for column in values.T
        ]
        with np.errstate(invalid="ignore"):
            found: np.ndarray = np.stack(sums, axis=1) / np.bincount(nodes, mass)[:, None]
        return found


class ForestWeights(TreePredictor):
    """Training outcomes weighted by scikit-learn's random forest, grown on all outcomes together.

    Decisions are made with all training outcomes and their weights; M scenarios are drawn for what is
    said of forecasts alone.

    Args:
        context_size: d_x.
        outcome_size: d_y; trees split by the squared errors of all, in standard deviations.
        trees: T.
        depth: splits between root and leaf, at most; 0 for any number.
        split_rows: rows of a node that is split, at least.
        leaf_rows: rows of a leaf, at least.
        feature_share: share of the features that are tried at a split.

    Raises:
        ValueError: a value out of range.
        UserError: scikit-learn is not installed.
    """

    def __init__(
        self,
        context_size: int,
        outcome_size: int,
        trees: int = 200,
        depth: int = 0,
        split_rows: int = 2,
        leaf_rows: int = 5,
        feature_share: float = 0.33,
    ) -> None:
        super().__init__(context_size, outcome_size)
        check_sizes(trees=trees, leaf_rows=leaf_rows)
        check_sizes(0, depth=depth)
        check_sizes(2, split_rows=split_rows)
        if not 0 < feature_share <= 1:
            raise ValueError(f"feature_share={feature_share} must be in (0, 1]")
        try:
            from sklearn.ensemble import RandomForestRegressor
        except ImportError as error:
            raise UserError(
                f"a random forest needs the package scikit-learn: {installing('forest')}"
            ) from error

        self._make = partial(
            RandomForestRegressor,
            n_estimators=trees,
            max_depth=depth or None,
            min_samples_split=split_rows,
            min_samples_leaf=leaf_rows,
            max_features=feature_share,
            random_state=0,
        )

    def _grow(self) -> "_Forest":
        rows, outcomes = self.known_contexts.cpu().numpy(), self.known_outcomes.cpu().numpy()
        counts = None if self.known_weights is None else self.known_weights.cpu().numpy()
        made = hashlib.sha256(repr(self._make().get_params()).encode())
        for values in (rows, outcomes, np.zeros(0) if counts is None else counts):
            made.update(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes())
        key = made.digest()
        if key not in _KEPT:
            grown = self._grown_anew(rows, outcomes, counts)
            while _KEPT and grown.nodes + sum(one.nodes for one in _KEPT.values()) > _MOST_NODES:
                _KEPT.pop(next(iter(_KEPT)), None)
            _KEPT[key] = grown
            return grown
        return _KEPT[key]

    def _grown_anew(
        self, rows: np.ndarray, outcomes: np.ndarray, counts: np.ndarray | None
    ) -> "_Forest":
        spread = outcomes.std(0)
        targets = outcomes / np.where(spread > 0, spread, 1.0)
        # A column of one outcome is a vector to scikit-learn.
        forest = self._make().fit(rows, targets if targets.shape[1] > 1 else targets[:, 0], counts)
        return _Forest(
            forest,
            forest.apply(rows),
            np.ones(len(rows)) if counts is None else counts.copy(),
            outcomes - outcomes.mean(0),
        )

    def row_weights(self, context: Tensor) -> Tensor:
        """w(x) of contexts ``(B, d_x)`` over the known rows: ``(B, N)`` float64, rows with sum 1, NaN of a
        context that is not finite."""
        grown: _Forest = self._trees
        places = grown.places(context)
        weights = np.zeros((len(places), len(grown.leaves)))
        for here, there in zip(places.T, grown.leaves.T, strict=True):
            same = (here[:, None] == there) * grown.mass
            weights += same / same.sum(1, keepdims=True)
        found = torch.as_tensor(weights / weights.sum(1, keepdims=True)).to(self.known_outcomes)
        return torch.where(context.isfinite().all(1, keepdim=True), found, torch.nan)

    def location_and_scale(self, context: Tensor) -> Scaling:
        """Mean and standard deviation by the weights, ``(B, d_y)`` each, raw units.

        The least standard deviation is a hundredth of the outcome's own: a leaf may hold one row.
        """
        grown: _Forest = self._trees
        # A mean by the weights is the trees' mean of what their leaves hold.
        found = grown.node_moments[grown.places(context) + grown.first_nodes].mean(1)
        mean, square = torch.as_tensor(found).to(self.outcomes.scale.device).chunk(2, dim=1)
        own, centre = self.outcomes.scale, self.known_outcomes.mean(0)
        scale = (square - mean.square()).clamp_min(0.0).sqrt().to(own)
        known = context.isfinite().all(1, keepdim=True)
        location = torch.where(known, (mean + centre).to(own), torch.nan)
        return Scaling(location, torch.maximum(scale, _LEAST_SCALE * own))

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
        weights = self.row_weights(context[: len(exact_context)])
        size = max(1, _CHUNK // len(self.known_outcomes))
        made = []
        for rule in rules:
            parts = [
                rule.optimal(self.known_outcomes.expand(len(part), -1, -1), known, part)
                for part, known in zip(weights.split(size), exact_context.split(size), strict=True)
            ]
            made.append(Decided(*(torch.cat(values) for values in zip(*parts, strict=True))))
        return made, scenarios

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        """Known outcomes drawn by their weights, ``(B, M, d_y)``."""
        self.check_backpropagation(backpropagation)
        weights = self.row_weights(context)
        known = weights.isfinite().all(1)
        shares = torch.where(known.unsqueeze(1), weights, 1.0)
        chosen = torch.multinomial(shares, num_scenarios, True, generator=generator)
        drawn = self.known_outcomes[chosen].to(self.outcomes.mean)
        return torch.where(known.view(-1, 1, 1), drawn, torch.nan)
