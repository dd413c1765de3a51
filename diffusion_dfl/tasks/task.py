"""What a task is: a program, a data set, and how decisions on its rows are judged."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_dfl.data import Dataset
from diffusion_dfl.programs import Program


@dataclass(frozen=True)
class Judgement:
    """What decisions are worth on some rows of a task's data.

    Attributes:
        per_row: the headline number of every row, ``(N,)``; ``task`` is its mean. NaN where there
            was no decision.
        metrics: further numbers by name: floats, ints, or lists of floats.
    """

    per_row: NDArray[np.float64]
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> float:
        """Mean of the headline number over the rows that have one; NaN if none has."""
        made = self.per_row[~np.isnan(self.per_row)]
        return float(made.mean()) if len(made) else math.nan


class Task(ABC):
    """A decision problem with data; what ``task=`` selects.

    Attributes:
        name: as in ``task=``.
        program: its mathematics.
        dataset: contexts and outcomes with their split.
        higher_is_better: direction of the headline number ``task``.
        pooled: whether all rows share one decision, made from one set of scenarios. Then all
            contexts are the same, and only the first of a batch is looked at.
        fit_dataset: what the two-stage fit reads in place of ``dataset``; None for no other.
        all_rows_scale: whether predictors standardise contexts with all rows, the test rows among
            them, in place of the training rows.
    """

    name: str
    program: Program
    dataset: Dataset
    higher_is_better: bool = False
    pooled: bool = False
    fit_dataset: Dataset | None = None
    all_rows_scale: bool = False

    @abstractmethod
    def judge(self, rows: NDArray[np.int64], decisions: NDArray[np.float64]) -> Judgement:
        """Worth of ``decisions`` ``(N, n)``, one a row of ``dataset`` in ``rows`` ``(N,)``.

        A row of NaN is a decision that was not made; it counts in no number.
        """

    @property
    def decision_names(self) -> tuple[str, ...]:
        """n names, as the columns of a table of decisions have them."""
        return tuple(f"decision_{number}" for number in range(self.program.num_decisions))

    def baselines(self) -> Mapping[str, NDArray[np.float64]]:
        """Plain baselines: name -> decisions ``(N, n)`` on the test rows, made without test data."""
        return {}


def plan_level(outcomes: NDArray[np.float64], decisions: NDArray[np.float64]) -> float | None:
    """Share of outcomes at or below the decision made for them, over rows and coordinates.

    Args:
        outcomes, decisions: ``(N, n)``; rows of NaN are decisions that were not made.
    """
    made = ~np.isnan(decisions).any(1)
    return float((outcomes[made] <= decisions[made]).mean()) if made.any() else None
