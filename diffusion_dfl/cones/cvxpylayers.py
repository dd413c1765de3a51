"""Our batched interior point behind the door of other people's cvxpylayers.

    layer = CvxpyLayer(problem, parameters, variables, solver=BatchedConeSolver())

solves the whole batch at once with :func:`~diffusion_dfl.cones.solver.solve_cone` instead of
one instance at a time, and differentiates with :func:`~diffusion_dfl.cones.adjoint`'s
single adjoint solve. Problems whose cones are linear and second-order are served: linear and
quadratic objectives, affine constraints, norms. Exponential, power and semidefinite cones are
refused when the layer is built, integer variables by cvxpy itself. Needs the extra
``diffusion-dfl[layers]``.
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion_dfl.cones.adjoint import ConeAdjoint, differentiate_cone
from diffusion_dfl.cones.algebra import Cones
from diffusion_dfl.cones.problem import ConeProblem, ConeSolution
from diffusion_dfl.cones.solver import solve_cone
from diffusion_dfl.extras import installing
from diffusion_dfl.layers.decision import SolverFailure
from diffusion_dfl.solvers.solution import Status

try:
    from cvxpylayers.interfaces.base import SolverInterface
except ImportError as error:
    raise ImportError(
        f"BatchedConeSolver needs cvxpylayers >= 1.2: {installing('layers')}"
    ) from error

# Variables and rows beyond which Clarabel, one instance after the other, is faster on one thread of a
# CPU for a batch of 64, and instances of a call below which it is for a problem of any size.
_SMALL, _MANY = 64, 32

logger = logging.getLogger(__name__)

_REFUSED = {
    "exp": ("exponential", "exp, log, entropy, logistic and log-sum-exp"),
    "psd": ("semidefinite", "PSD variables and matrix inequalities"),
    "p3d": ("power", "powers and geometric means"),
    "pnd": ("n-dimensional power", "weighted geometric means"),
}


@dataclass(frozen=True)
class _Structure:
    """Where the entries of cvxpylayers' sparse data lie in the dense matrices.

    ``matrix_rows`` and ``matrix_columns`` index ``(m, n + 1)``: the last column holds b, the
    others -A. ``quadratic_*`` index ``(n, n)``.
    """

    cones: Cones
    size: int
    matrix_rows: Tensor
    matrix_columns: Tensor
    quadratic_rows: Tensor
    quadratic_columns: Tensor

    @staticmethod
    def of(context: Any) -> "_Structure":
        dims = context.cone_dims
        for name, (cone, atoms) in _REFUSED.items():
            if getattr(dims, name, None):
                raise ValueError(
                    f"BatchedConeSolver has linear and second-order cones only; this problem has "
                    f"{cone} cones ({atoms}). Use cvxpylayers' own CvxpyLayer(..., "
                    "solver_args={'solve_method': 'Clarabel'}), or state the cost as a "
                    "diffusion_dfl program, whose solvers need no cones"
                )
        quadratic = context.reduced_P.problem_data_index
        pair = _coordinates(*quadratic[:2]) if quadratic is not None else _coordinates([], [0])
        if context.reduced_A.problem_data_index is None:
            # No constraint at all.
            rows, columns = 0, len(quadratic[1])
            matrix_rows, matrix_columns = _coordinates([], [0])
        else:
            indices, starts, (rows, columns) = context.reduced_A.problem_data_index
            matrix_rows, matrix_columns = _coordinates(indices, starts)
        cones = Cones(int(dims.zero), int(dims.nonneg), tuple(int(size) for size in dims.soc))
        if cones.rows != int(rows):
            raise ValueError(f"the problem has {rows} rows, its cones {cones.rows}: {dims}")
        return _Structure(cones, int(columns) - 1, matrix_rows, matrix_columns, *pair)

    def to(self, device: torch.device) -> "_Structure":
        return _Structure(
            self.cones,
            self.size,
            self.matrix_rows.to(device),
            self.matrix_columns.to(device),
            self.quadratic_rows.to(device),
            self.quadratic_columns.to(device),
        )

    def problem(self, quadratic: Tensor | None, linear: Tensor, matrix: Tensor) -> ConeProblem:
        """Dense float64 data of a batch of cvxpylayers' entries."""
        batch, size = len(linear), self.size
        full = linear.new_zeros(batch, self.cones.rows, size + 1)
        full[:, self.matrix_rows, self.matrix_columns] = matrix
        curvature = linear.new_zeros(batch, size, size)
        if quadratic is not None:
            curvature[:, self.quadratic_rows, self.quadratic_columns] = quadratic
            curvature = (curvature + curvature.transpose(1, 2)) / 2
        return ConeProblem(curvature, linear[:, :-1], -full[:, :, :-1], full[:, :, -1], self.cones)

    def gradients(
        self, solution: ConeSolution, adjoint: ConeAdjoint
    ) -> tuple[Tensor, Tensor, Tensor]:
        """dL/dP, dL/dq and dL/dA in cvxpylayers' entries, 0 for unsolved instances."""
        good = solution.solved.unsqueeze(1)
        x = torch.where(good, solution.x, 0.0)
        z = torch.where(good, solution.dual, 0.0)
        u, y = adjoint.primal, adjoint.dual
        row, column = self.quadratic_rows, self.quadratic_columns
        quadratic = -(u[:, row] * x[:, column] + x[:, row] * u[:, column]) / 2
        # The data are [-A, b]: with x extended by 1 and u by 0, one formula serves both.
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        u = torch.cat([u, torch.zeros_like(u[:, :1])], dim=1)
        row, column = self.matrix_rows, self.matrix_columns
        return quadratic, -u, z[:, row] * u[:, column] - y[:, row] * x[:, column]


def _coordinates(indices: Any, starts: Any) -> tuple[Tensor, Tensor]:
    """Rows and columns of the entries of a compressed-column matrix."""
    starts = torch.as_tensor(starts, dtype=torch.long)
    columns = torch.repeat_interleave(torch.arange(len(starts) - 1), starts.diff())
    return torch.as_tensor(indices, dtype=torch.long), columns


class BatchedConeSolver(SolverInterface):
    """A cvxpylayers ``SolverInterface`` over the batched interior point.

    For batches of at least 64 small problems, of up to about 64 variables and rows with their epigraphs:
    it is faster there than Clarabel, one instance at a time. Beyond, a layer that is built logs a warning.

    Everything stays in torch on the parameters' device, in float64. The solution is float64
    whatever the parameters are, as with cvxpylayers' own back ends. One object may serve several
    layers, also of one ``cvxpy.Problem``.

    Args:
        on_failure: ``raise`` raises :class:`~diffusion_dfl.layers.SolverFailure` (a
            ``RuntimeError``, as cvxpylayers promises) naming the instances that were not solved;
            ``drop`` returns NaN for them and gives them no gradient.

    Attributes:
        last_solution: status, residuals and iterations of every instance of the last solve.

    Example:
        >>> layer = CvxpyLayer(problem, [price], [x], solver=BatchedConeSolver())
        >>> (x_value,) = layer(torch.rand(64, 10, requires_grad=True))
    """

    canon_solver = "CLARABEL"
    supports_quad_obj = True

    def __init__(self, on_failure: Literal["raise", "drop"] = "raise") -> None:
        if on_failure not in ("raise", "drop"):
            raise ValueError(f"on_failure={on_failure!r} is unknown; choose raise or drop")
        self.on_failure = on_failure
        self.last_solution: ConeSolution | None = None
        # cvxpylayers names a layer in a solve only by its dimensions object.
        self._structures: list[tuple[Any, _Structure]] = []
        self._said_few = False

    def setup(self, context: Any) -> None:
        """Called by ``CvxpyLayer``; raises ``ValueError`` for cones that are not served, and logs a
        warning for a problem it is not made for."""
        structure = _Structure.of(context)
        rows, columns = structure.cones.rows, structure.size
        if rows + columns > _SMALL:
            logger.warning(
                "BatchedConeSolver is for many small problems, of up to about %d variables and rows: it "
                "factors dense matrices, and this one has %d variables and %d rows, epigraphs of hinges "
                "and norms included. On a CPU cvxpylayers' own back end is faster, CvxpyLayer(..., "
                "solver_args={'solve_method': 'Clarabel'}), and a diffusion_dfl program, whose hinges "
                "need no variables, faster still",
                _SMALL,
                columns,
                rows,
            )
        self._structures.append((context.cone_dims, structure))

    def solve_torch_batch(
        self,
        P: Tensor | None,
        q: Tensor,
        A: Tensor,
        dims: Any,
        solver_args: dict[str, Any],
        needs_grad: bool,
    ) -> tuple[Tensor, Tensor, Any]:
        """Solutions ``(B, n)`` and duals ``(B, m)`` of a batch; see the base class."""
        if solver_args:
            raise ValueError(
                f"BatchedConeSolver takes no solver_args, got {sorted(solver_args)}: it always "
                "solves to its own tolerance of 1e-9"
            )
        if len(q) < _MANY and q.device.type == "cpu" and not self._said_few:
            self._said_few = True
            logger.warning(
                "BatchedConeSolver is for batches: this call has %d instances, and with fewer than %d "
                "cvxpylayers' own back end is faster, CvxpyLayer(..., solver_args={'solve_method': "
                "'Clarabel'})",
                len(q),
                _MANY,
            )
        structure = self._structure(dims).to(q.device)
        quadratic = None if P is None else P.detach().double()
        problem = structure.problem(quadratic, q.detach().double(), A.detach().double())
        solution = solve_cone(problem)
        self.last_solution = solution
        if self.on_failure == "raise" and not bool(solution.solved.all()):
            raise SolverFailure(f"BatchedConeSolver failed on {_report(solution.status)}")
        state = (structure, problem, solution, P is not None) if needs_grad else None
        return solution.x.clone(), solution.dual.clone(), state

    def derivative_torch_batch(
        self, dprimal: Tensor, ddual: Tensor, saved_state: Any
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """dL/dP, dL/dq and dL/dA of a batch; see the base class."""
        structure, problem, solution, has_quadratic = saved_state
        adjoint = differentiate_cone(problem, solution, dprimal.double(), ddual.double())
        quadratic, linear, matrix = structure.gradients(solution, adjoint)
        # cvxpylayers passes None for a linear objective and wants None back.
        return (quadratic if has_quadratic else None), linear, matrix

    def _structure(self, dims: Any) -> _Structure:
        for known, structure in reversed(self._structures):
            if known is dims:
                return structure
        raise ValueError("this BatchedConeSolver was not set up by the layer that calls it")


def _report(status: Tensor) -> str:
    """The failed instances and why, in a line."""
    lines = []
    for kind in Status:
        rows = torch.nonzero(status == int(kind)).flatten().tolist()
        if kind is not Status.SOLVED and rows:
            shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
            lines.append(f"instances {shown} ({len(rows)} of {len(status)}): {kind.sentence}")
    return "; ".join(lines)
