"""What trained predictors save on each other and on plain rules, on the same rows."""

import logging
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from diffusion_dfl.errors import UserError
from diffusion_dfl.tasks import Task, project
from diffusion_dfl.training.comparison import note
from diffusion_dfl.training.fitted import Fitted

logger = logging.getLogger(__name__)

# A decision this far from the feasible set, relative to its size, is rounded.
_ALLOWED = 1e-6


def compare(
    fitted: Mapping[str, Fitted],
    against: str | None = None,
    *,
    others: Mapping[str, ArrayLike] | None = None,
    block: int = 1,
) -> pd.DataFrame:
    """Costs on the test rows, and what each saves on one of them, paired over the rows.

    The interval is Student's, for the mean of differences that are independent. Days that follow each
    other are not: with ``block=7`` the differences are means of a week. It is of these test rows and of
    these trained predictors; other seeds train others.

    Args:
        fitted: name -> a trained predictor, all of the same task.
        against: whom gains are over, by name; the best of the task's plain baselines if None.
        others: name -> decisions ``(N, n)`` of the N test rows, as of a rule of thumb.
        block: rows that follow each other and count as one; what is left over at the end does not.

    Returns:
        A row a name, those of the task's baselines first: ``cost``, the mean of the headline number
        over the rows that it has a decision for (a warning says where some have none), NaN without any;
        ``gain``, how much better than ``against`` it is, above 0 for better whatever the direction;
        ``low`` and ``high``, its 95 % interval; ``rows``, those that both have a decision for.

    Raises:
        UserError: nothing to compare, a name twice, predictors of several tasks or without data, decisions
            of another shape or that are not allowed, an unknown ``against``, fewer than two blocks.
    """
    task = _task(fitted)
    rows, size = task.dataset.test, task.program.num_decisions
    decisions = dict(task.baselines())
    plain = list(decisions)
    twice = (fitted.keys() & decisions.keys()) | ({*fitted, *plain} & set(others or ()))
    if twice:
        raise UserError(
            f"{', '.join(sorted(twice))}: a name stands for one; plain baselines have theirs"
        )
    decisions |= {name: np.asarray(z, dtype=np.float64) for name, z in (others or {}).items()}
    for name, one in fitted.items():
        note(task, one.predictor, one.rule)
        decisions[name] = one.decide(task.dataset.contexts[rows], as_judged=True).decision
    costs = {}
    for name, made in decisions.items():
        if made.shape != (len(rows), size):
            raise UserError(
                f"{name}: decisions have shape {made.shape}; expected {len(rows), size}"
            )
        if others and name in others:
            _check_allowed(task, name, made)
        costs[name] = task.judge(rows, made).per_row
    sign = -1.0 if task.higher_is_better else 1.0
    if not 1 <= block <= len(rows) // 2:
        raise UserError(f"block={block} must lie in 1..{len(rows) // 2}, half of the test rows")
    costs = {name: cost[: len(rows) // block * block] for name, cost in costs.items()}
    for name, cost in costs.items():
        if np.isnan(cost).all():
            logger.warning("%s: no test row has a decision; it has no cost and no gain", name)
        elif np.isnan(cost).any():
            logger.warning(
                "%s: %d of %d test rows have no decision; its cost is a mean over the other rows, its gain "
                "over those that both have",
                name,
                np.isnan(cost).sum(),
                len(cost),
            )
    means = {name: _mean(cost) for name, cost in costs.items()}
    if against is None:
        if not plain:
            raise UserError(
                f"task {task.name} has no plain baselines; against= names whom to be held to"
            )
        # NaN is below nothing: one without a cost is the best only where all are.
        known = [name for name in plain if not math.isnan(means[name])]
        against = min(known or plain, key=lambda name: sign * means[name])
    if against not in costs:
        raise UserError(f"against={against!r} is none of {', '.join(costs)}")
    with np.errstate(invalid="ignore"):  # Of rows that ruin both there is no difference.
        found = {
            name: (means[name], *_gain(sign * (costs[against] - cost), block))
            for name, cost in costs.items()
        }
    return pd.DataFrame.from_dict(
        found, orient="index", columns=["cost", "gain", "low", "high", "rows"]
    )


def _task(fitted: Mapping[str, Fitted]) -> Task:
    if not isinstance(fitted, Mapping):
        raise UserError(
            f"{type(fitted).__name__} has no names; pass name -> a trained predictor, as in "
            'compare({"mine": fitted})'
        )
    for name, one in fitted.items():
        if not isinstance(one, Fitted):
            raise UserError(
                f"{name}: {type(one).__name__} is no trained predictor, which train() and load() give; "
                "decisions are compared by others={name: decisions}"
            )
    tasks = [one.task for one in fitted.values()]
    if not tasks:
        raise UserError("there is nothing to compare; pass name -> a trained predictor")
    first = tasks[0]
    if first is None:
        raise UserError(
            "a predictor was loaded without its data, which it is judged on; load it with data=True"
        )
    if any(task is not first for task in tasks):
        raise UserError("predictors are compared on one task; train them on the same object")
    return first


def _check_allowed(task: Task, name: str, made: NDArray[np.float64]) -> None:
    """Refuse decisions ``(N, n)`` of the test rows that break the constraints: they would win by it."""
    given = torch.as_tensor(made)
    context = torch.as_tensor(task.dataset.contexts[task.dataset.test])
    nearest = project(task.program, given, context)
    off = (nearest - given).abs().amax(1) / (1.0 + given.abs().amax(1))
    broken = np.flatnonzero(off > _ALLOWED)
    if len(broken):
        raise UserError(
            f"{name}: {len(broken)} of {len(made)} decisions break the constraints, that of test row {broken[0]} "
            "first; project(task.program, decisions, contexts) gives the nearest that are allowed"
        )


def _mean(cost: NDArray[np.float64]) -> float:
    """Over the rows that have a decision; NaN where none has."""
    made = cost[~np.isnan(cost)]
    return float(made.mean()) if len(made) else math.nan


def _gain(difference: NDArray[np.float64], block: int) -> tuple[float, float, float, int]:
    """Mean of paired differences, the ends of its interval, and how many rows they are."""
    blocks = difference.reshape(-1, block)
    made = ~np.isnan(blocks).any(1)
    blocks = blocks[made]
    count = len(blocks)
    mean = float(blocks.mean()) if count else math.nan
    reach = math.nan
    if count > 1:
        error = blocks.mean(1).std(ddof=1) / math.sqrt(count)
        reach = float(stdtrit(count - 1, 0.975) * error)
    return mean, mean - reach, mean + reach, int(blocks.size)
