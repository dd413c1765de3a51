"""Gradient-boosted quantiles: what a practitioner would try first where the best decision is a quantile.

Of a newsvendor with shortage cost b and surplus cost h the best decision is the quantile of the demand at
the level b / (b + h); so a forecast of this quantile, taken for the only scenario, leads to it.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.errors import UserError
from diffusion_dfl.extras import installing
from diffusion_dfl.predictors.base import FULL, Backpropagation
from diffusion_dfl.predictors.trees import TreePredictor
from diffusion_dfl.sizes import check_sizes


class BoostedQuantiles(TreePredictor):
    """One quantile of every outcome by scikit-learn's histogram gradient boosting (Ke et al., 2017).

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

    stochastic = False

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
        check_sizes(rounds=rounds, leaf_rows=leaf_rows)
        check_sizes(2, leaves=leaves)
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate={learning_rate} must be a finite number > 0")
        try:
            from sklearn.ensemble import HistGradientBoostingRegressor
        except ImportError as error:
            raise UserError(
                f"boosted quantiles need the package scikit-learn: {installing('boosting')}"
            ) from error

        self._make = partial(
            HistGradientBoostingRegressor,
            loss="quantile",
            quantile=level,
            max_iter=rounds,
            learning_rate=learning_rate,
            max_leaf_nodes=leaves,
            min_samples_leaf=leaf_rows,
            early_stopping=False,
            random_state=0,
        )

    def _grow(self) -> list[Any]:
        rows, targets = self.known_contexts.cpu().numpy(), self.known_outcomes.cpu().numpy()
        counts = None if self.known_weights is None else self.known_weights.cpu().numpy()
        return [self._make().fit(rows, column, counts) for column in targets.T]

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
        inputs = context.double().cpu().numpy()
        found = np.stack([model.predict(inputs) for model in self._trees], axis=1)
        return torch.as_tensor(found).to(self.outcomes.mean).unsqueeze(1)
