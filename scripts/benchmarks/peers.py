"""Ways to solve and differentiate a case: ours, and the peers that are installed.

Each is a callable from scenarios ``(b, M, d_y)`` to decisions ``(b, n)``, made for one case. A
peer that is missing or cannot state the case raises :class:`Unavailable` with the reason.
Tolerances are each peer's own defaults, and every peer is kept to one thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.quadratic import QuadraticProgram, quadratic_program
from diffusion_dfl.programs import PowerProgram

Solve = Callable[[Tensor], Tensor]
# A dense KKT matrix of more rows than this does not fit beside others in a small memory.
_DENSE_ROWS = 6000


class Unavailable(Exception):
    """The peer cannot run this case; the message says why."""


@dataclass(frozen=True)
class Contender:
    """Somebody who solves.

    Attributes:
        name: for people.
        make: case -> its solver.
        differentiable: whether it has a backward pass.
    """

    name: str
    make: Callable[[Case], Solve]
    differentiable: bool = True


def _ours(case: Case) -> Solve:
    return case.layer()


def _cvxpylayers(method: str, reduced: bool) -> Callable[[Case], Solve]:
    def make(case: Case) -> Solve:
        try:
            import cvxpy as cp
            from cvxpylayers.torch import CvxpyLayer
        except ImportError as error:
            raise Unavailable(f"not installed ({error.name})") from None
        num, size = case.num_scenarios, case.program.num_outcomes
        scenarios = cp.Parameter((num, size))
        if reduced:
            problem, z = _reduced_statement(case, scenarios)
        else:
            problem, z, _ = case.program.cvxpy_problem(scenarios, np.full(num, 1.0 / num))
        layer = CvxpyLayer(problem, [scenarios], [z], solver_args={"solve_method": method})

        def run(values: Tensor) -> Tensor:
            # Without gradients cvxpylayers calls a function that knows no backward jobs.
            jobs = {"n_jobs_forward": 1}
            if torch.is_grad_enabled() and values.requires_grad:
                jobs["n_jobs_backward"] = 1
            return layer(values, solver_args=jobs)[0]

        return run

    return make


def _reduced_statement(case: Case, scenarios: Any) -> tuple[Any, Any]:
    """The power program with its squares and hinges merged, which spares the cone solver M cones."""
    import cvxpy as cp

    program = case.program
    if not isinstance(program, PowerProgram):
        raise Unavailable("the plain statement is as small")
    num, size = scenarios.shape
    z = cp.Variable(size)
    every = np.ones((num, 1)) @ cp.reshape(z, (1, size), order="C")
    linear = program.excess - cp.sum(scenarios, axis=0) / num
    shortage = program.hinge_slope / num * cp.sum(cp.pos(scenarios - every))
    cost = 0.5 * cp.sum_squares(z) + linear @ z + shortage
    limits = [z[1:] - z[:-1] <= program.ramp, z[:-1] - z[1:] <= program.ramp]
    return cp.Problem(cp.Minimize(cost), limits), z


def _cvxpy_osqp(case: Case) -> Solve:
    """One parametrised cvxpy problem, solved in a loop by OSQP from the last solution."""
    import cvxpy as cp

    if quadratic_program(case.program, case.scenarios()[:1]) is None:
        raise Unavailable("not a quadratic program")
    num = case.num_scenarios
    parameter = cp.Parameter((num, case.program.num_outcomes))
    problem, z, _ = case.program.cvxpy_problem(parameter, np.full(num, 1.0 / num))

    def run(values: Tensor) -> Tensor:
        decisions = []
        for value in values.detach().numpy():
            parameter.value = value
            problem.solve(solver=cp.OSQP, warm_start=True)
            if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
                raise RuntimeError(f"OSQP: {problem.status}")
            decisions.append(z.value)
        return torch.from_numpy(np.stack(decisions))

    return run


def _moreau(case: Case) -> Solve:
    """moreau's own torch interface; its interior point, whose gradients are those of the optimum."""
    try:
        import moreau
        from moreau.torch import Solver
    except ImportError as error:
        raise Unavailable(f"not installed ({error.name})") from None
    solvers: dict[int, Any] = {}

    def solver_of(problem: QuadraticProgram) -> Any:
        """The solver of this batch size; made once, before anything is timed."""
        batch = len(problem.linear)
        if batch not in solvers:
            num_equal, num_unequal = problem.equality.shape[0], problem.inequality.shape[0]
            offsets, columns, _ = _stacked(problem)
            solvers[batch] = Solver(
                problem.size,
                num_equal + num_unequal,
                problem.cost.offsets,
                problem.cost.columns,
                offsets,
                columns,
                moreau.Cones(num_zero_cones=num_equal, num_nonneg_cones=num_unequal),
                settings=moreau.Settings(
                    solver="ipm", device="cpu", batch_size=batch, enable_grad=True
                ),
            )
        return solvers[batch]

    _quadratic(case, case.scenarios()[:1])

    def run(values: Tensor) -> Tensor:
        problem = _quadratic(case, values)
        solver = solver_of(problem)
        right = torch.cat([problem.equality_value, problem.limit], dim=1)
        cost = problem.cost.values.expand(len(values), -1).contiguous()
        solution = solver.solve(cost, _stacked(problem)[2], problem.linear, right)
        failed = [str(status) for status in solver.info.status if "Solved" not in str(status)]
        if failed:
            raise RuntimeError(f"moreau: {failed[0]}")
        return solution.x[:, : case.num_decisions]

    return run


def _proxsuite(case: Case) -> Solve:
    """proxsuite's QPLayer: dense ProxQP with its own backward pass.

    ProxQP 0.8.0 calls some feasible power programs infeasible; QPLayer then returns the iterate it
    stopped at and says nothing. The gap shows it.
    """
    try:
        from proxsuite.torch.qplayer import QPFunction
    except ImportError as error:
        raise Unavailable(f"not installed ({error.name})") from None
    probe = _quadratic(case, case.scenarios()[:1])
    num_rows = probe.size + probe.equality.shape[0] + probe.inequality.shape[0]
    if num_rows > _DENSE_ROWS:
        raise Unavailable(f"dense only: its KKT matrix has {num_rows} rows")
    layer = QPFunction()

    def run(values: Tensor) -> Tensor:
        problem = _quadratic(case, values)
        b = len(values)
        cost, inequality = problem.cost.dense(), problem.inequality.dense()
        equality = problem.equality.dense().expand(b, -1, -1)
        lower = torch.full_like(problem.limit, -1e20)
        return layer(
            cost.expand(b, -1, -1),
            problem.linear,
            equality,
            problem.equality_value,
            inequality.expand(b, -1, -1),
            lower,
            problem.limit,
        )[0][:, : case.num_decisions]

    return run


def _qpsolvers(case: Case) -> Solve:
    """qpsolvers with Clarabel, sparse, one instance after the other, without cvxpy."""
    try:
        import qpsolvers
    except ImportError as error:
        raise Unavailable(f"not installed ({error.name})") from None
    from scipy.sparse import csc_matrix

    _quadratic(case, case.scenarios()[:1])

    def matrix(part: Any, row: int) -> Any:
        values = part.values[row if len(part.values) > 1 else 0]
        return csc_matrix((values.numpy(), (part.rows.numpy(), part.columns.numpy())), part.shape)

    def run(values: Tensor) -> Tensor:
        problem = _quadratic(case, values.detach())
        equal = problem.equality.shape[0] > 0
        decisions = []
        for row in range(len(values)):
            x = qpsolvers.solve_qp(
                matrix(problem.cost, row),
                problem.linear[row].numpy(),
                matrix(problem.inequality, row),
                problem.limit[row].numpy(),
                matrix(problem.equality, row) if equal else None,
                problem.equality_value[row].numpy() if equal else None,
                solver="clarabel",
            )
            if x is None:
                raise RuntimeError(f"qpsolvers: instance {row} is not solved")
            decisions.append(torch.from_numpy(x[: case.num_decisions]))
        return torch.stack(decisions)

    return run


def _quadratic(case: Case, scenarios: Tensor) -> QuadraticProgram:
    problem = quadratic_program(case.program, scenarios)
    if problem is None:
        raise Unavailable("not a quadratic program")
    return problem


def _stacked(problem: QuadraticProgram) -> tuple[Tensor, Tensor, Tensor]:
    """Equalities above inequalities in CSR: offsets, columns, values ``(B, nnz)``."""
    upper, lower = problem.equality, problem.inequality
    batch = len(problem.linear)
    offsets = torch.cat([upper.offsets, upper.offsets[-1] + lower.offsets[1:]])
    values = [part.values.expand(batch, -1) for part in (upper, lower)]
    return offsets, torch.cat([upper.columns, lower.columns]), torch.cat(values, dim=1)


OURS = Contender("ours", _ours)
CLARABEL = Contender("cvxpylayers, Clarabel", _cvxpylayers("Clarabel", reduced=False))
PEERS: tuple[Contender, ...] = (
    CLARABEL,
    Contender("cvxpylayers, Clarabel, reduced by hand", _cvxpylayers("Clarabel", reduced=True)),
    Contender("cvxpylayers, SCS", _cvxpylayers("SCS", reduced=False)),
    Contender("cvxpy + OSQP, warm loop", _cvxpy_osqp, differentiable=False),
    Contender("moreau, torch interface", _moreau),
    Contender("proxsuite QPLayer", _proxsuite),
    Contender("qpsolvers, Clarabel, loop", _qpsolvers, differentiable=False),
)
