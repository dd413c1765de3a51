"""How the open instances of an interior point come along, kept on the host.

A few numbers an instance and iteration: one transfer from a device, and no launch for each comparison.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

# Iterations without progress before an instance is given up.
_STALL = 30
# And before its active set is tried again, or evidence that it has no optimum is looked for.
_PAUSE = 3
#: KKT residual at which the active set is first tried.
FIRST_POLISH = 1e-7
# What divides it after a failure.
_NEXT_POLISH = 30.0
# KKT residual with which a decision of the exact program is near enough to that of a smoothed one.
_ROUGH = 1e-3
# An instance waits so many iterations until this share of all that are left can be polished with it.
_WAIT, _COMPANY = 3, 0.8


@dataclass
class Course:
    """How the open instances come along, on the host: a few numbers an instance and iteration.

    Attributes:
        hasty: instances that are left where they are near their optimum.
        threshold: error at which the active set is tried next.
        best: least error so far; ``error`` that of the present iterate.
        stalled, waiting: iterations without progress, and since the threshold was reached.
    """

    hasty: np.ndarray
    threshold: np.ndarray
    best: np.ndarray
    error: np.ndarray
    stalled: np.ndarray
    waiting: np.ndarray

    @staticmethod
    def of(count: int, threshold: float, hasty: Tensor | None) -> "Course":
        chosen = np.zeros(count, dtype=bool) if hasty is None else on_host(hasty)
        far, none = np.full(count, np.inf), np.zeros(count, dtype=int)
        return Course(chosen, np.full(count, threshold), far, far, none, none)

    def select(self, rows: np.ndarray) -> "Course":
        return Course(*(getattr(self, part.name)[rows] for part in fields(self)))

    def after(self, error: np.ndarray) -> np.ndarray:
        """Take note of the next iterate's errors, and say which instances are to be given up."""
        self.stalled = np.where(error < 0.9 * self.best, 0, self.stalled + 1)
        self.best, self.error = np.minimum(self.best, error), error
        return (self.stalled >= _STALL) | ~np.isfinite(error)

    @property
    def suspect(self) -> np.ndarray:
        """Where evidence that there is no optimum is looked for."""
        pause = (self.stalled % _PAUSE == 0) & (self.stalled > 0)
        return pause & (self.error > FIRST_POLISH)

    @property
    def rough(self) -> np.ndarray:
        """Which are near enough."""
        return self.hasty & (self.error <= _ROUGH)

    @property
    def stuck(self) -> np.ndarray:
        """Which no longer get closer, near the optimum."""
        return (self.stalled >= _PAUSE) & (self.error <= FIRST_POLISH)

    def trying(self, lost: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Indices of the instances whose active set is tried now."""
        ready = (self.error <= self.threshold) | self.stuck | lost
        ready &= np.isfinite(self.error) & ~known
        self.waiting = np.where(ready, self.waiting + 1, 0)
        # Together is cheaper than one by one: the first wait for others, and get closer meanwhile.
        few = ready.sum() < _COMPANY * len(ready)
        if few and self.waiting.max() <= _WAIT and not lost.any():
            return np.empty(0, dtype=int)
        trying = np.flatnonzero(ready)
        self.threshold[trying] /= _NEXT_POLISH
        return trying


def on_host(values: Tensor) -> np.ndarray:
    """A tensor as an array."""
    return values.cpu().numpy()


def on_device(values: np.ndarray, like: Tensor) -> Tensor:
    """An array as a tensor on the device of another one."""
    return torch.from_numpy(values).to(like.device)
