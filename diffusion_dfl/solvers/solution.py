"""What a solve returns: decisions, duals and, an instance, how it went."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class Status(IntEnum):
    """Outcome of one instance; :attr:`sentence` says it to a human."""

    SOLVED = 0
    NOT_CONVERGED = 1
    INVALID_INPUT = 2

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Status.SOLVED: "solved: the KKT residuals are within tolerance",
    Status.NOT_CONVERGED: "not converged: the KKT residuals stayed above tolerance",
    Status.INVALID_INPUT: "invalid input: a scenario, weight or bandwidth is NaN, infinite or "
    "negative, or the weights do not sum to 1",
}


@dataclass(frozen=True)
class Solution:
    """A batch of solved stochastic programs; every field has one row an instance.

    Attributes:
        decision: z*, ``(B, n)``; NaN where the input was invalid.
        duals: multipliers of ``G z <= h``, ``(B, m)``, non-negative.
        subgradients: g_m in the subdifferential of f(y_m, .) at z*, ``(B, M, n)``, such that
            ``sum_m omega_m g_m + G' duals = 0``.
        at_kink: ``(B, M, n)``, whether the decision sits on this scenario's kink with a
            subgradient strictly inside its interval, so that it moves with the scenario.
        status: ``(B,)`` int64 of :class:`Status`.
        iterations: ``(B,)`` int64, steps of the iterative part; 0 where a sort sufficed.
        residuals: ``(B, 3)``: stationarity, primal feasibility, complementarity (largest entry).
    """

    decision: Tensor
    duals: Tensor
    subgradients: Tensor
    at_kink: Tensor
    status: Tensor
    iterations: Tensor
    residuals: Tensor

    @property
    def solved(self) -> Tensor:
        """``(B,)`` bool."""
        return self.status == Status.SOLVED

    def report(self) -> str:
        """One line for the instances that failed, naming them and the reason; '' if none did."""
        lines = []
        for status in Status:
            rows = torch.nonzero(self.status == status).flatten().tolist()
            if status is not Status.SOLVED and rows:
                shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
                lines.append(
                    f"instances {shown} ({len(rows)} of {len(self.status)}): {status.sentence}"
                )
        return "; ".join(lines)
