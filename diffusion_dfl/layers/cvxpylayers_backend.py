"""cvxpylayers as a back end: a program's own cvxpy statement, solved and differentiated by diffcp.

The slow, independent reference of the fast layers. Always Clarabel with tight tolerances: with its
default SCS, cvxpylayers returns gradients of the wrong sign on the portfolio task. Exact programs
with uniform weights only.

cvxpylayers 1.2 does not report failures of Clarabel: of an infeasible instance it returns the
certificate as if it were a solution. So diffcp is called here behind cvxpylayers' own
``SolverInterface``, with the same data, solver and derivative, and every instance is judged by
its residuals. Needs the extra ``diffusion-dfl[layers]``.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusion_dfl.extras import installing
from diffusion_dfl.programs import Program
from diffusion_dfl.solvers.solution import Status

try:
    import cvxpy as cp
    import diffcp
    import scipy.sparse as sparse
    from cvxpy.reductions.solvers.conic_solvers.scs_conif import dims_to_solver_dict
    from cvxpylayers.interfaces.base import SolverInterface
    from cvxpylayers.torch import CvxpyLayer
except ImportError as error:
    raise ImportError(
        f"solver='cvxpylayers' needs cvxpylayers >= 1.2: {installing('layers')}"
    ) from error

_CLARABEL = {"solve_method": "Clarabel", "tol_ktratio": 1e-9, "max_iter": 200}
_Instance = tuple[Any, np.ndarray, np.ndarray]  # A, b, c

# Asked for one after the other: Clarabel may miss the first, and then returns a poor iterate.
_TOLERANCES = (1e-11, 1e-9)
# Largest relative residual of the conic form of a solved instance, and of a certificate. It does
# not depend on which of the tolerances was asked for.
_ACCEPTED = 1e-7


class CvxpyDecision(nn.Module):
    """``scenarios (B, M, d_y) -> (decisions (B, n), status (B,))``, differentiable in the scenarios.

    The cvxpy problem is stated and canonicalised once, here. Tensors on another device are moved
    to the CPU and back. Instances that were not solved have NaN decisions, a status that says why,
    and no gradient.

    Args:
        program: the decision problem; its exact form is solved.
        num_scenarios: M.
        num_threads: instances solved at the same time; torch's number of threads if None.

    Attributes:
        layer: the :class:`cvxpylayers.torch.CvxpyLayer`.
    """

    def __init__(
        self, program: Program, num_scenarios: int, num_threads: int | None = None
    ) -> None:
        super().__init__()
        self.program = program
        self.num_scenarios = num_scenarios
        self._diffcp = _ClarabelWithStatus(num_threads or torch.get_num_threads())
        scenarios = cp.Parameter((num_scenarios, program.num_outcomes))
        uniform = np.full(num_scenarios, 1.0 / num_scenarios)
        problem, decision, _ = program.cvxpy_problem(scenarios, uniform)
        self.layer = CvxpyLayer(problem, [scenarios], [decision], solver=self._diffcp)

    @staticmethod
    def of(program: Program, num_scenarios: int) -> "CvxpyDecision":
        """The module of this program and M, made once."""
        try:
            return _cached(program, num_scenarios)
        except TypeError:
            # A program that cannot be hashed.
            return CvxpyDecision(program, num_scenarios)

    def forward(self, scenarios: Tensor) -> tuple[Tensor, Tensor]:
        """Decisions ``(B, n)`` in float64 and ``(B,)`` int64 of ``Status``, on the input's device.

        Raises:
            ValueError: scenarios that are not ``(B, num_scenarios, d_y)``.
        """
        shape = (self.num_scenarios, self.program.num_outcomes)
        if scenarios.dim() != 3 or tuple(scenarios.shape[1:]) != shape:
            raise ValueError(
                f"scenarios have shape {tuple(scenarios.shape)}; expected (B, {shape[0]}, {shape[1]})"
            )
        valid = scenarios.isfinite().all(2).all(1)
        if not len(scenarios):
            return scenarios.new_zeros(0, self.program.num_decisions), valid.to(torch.long)
        # A harmless stand-in keeps the batch together.
        inputs = torch.where(valid.view(-1, 1, 1), scenarios, 0.0).double().cpu()
        (decision,) = self.layer(inputs)
        status = self._diffcp.status.to(scenarios.device)
        status = torch.where(valid, status, int(Status.INVALID_INPUT))
        decision = decision.to(scenarios.device)
        solved = (status == int(Status.SOLVED)).unsqueeze(1)
        return torch.where(solved, decision, torch.nan), status


@lru_cache(maxsize=8)
def _cached(program: Program, num_scenarios: int) -> CvxpyDecision:
    return CvxpyDecision(program, num_scenarios)


class _ClarabelWithStatus(SolverInterface):
    """What cvxpylayers' DIFFCP back end does, plus a status an instance."""

    canon_solver = "DIFFCP"

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self.status = torch.zeros(0, dtype=torch.long)

    def setup(self, context: Any) -> None:
        self._indices, self._starts, self._shape = context.reduced_A.problem_data_index
        self._cones = dims_to_solver_dict(context.cone_dims)

    def solve_torch_batch(
        self, P: Any, q: Tensor, A: Tensor, dims: Any, solver_args: Any, needs_grad: bool
    ) -> tuple[Tensor, Tensor, Any]:
        data = [self._instance(*pair) for pair in zip(q.numpy(), A.numpy(), strict=True)]
        found: list[_Found] = [_Found.nothing(*instance) for instance in data]
        rows, groups = list(range(len(data))), []
        for tolerance in _TOLERANCES:
            groups += self._solve_rows(rows, data, found, tolerance)
            rows = [row for row in rows if found[row].status is Status.NOT_CONVERGED]
            if not rows:
                break
        self.status = torch.tensor([int(row.status) for row in found])
        primal = torch.as_tensor(np.stack([row.primal for row in found]))
        dual = torch.as_tensor(np.stack([row.dual for row in found]))
        return primal, dual, (groups, found)

    def derivative_torch_batch(
        self, dprimal: Tensor, ddual: Tensor, saved_state: Any
    ) -> tuple[None, Tensor, Tensor]:
        groups, found = saved_state
        b_rows = self._indices[self._starts[-2] : self._starts[-1]]
        linear = np.zeros((len(dprimal), self._shape[1]))
        entries = np.zeros((len(dprimal), len(self._indices)))
        for rows, pull in groups:
            wanted = [found[row].group is pull for row in rows]
            # Rows that failed, or that a later attempt solved, get no gradient from this one.
            primal = [dprimal[row].numpy() * keep for row, keep in zip(rows, wanted, strict=True)]
            dual = [ddual[row].numpy() * keep for row, keep in zip(rows, wanted, strict=True)]
            none = [np.zeros_like(part) for part in dual]
            for row, keep, matrix, limit, cost in zip(
                rows, wanted, *pull(primal, dual, none), strict=True
            ):
                if keep:
                    entries[row] = np.concatenate([-matrix.data, limit[b_rows]])
                    linear[row, :-1] = cost
        return None, torch.as_tensor(linear), torch.as_tensor(entries)

    def _solve_rows(
        self, rows: list[int], data: list[_Instance], found: list["_Found"], tolerance: float
    ) -> list[tuple[list[int], Any]]:
        """Solve ``rows`` into ``found``; returns their derivatives, by group of rows."""
        try:
            matrices, limits, costs = zip(*(data[row] for row in rows), strict=True)
            primal, dual, slack, _, pull = diffcp.solve_and_derivative_batch(
                [matrix.copy() for matrix in matrices],
                list(limits),
                list(costs),
                [self._cones] * len(rows),
                n_jobs_forward=self.num_threads,
                n_jobs_backward=self.num_threads,
                **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), tolerance),
                **_CLARABEL,
            )
        except Exception:
            # diffcp raises for the whole batch: find the instance that cannot be solved.
            if len(rows) == 1:
                return []
            each = [self._solve_rows([row], data, found, tolerance) for row in rows]
            return [group for part in each for group in part]
        for row, x, y, s in zip(rows, primal, dual, slack, strict=True):
            status = _judge(data[row], x, y, s)
            found[row] = _Found(x, y, status, pull if status is Status.SOLVED else None)
        return [(rows, pull)]

    def _instance(self, linear: np.ndarray, entries: np.ndarray) -> _Instance:
        full = sparse.csc_matrix((entries, self._indices, self._starts), shape=self._shape)
        return -full[:, :-1], full[:, -1].toarray().ravel(), linear[:-1].copy()


@dataclass
class _Found:
    """Primal and dual of an instance, how it went, and the derivative it belongs to."""

    primal: np.ndarray
    dual: np.ndarray
    status: Status
    group: Any

    @staticmethod
    def nothing(matrix: Any, limit: np.ndarray, cost: np.ndarray) -> "_Found":
        nan = np.nan
        return _Found(cost * nan, limit * nan, Status.NOT_CONVERGED, None)


def _judge(data: _Instance, primal: np.ndarray, dual: np.ndarray, slack: np.ndarray) -> Status:
    """Status from the residuals of ``min c'x, A x + s = b`` and its dual; s and y are conic."""
    matrix, limit, cost = data
    if not all(np.isfinite(part).all() for part in (primal, dual, slack)):
        return Status.NOT_CONVERGED
    reach, push = matrix @ primal, matrix.T @ dual
    value, bound = cost @ primal, limit @ dual
    size_x, size_y = np.abs(primal).max(initial=0.0), np.abs(dual).max(initial=0.0)

    def small(residual: Any, *terms: Any) -> bool:
        scale = max(np.abs(term).max(initial=1e-300) for term in map(np.atleast_1d, terms))
        return bool(np.abs(residual).max(initial=0.0) <= _ACCEPTED * scale)

    gap = np.atleast_1d(value + bound)
    gap_scale = np.abs(cost) @ np.abs(primal) + np.abs(limit) @ np.abs(dual)
    if (
        small(reach + slack - limit, reach, slack, limit)
        and small(push + cost, push, cost)
        and small(gap, gap_scale)
    ):
        return Status.SOLVED
    if bound < 0 and size_y and np.abs(push).max(initial=0.0) <= _ACCEPTED * -bound:
        return Status.INFEASIBLE
    if value < 0 and size_x and np.abs(reach + slack).max(initial=0.0) <= _ACCEPTED * -value:
        return Status.UNBOUNDED
    return Status.NOT_CONVERGED
