"""Gradient-boosted quantiles: what a practitioner would try first where the best decision is a quantile.

Of a newsvendor with shortage cost b and surplus cost h the best decision is the quantile of the demand at
the level b / (b + h); so a forecast of this quantile, taken for the only scenario, leads to it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.errors import UserError
from diffusion_dfl.predictors.base import (
    FULL,
    Backpropagation,
    LogDensity,
    Predictor,
)


class BoostedQuantiles(Predictor):
    """One quantile of every outcome by scikit-learn's histogram gradient boosting (Ke et al., 2017).

    What is kept of it are the rows it was fitted to: trees are grown again, the same, where they are
    first needed, so that a file of weights holds numbers alone.

    Args:
        context_size: d_x.
        outcome_size: d_y; a model each.
        level: of the quantile: b / (b + h) of the cost, b a unit short and h a unit too many.
        rounds: trees an outcome.
        learning_rate: of each tree.
        leaves: leaves of a tree, at most.
        leaf_rows: rows of a leaf, at least.

    Raises:
        ValueError: a value out of range.
        UserError: scikit-learn is not installed.
    """

    pathwise = False
    has_density = False
    stochastic = False
    closed_form = True
    known_contexts: Tensor
    known_outcomes: Tensor
    known_weights: Tensor | None

    def __init__(
        self,
        context_size: int,
        outcome_size: int,
        level: float = 0.5,
        rounds: int = 150,
        learning_rate: float = 0.05,
        leaves: int = 8,
        leaf_rows: int = 40,
    ) -> None:
        super().__init__(context_size, outcome_size)
        if not 0 < level < 1:
            raise ValueError(f"level={level} must be in (0, 1): b / (b + h) of the cost")
        for name, value, least in (("rounds", rounds, 1), ("leaves", leaves, 2)):
            if value < least:
                raise ValueError(f"{name}={value} must be an integer >= {least}")
        try:
            from sklearn.ensemble import HistGradientBoostingRegressor
        except ImportError as error:
            raise UserError(
                "boosted quantiles need the package scikit-learn: pip install 'diffusion-dfl[boosting]'"
            ) from error

        def make() -> Any:
            return HistGradientBoostingRegressor(
                loss="quantile",
                quantile=level,
                max_iter=rounds,
                learning_rate=learning_rate,
                max_leaf_nodes=leaves,
                min_samples_leaf=leaf_rows,
                early_stopping=False,
                random_state=0,
            )

        self._make = make
        self._models: list[Any] = []
        self.register_buffer("known_contexts", torch.zeros(1, context_size, dtype=torch.float64))
        self.register_buffer("known_outcomes", torch.zeros(1, outcome_size, dtype=torch.float64))
        self.register_buffer("known_weights", None)

    def fit_rows(self, contexts: Tensor, outcomes: Tensor, weights: Tensor | None = None) -> None:
        """Fit to rows ``(N, d_x)`` and ``(N, d_y)``, raw units, of ``weights (N,)``."""
        self.known_contexts, self.known_outcomes = contexts.double(), outcomes.double()
        self.known_weights = None if weights is None else weights.double()
        self._models = []

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As many rows as there are in the file."""
        for name in ("known_contexts", "known_outcomes"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, getattr(self, name).new_zeros(saved.shape))
        weighted = prefix + "known_weights" in state_dict
        self.known_weights = (
            self.known_outcomes.new_zeros(len(self.known_outcomes)) if weighted else None
        )
        self._models = []
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def loss(
        self,
        context: Tensor,
        outcome: Tensor,
        generator: torch.Generator,
        weights: Tensor | None = None,
    ) -> Tensor:
        raise TypeError("boosted quantiles are fitted tree by tree; they have no gradient")

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        """The quantiles as the only scenario, ``(B, 1, d_y)``."""
        self.check_backpropagation(backpropagation)
        if not self._models:
            rows, targets = self.known_contexts.cpu().numpy(), self.known_outcomes.cpu().numpy()
            counts = None if self.known_weights is None else self.known_weights.cpu().numpy()
            self._models = [self._make().fit(rows, column, counts) for column in targets.T]
        inputs = context.double().cpu().numpy()
        found = np.stack([model.predict(inputs) for model in self._models], axis=1)
        return torch.as_tensor(found).to(self.outcomes.mean).unsqueeze(1)

    def weighted_log_density(
        self,
        context: Tensor,
        scenarios: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        trust_region: float = 0.0,
    ) -> LogDensity:
        raise TypeError("a quantile has no density")
