"""What models of trees have in common: of them the rows are kept that they were fitted to."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from diffusion_dfl.predictors.base import LogDensity, Predictor


class TreePredictor(Predictor):
    """Trees of scikit-learn, grown again, the same, where they are first needed.

    A file of weights so holds numbers alone.

    Args:
        context_size: d_x.
        outcome_size: d_y.
    """

    pathwise = False
    has_density = False
    closed_form = True
    known_contexts: Tensor
    known_outcomes: Tensor
    known_weights: Tensor | None

    def __init__(self, context_size: int, outcome_size: int) -> None:
        super().__init__(context_size, outcome_size)
        self._grown: Any = None
        self.register_buffer("known_contexts", torch.zeros(1, context_size, dtype=torch.float64))
        self.register_buffer("known_outcomes", torch.zeros(1, outcome_size, dtype=torch.float64))
        self.register_buffer("known_weights", None)

    @abstractmethod
    def _grow(self) -> Any:
        """The trees of the rows that are kept."""

    @property
    def _trees(self) -> Any:
        if self._grown is None:
            self._grown = self._grow()
        return self._grown

    def fit_rows(self, contexts: Tensor, outcomes: Tensor, weights: Tensor | None = None) -> None:
        """Fit to rows ``(N, d_x)`` and ``(N, d_y)``, raw units, of ``weights (N,)``."""
        self.known_contexts, self.known_outcomes = contexts.double(), outcomes.double()
        self.known_weights = None if weights is None else weights.double()
        self._grown = None

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
        self._grown = None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def loss(
        self,
        context: Tensor,
        outcome: Tensor,
        generator: torch.Generator,
        weights: Tensor | None = None,
    ) -> Tensor:
        raise TypeError(f"{type(self).__name__} is fitted tree by tree; it has no gradient")

    def weighted_log_density(
        self,
        context: Tensor,
        scenarios: Tensor,
        weights: Tensor,
        generator: torch.Generator,
        trust_region: float = 0.0,
    ) -> LogDensity:
        raise TypeError(f"{type(self).__name__} has no density")
