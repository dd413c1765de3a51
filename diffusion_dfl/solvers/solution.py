"""What a solve returns: decisions, duals and, an instance, how it went."""

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusion_dfl.solvers.arrow import Point


class Status(IntEnum):
    """Outcome of one instance; :attr:`sentence` says it to a human."""

    SOLVED = 0
    NOT_CONVERGED = 1
    INVALID_INPUT = 2
    INFEASIBLE = 3
    UNBOUNDED = 4
    NON_CONVEX = 5

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Status.SOLVED: "solved: the KKT residuals are within tolerance",
    Status.NOT_CONVERGED: "not converged: the KKT residuals stayed above tolerance",
    Status.INVALID_INPUT: "invalid input: a scenario, weight, bandwidth or limit is NaN, infinite or "
    "negative, or the weights do not sum to 1",
    Status.INFEASIBLE: "infeasible: no decision satisfies the constraints",
    Status.UNBOUNDED: "unbounded: the cost falls for ever along a feasible direction",
    Status.NON_CONVEX: "not convex: the cost has negative curvature at a decision",
}


_OF_RECOURSE = {
    Status.NON_CONVEX: "not convex: the recourse's cost has negative curvature in the recourse variables "
    "u, or with that of the first stage in (z, u) together, at a decision",
}


# Of the solvers of programs that users state.
_OFTEN = (
    "; often the cost has no slope at its optimum, as a norm at its tip: write |v| as "
    "(v @ v + eps**2).sqrt(), and abs, relu and maximum as hinges"
)
_PROVED = {
    Status.INFEASIBLE: "multipliers add up the constraints to a contradiction",
    Status.UNBOUNDED: "a direction proves it",
}


@dataclass(frozen=True)
class Solution:
    """A batch of solved stochastic programs; every field has one row an instance.

    Attributes:
        decision: z*, ``(B, n)``; NaN in the instances that were not solved.
        duals: multipliers of the inequalities, ``(B, q)``, non-negative; rows of G, lower bounds,
            upper bounds, smooth constraints, in the order of
            :meth:`~diffusion_dfl.programs.constraints.Constraints.inequality_values`.
        equality_duals: multipliers of ``A z = b``, ``(B, p)``.
        subgradients: g_m in the subdifferential of f(y_m, .) at z*, ``(B, M, n)``, such that
            ``sum_m omega_m g_m + J' duals + A' equality_duals = 0``.
        at_kink: ``(B, M, K)``, whether the decision sits on this hinge of this scenario with a
            slope share strictly inside (0, 1), so that it moves with the scenario; K is the number
            of hinges of a scenario, 0 for a smooth program.
        status: ``(B,)`` int64 of :class:`Status`.
        iterations: ``(B,)`` int64, steps of the iterative part; 0 where a sort sufficed.
        residuals: ``(B, 3)``: stationarity, primal feasibility, complementarity (largest entry).
        shares: slope share in [0, 1] of every hinge, ``(B, M, K)``, or None if the slopes of the
            hinges do not depend on the outcome.
        proof: of infeasible and unbounded instances, the residual of what proves it, relative to its
            terms; NaN for the others ``(B,)``, and None from solvers of programs that always have an
            optimum.
        hessian: of the summed cost at z*, kinks of width 0 left out, ``(B, n, n)``; None where the solver
            did not know it.
        recourse: what is decided in every scenario of a
            :class:`~diffusion_dfl.programs.TwoStageProgram`, ``(B, M, r)``; NaN like the decision.
        second_stage: its slacks and multipliers, which a gradient needs, in ``units (B, n + r)`` of
            the coordinates of both stages.
    """

    decision: Tensor
    duals: Tensor
    equality_duals: Tensor
    subgradients: Tensor
    at_kink: Tensor
    status: Tensor
    iterations: Tensor
    residuals: Tensor
    shares: Tensor | None = None
    proof: Tensor | None = None
    hessian: Tensor | None = None
    recourse: Tensor | None = None
    second_stage: "Point | None" = None
    units: Tensor | None = None

    @staticmethod
    def joined(parts: "list[Solution]") -> "Solution":
        """The solution of a batch that was solved in ``parts``, in their order."""

        def cat(values: list[Any]) -> Any:
            if any(value is None for value in values):
                return None
            if isinstance(values[0], Tensor):
                return torch.cat(values)
            return type(values[0])(
                **{
                    f.name: torch.cat([getattr(v, f.name) for v in values])
                    for f in fields(values[0])
                }
            )

        names = [field.name for field in fields(Solution)]
        return Solution(**{name: cat([getattr(part, name) for part in parts]) for name in names})

    def replaced(self, rows: Tensor, other: "Solution") -> "Solution":
        """This solution with the instances ``rows`` taken from ``other``, a solution of those."""

        def put(mine: Any, theirs: Any) -> Any:
            if not isinstance(mine, Tensor):
                return mine.replaced(rows, theirs)
            return mine.index_copy(0, rows, theirs.to(mine.dtype))

        parts: dict[str, Any] = {}
        for field in fields(self):
            value, theirs = getattr(self, field.name), getattr(other, field.name)
            parts[field.name] = value if value is None or theirs is None else put(value, theirs)
        if other.hessian is None:
            parts["hessian"] = None
        return Solution(**parts)

    def select(self, rows: Tensor) -> "Solution":
        """The instances ``rows`` of the batch."""
        chosen: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                value = value[rows] if isinstance(value, Tensor) else value.select(rows)
            chosen[field.name] = value
        return Solution(**chosen)

    def without_decision(self, impossible: Tensor) -> "Solution":
        """This solution, infeasible where ``impossible (B|1,)`` and NaN where it is not solved."""
        status = torch.where(impossible, int(Status.INFEASIBLE), self.status)
        solved = (status == int(Status.SOLVED)).unsqueeze(1)
        recourse = self.recourse
        if recourse is not None:
            recourse = torch.where(solved.unsqueeze(2), recourse, torch.nan)
        decision = torch.where(solved, self.decision, torch.nan)
        return replace(self, status=status, decision=decision, recourse=recourse)

    def invalidated(self, rows: Tensor) -> "Solution":
        """This solution with INVALID_INPUT and NaN in the instances where ``rows (B,)`` is true."""
        column = rows.unsqueeze(1)

        def blank(value: Tensor) -> Tensor:
            return torch.where(
                column if value.dim() == 2 else column.unsqueeze(2), torch.nan, value
            )

        return Solution(
            decision=blank(self.decision),
            duals=blank(self.duals),
            equality_duals=blank(self.equality_duals),
            subgradients=blank(self.subgradients),
            at_kink=self.at_kink & ~column.unsqueeze(2),
            status=torch.where(rows, int(Status.INVALID_INPUT), self.status),
            iterations=torch.where(rows, 0, self.iterations),
            residuals=torch.where(column, torch.inf, self.residuals),
            shares=None if self.shares is None else blank(self.shares),
            proof=None if self.proof is None else torch.where(rows, torch.nan, self.proof),
            hessian=self.hessian,
            recourse=None if self.recourse is None else blank(self.recourse),
            second_stage=self.second_stage,
            units=self.units,
        )

    @property
    def solved(self) -> Tensor:
        """``(B,)`` bool."""
        return self.status == Status.SOLVED

    def report(self) -> str:
        """One line for the instances that failed, naming them and the reason; '' if none did."""
        return report(self.status, self.proof, self.recourse is not None)


def report(statuses: Tensor, proof: Tensor | None = None, recourse: bool = False) -> str:
    """The instances of ``statuses (B,)`` that failed, by number, and why; '' if none did.

    With the largest residual ``proof (B,)`` of what proves it, where it is known; ``recourse`` says
    whether the program has a second stage.
    """
    lines = []
    for status in Status:
        rows = torch.nonzero(statuses == status).flatten().tolist()
        if status is not Status.SOLVED and rows:
            shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
            sentence = status.sentence
            if recourse:
                sentence = _OF_RECOURSE.get(status, sentence)
            line = f"instances {shown} ({len(rows)} of {len(statuses)}): {sentence}"
            if status is Status.NOT_CONVERGED and proof is not None:
                line += _OFTEN
            shares = [] if proof is None else proof[rows][~proof[rows].isnan()].tolist()
            if shares and status in _PROVED:
                line += f" ({_PROVED[status]}, residual {max(shares):.1e})"
            lines.append(line)
    return "; ".join(lines)
