"""A user's own decision problem: a program and a data frame."""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from diffusion_dfl.data import Dataset
from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.data.frames import Order, Shares, as_columns, frame_dataset
from diffusion_dfl.programs import Program
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks.neighbours import neighbours
from diffusion_dfl.tasks.task import Judgement, Task

# Scenarios of a batch of solves: bounds its memory.
_CHUNK = 16384


def task_from_frame(
    name: str,
    program: Program,
    frame: pd.DataFrame,
    context: Sequence[str],
    outcome: Sequence[str],
    rng: np.random.Generator | int = 0,
    *,
    order: Order = "time",
    shares: Shares = (0.6, 0.2, 0.2),
    date: str | None = None,
    source: Literal["real", "simulated"] = "real",
    weights: str | None = None,
    decisions: Sequence[str] | None = None,
) -> "FrameTask":
    """A task whose decisions are judged by the program's own cost.

    Args:
        name: of the task; as in ``task=`` where a YAML names it.
        program: the decision problem.
        frame: a row a decision.
        context: columns known before the decision, at least one.
        outcome: columns known after it, in the order of the program's y.
        rng: generator of the split, or its seed; used by ``order="shuffled"`` only.
        order, shares, date, source, weights: of the split and the rows, as in
            :func:`diffusion_dfl.data.frames.frame_dataset`.
        decisions: names of the program's n decisions, for tables of them; decision_0, ... if None.

    Raises:
        DataError: a frame that cannot be used, a program of another number of outcomes, or other than
            n different names of decisions.
    """
    context, outcome = as_columns("context", context), as_columns("outcome", outcome)
    if not context:
        raise DataError(
            f"data set {name}: context=[] names no column; name at least one, a column of ones if "
            "nothing is known beforehand."
        )
    if isinstance(rng, int):
        rng = np.random.default_rng(rng)
    data = frame_dataset(
        name,
        frame,
        context,
        outcome,
        rng,
        order=order,
        shares=shares,
        date=date,
        source=source,
        weights=weights,
    )
    if program.num_outcomes != len(outcome):
        raise DataError(
            f"task={name}: the program has num_outcomes={program.num_outcomes}; outcome names "
            f"{len(outcome)} columns: {', '.join(map(str, outcome))}."
        )
    if decisions is not None and not len(decisions) == len({*decisions}) == program.num_decisions:
        raise DataError(
            f"task={name}: decisions={list(decisions)}; expected {program.num_decisions} different "
            "names, one a decision of the program."
        )
    return FrameTask(name, program, data, tuple(outcome), decisions)


class FrameTask(Task):
    """Decisions judged by ``f(y, z)`` of the program, the outcome that came.

    Metrics: ``hindsight_cost``, the mean cost of the best decision for every row's own outcome, a
    bound no decision beats, and ``hindsight_regret``, what the decisions cost above it.

    Attributes:
        outcome_names: d_y columns.
        decision_names: n names; decision_0, ... where none were given.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        dataset: Dataset,
        outcome_names: tuple[str, ...],
        decision_names: Sequence[str] | None = None,
    ) -> None:
        self.name, self.program, self.dataset = name, program, dataset
        self.outcome_names = outcome_names
        self._decision_names = None if decision_names is None else tuple(decision_names)

    @property
    def decision_names(self) -> tuple[str, ...]:
        return super().decision_names if self._decision_names is None else self._decision_names

    def judge(self, rows: NDArray[np.int64], decisions: NDArray[np.float64]) -> Judgement:
        """Cost of every decision with the outcome that came."""
        cost = self._cost(rows, decisions)
        best = self._hindsight[rows]
        both = ~(np.isnan(cost) | np.isnan(best))
        if not both.any():
            return Judgement(cost)
        return Judgement(
            cost,
            {
                "hindsight_cost": float(best[both].mean()),
                "hindsight_regret": float((cost - best)[both].mean()),
            },
        )

    def baselines(self) -> dict[str, NDArray[np.float64]]:
        """``saa``: the decision that is best for all outcomes before the test together. ``knn_saa``: for
        those of the most similar contexts, their number chosen on the validation rows."""
        data = self.dataset
        everything = data.outcomes[data.known][None]
        if self.program.contextual:
            saa = self._decided(data.test, everything.repeat(len(data.test), axis=0))
        else:
            saa = self._decided(data.test[:1], everything).repeat(len(data.test), axis=0)
        return {"saa": saa, "knn_saa": self._nearest()}

    def _nearest(self) -> NDArray[np.float64]:
        data = self.dataset
        size = len(data.train)
        counts = sorted({min(max(round(f * size**0.5), 1), size) for f in (0.25, 0.5, 1, 2, 4)})
        costs = []
        for count in counts:
            made = self._decided(data.validation, neighbours(data, data.validation, count))
            costs.append(self.judge(data.validation, made).task)
        best = counts[int(np.nanargmin(costs))] if not np.isnan(costs).all() else counts[0]
        return self._decided(data.test, neighbours(data, data.test, best, data.known))

    @cached_property
    def _hindsight(self) -> NDArray[np.float64]:
        """Cost of the best decision for every row's own outcome, ``(N,)``; NaN where none is found."""
        rows = np.arange(len(self.dataset.outcomes))
        decision = self._decided(rows, self.dataset.outcomes[:, None])
        return self._cost(rows, decision)

    def _cost(self, rows: NDArray[np.int64], decisions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cost of the decisions ``(N, n)`` for the rows, ``(N,)``; NaN where there is none."""
        parts = (self.dataset.outcomes[rows], decisions, self.dataset.contexts[rows])
        return self.program.realised(*(torch.as_tensor(part) for part in parts)).numpy()

    def _decided(
        self, rows: NDArray[np.int64], scenarios: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Decisions of the exact program ``(N, n)`` for scenarios ``(N, M, d_y)``; NaN for none."""
        size = max(1, _CHUNK // scenarios.shape[1])
        made = []
        for start in range(0, len(rows), size):
            chunk = slice(start, start + size)
            context = None
            if self.program.contextual:
                context = torch.as_tensor(self.dataset.contexts[rows[chunk]])
            solution = solve(self.program, scenarios[chunk], context=context)
            made.append(solution.decision.numpy())
        return np.concatenate(made)
