"""A user's own problem, tried on its own data before anything is trained.

Constraints that leave no decision, a cost without a minimum or not convex, and functions that torch
cannot take are each refused with what was expected and what was found.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_dfl.errors import UserError
from diffusion_dfl.programs import Program, TorchProgram
from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.solvers import Status, solve
from diffusion_dfl.tasks.task import Task

# Training rows the problem is tried on.
_ROWS = 32
# How far a mean of two costs may lie below the cost at the middle, relative to both: rounding.
_CHORD = 1e-9
# Half-sides of the boxes around the best decisions, in their size, within which chords are drawn.
_SPREADS = (0.1, 1.0, 3.0)
_HALVINGS = 30


def check_problem(task: Task) -> None:
    """Refuse a problem stated by torch functions that cannot be trained on.

    It is solved for single training outcomes and for all those tried together; the cost must lie
    below its chords between decisions around the best ones. Other programs state derivatives of
    their own and are left alone.

    Raises:
        UserError: naming the task, what was expected and what was found.
    """
    program, data = task.program, task.dataset
    if program.num_outcomes != data.outcomes.shape[1]:
        raise UserError(
            f"task={task.name}: the program has num_outcomes={program.num_outcomes} and the data "
            f"have {data.outcomes.shape[1]} outcome columns; they must be the same"
        )
    if not isinstance(program, TorchProgram):
        return
    rows = data.train[:: max(1, len(data.train) // _ROWS)][:_ROWS]
    outcome = torch.as_tensor(data.outcomes[rows])
    context = torch.as_tensor(data.contexts[rows]) if program.contextual else None
    try:
        if program.learns(outcome, context):
            raise UserError(
                f"task={task.name}: a tensor of the program requires a gradient, and training here moves "
                "the predictor's weights alone; train both in a loop of your own through "
                "DecisionLayer (docs/decision_layer.md), or detach() it"
            )
        decision, solved = _decided(task, rows, outcome, context)
        if context is not None:
            context = context[solved]
        _refuse_concave(task.name, program, outcome[solved], context, decision)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"task={task.name}: {error}") from error


def _decided(
    task: Task, rows: NDArray[np.int64], outcome: Tensor, context: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Decisions, each the best for one outcome, of the rows where there is one, and which these are.

    Raises:
        UserError: a problem that has none, by its nature.
    """
    pooled = outcome.unsqueeze(0).expand(1 if context is None else len(outcome), -1, -1)
    single = solve(task.program, outcome.unsqueeze(1), context=context)
    together = solve(task.program, pooled, context=context)
    for solution in (single, together):
        for status, sentence in _FAULTS.items():
            wrong = torch.nonzero(solution.status == int(status)).flatten()
            if wrong.numel():
                row = int(wrong[0])
                label = str(task.dataset.row_names[rows[row]])
                where = f" (for {label})" if len(solution.status) > 1 else ""
                if status is Status.INFEASIBLE:
                    where += ": " + _constraints_of(task.program, outcome, context, row)
                raise UserError(f"task={task.name}: {sentence}{where}")
    if not bool(single.solved.any()):
        raise UserError(
            f"task={task.name}: no decision was found for any training outcome "
            f"({single.report()}). A kink inside smooth= (abs, relu, maximum, where) is not seen there: "
            "declare it in hinges=. Or the cost or the constraints are badly scaled: state both in "
            "units in which decisions and costs are near 1"
        )
    return single.decision[single.solved], single.solved


_FAULTS = {
    Status.INFEASIBLE: "expected constraints that some decision satisfies; found that they "
    "contradict each other",
    Status.UNBOUNDED: "expected a cost with a minimum; found one that falls for ever along a "
    "feasible direction; bound the decision by lower=, upper= or matrix= and limit=",
    Status.NON_CONVEX: "expected a cost that is convex in the decision; found negative curvature",
}


def _constraints_of(program: Program, outcome: Tensor, context: Tensor | None, row: int) -> str:
    """The constraints of an instance in words, as far as they are numbers."""
    found = program.constraints(outcome, context)

    def shown(value: Tensor | None) -> str:
        return "none" if value is None else _shown(value[min(row, len(value) - 1)])

    parts = [f"lower={shown(found.lower)}", f"upper={shown(found.upper)}"]
    if found.matrix.shape[1]:
        parts.append(f"matrix @ z <= {shown(found.limit)}")
    if found.equality_matrix.shape[1]:
        parts.append(f"equality_matrix @ z == {shown(found.equality_value)}")
    if found.smooth is not None:
        parts.append(f"{found.smooth.size} values of inequality(x, z) <= 0")
    return ", ".join(parts)


def _refuse_concave(
    name: str, program: Program, outcome: Tensor, context: Tensor | None, decision: Tensor
) -> None:
    """Raise UserError where a cost lies above a chord between feasible decisions."""
    generator = torch.Generator().manual_seed(0)
    constraints = program.constraints(outcome, context)
    # Best decisions at 0 say nothing of the size of others; outcomes are the next best guess.
    size = decision.abs().amax(0).clamp_min(float(outcome.abs().mean()))
    for spread in _SPREADS:
        ends = []
        for _ in range(2):
            shift = torch.rand(decision.shape, generator=generator, dtype=torch.float64)
            ends.append(_feasible(constraints, decision, spread * size * (2 * shift - 1)))
        middle = 0.5 * (ends[0] + ends[1])
        left, right, between = (program.cost_given(outcome, z, context) for z in (*ends, middle))
        chord = 0.5 * (left + right)
        # Not finite outside of a domain is no evidence.
        wrong = between - chord > _CHORD * (left.abs() + right.abs() + between.abs())
        if bool(wrong.any()):
            row = int(torch.nonzero(wrong)[0])
            raise UserError(
                f"task={name}: expected a cost that is convex in the decision; found that for the "
                f"outcome {_shown(outcome[row])} it is {float(left[row]):.6g} at "
                f"z={_shown(ends[0][row])} and {float(right[row]):.6g} at z={_shown(ends[1][row])}, "
                f"but {float(between[row]):.6g} half-way, above their mean {float(chord[row]):.6g}"
            )


def _feasible(constraints: Constraints, decision: Tensor, shift: Tensor) -> Tensor:
    """``decision`` moved by as much of ``shift (N, n)`` as the constraints allow, by halves."""
    matrix = constraints.equality_matrix
    if matrix.shape[1]:
        shift = shift - (torch.linalg.pinv(matrix) @ matrix @ shift.unsqueeze(-1)).squeeze(-1)
    allowed = constraints.inequality_values(decision).clamp_min(0)
    for _ in range(_HALVINGS):
        outside = (constraints.inequality_values(decision + shift) > allowed).any(1, keepdim=True)
        if not bool(outside.any()):
            break
        shift = torch.where(outside, 0.5 * shift, shift)
    else:
        shift = torch.where(outside, 0.0, shift)
    return decision + shift


def _shown(values: Tensor) -> str:
    numbers = [f"{number:.4g}" for number in values.tolist()[:6]]
    return "[" + ", ".join(numbers) + (", ...]" if len(values) > 6 else "]")
