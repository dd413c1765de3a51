"""What happens to instances a solver did not solve; a tolerance is never loosened.

    retry      once more from a cold start by the other solver (structured <-> interior point);
    reference  the same, and then cvxpy with Clarabel (exact programs only: a convolved cost has no
               conic form);
    drop       nothing: the instance is left out;
    raise      nothing: the layer raises.

After ``retry`` and ``reference`` an instance that is still unsolved is left out, as with ``drop``.
Left out means a NaN decision, no gradient, and a count. Invalid input is not tried again, nor is
what a solver proved infeasible, unbounded or not convex.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from diffusion_dfl.programs import Instances, Program
from diffusion_dfl.solvers import Solution, SolverName, Status
from diffusion_dfl.solvers.dispatch import solve_instances

OnFailure = Literal["retry", "reference", "drop", "raise"]
ON_FAILURE: tuple[OnFailure, ...] = get_args(OnFailure)


@dataclass
class Recovery:
    """Instances that were solved at the second or third attempt."""

    retried: int = 0
    by_retry: int = 0
    by_reference: int = 0


def solve_or_recover(
    program: Program,
    instances: Instances,
    *,
    solver: SolverName,
    start: Tensor | None,
    on_failure: OnFailure,
) -> tuple[Solution, Recovery]:
    """:func:`~diffusion_dfl.solvers.solve`, then ``on_failure`` for what did not converge."""
    solution = solve_instances(program, instances, solver=solver, start=start)
    recovery = Recovery()
    if on_failure in ("drop", "raise"):
        return solution, recovery
    rows = torch.nonzero(solution.status == int(Status.NOT_CONVERGED)).flatten()
    recovery.retried = len(rows)
    attempts: list[SolverName] = ["auto" if solver == "interior_point" else "interior_point"]
    if on_failure == "reference":
        attempts.append("cvxpy")
    for attempt in attempts:
        if attempt == "cvxpy" and rows.numel():
            # Clarabel solves exact programs; instances with a bandwidth stay as they are.
            rows = rows[(instances.bandwidth[rows] <= 0).all(1)]
        if rows.numel() == 0:
            break
        again = solve_instances(program, instances.select(rows), solver=attempt)
        better = torch.nonzero(again.solved).flatten()
        if better.numel():
            solution = solution.replaced(rows[better], again.select(better))
        if attempt == "cvxpy":
            recovery.by_reference += len(better)
        else:
            recovery.by_retry += len(better)
        rows = rows[~again.solved]
    return solution, recovery
