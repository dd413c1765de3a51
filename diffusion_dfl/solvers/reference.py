"""The reference the fast solvers are held against: cvxpy with Clarabel, one instance at a time.

Every program states its exact sample problem in plain cvxpy; here Clarabel solves that statement
at the tightest tolerance it reaches. Slow, without gradients, and never used in training.
"""

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.errors import UserError
from diffusion_dfl.programs import Hinges, Instances, Program
from diffusion_dfl.solvers.solution import Solution, Status

try:
    import cvxpy as cp
except ImportError as error:
    raise UserError(
        "solver='cvxpy' and on_failure='reference' need cvxpy with Clarabel: pip install cvxpy clarabel"
    ) from error

# Tried in turn: an interior point in float64 does not always reach the tightest.
_TOLERANCES = (1e-12, 1e-11, 1e-10, 1e-9)
# Hinge arguments this small, relative to the largest one, are at their kink.
_AT_KINK = 1e-7
# A slope share this close to an end of its interval does not hold the decision.
_STRICT = 1e-6


def solve_reference(program: Program, instances: Instances) -> Solution:
    """Solve ``min_z sum_m omega_m f(y_m, z)`` under the program's constraints with Clarabel.

    Args:
        program: what to solve; its ``cvxpy_problem`` is the statement.
        instances: valid ones, without a bandwidth: only the exact program has a conic form.

    Returns:
        The :class:`Solution` of the exact program. ``status`` is Clarabel's word, ``iterations``
        its iterations. Decisions are accurate to about 1e-8, and so is the test for kinks;
        the slope shares at kinks are what stationarity with Clarabel's duals leaves over.

    Raises:
        TypeError: a program without a cvxpy statement.
        ValueError: a positive bandwidth.
    """
    if bool((instances.bandwidth > 0).any()):
        raise ValueError(
            "the reference solves exact programs only: a convolved cost has no conic form; "
            "pass bandwidth=None"
        )
    scenarios, batch = instances.scenarios, len(instances)
    constraints = program.constraints(scenarios)
    num_equalities = constraints.equality_matrix.shape[1]
    num_duals = sum(constraints.counts) + num_equalities
    decision = scenarios.new_full((batch, program.num_decisions), torch.nan)
    duals = scenarios.new_full((batch, num_duals), torch.nan)
    status = torch.full((batch,), int(Status.NOT_CONVERGED), device=scenarios.device)
    iterations = torch.zeros_like(status)
    for row in range(batch):
        z, multipliers, status[row], iterations[row] = _solve_one(
            program, scenarios[row], instances.weights[row]
        )
        if z is not None and multipliers is not None:
            decision[row] = scenarios.new_tensor(z)
            duals[row] = scenarios.new_tensor(multipliers)
    inequality = duals[:, : num_duals - num_equalities].clamp_min(0)
    equality = duals[:, num_duals - num_equalities :]
    return _complete(program, instances, decision, inequality, equality, status, iterations)


def _solve_one(
    program: Program, scenarios: Tensor, weights: Tensor
) -> tuple[np.ndarray | None, np.ndarray | None, int, int]:
    """Decision ``(n,)``, duals ``(q + p,)``, status and iterations of one instance."""
    # Scenarios without weight change nothing but the conditioning of the conic form.
    used = weights > 0
    problem, z, constraints = program.cvxpy_problem(
        scenarios[used].cpu().numpy(), weights[used].cpu().numpy()
    )
    for tolerance in _TOLERANCES:
        try:
            problem.solve(
                solver=cp.CLARABEL,
                tol_gap_abs=tolerance,
                tol_gap_rel=tolerance,
                tol_feas=tolerance,
                tol_ktratio=1e-9,
                max_iter=200,
            )
        except cp.SolverError:
            continue
        if problem.status == cp.OPTIMAL:
            break
        if problem.status == cp.INFEASIBLE:
            return None, None, int(Status.INFEASIBLE), 0
        if problem.status == cp.UNBOUNDED:
            return None, None, int(Status.UNBOUNDED), 0
    else:
        return None, None, int(Status.NOT_CONVERGED), 0
    multipliers = [np.ravel(constraint.dual_value) for constraint in constraints]
    joined = np.concatenate(multipliers) if multipliers else np.zeros(0)
    return z.value, joined, int(Status.SOLVED), int(problem.solver_stats.num_iters)


def _complete(
    program: Program,
    instances: Instances,
    decision: Tensor,
    duals: Tensor,
    equality_duals: Tensor,
    status: Tensor,
    iterations: Tensor,
) -> Solution:
    """Subgradients, kinks and residuals of Clarabel's decisions."""
    constraints = program.constraints(decision)
    force = constraints.inequality_force(decision, duals)
    force = force + equality_duals @ constraints.equality_matrix[0]
    hinges, weights = program.hinges(instances), instances.weights
    subgradients = program.gradients(instances, decision)
    at_kink = torch.zeros_like(subgradients[..., :0], dtype=torch.bool)
    if hinges is not None:
        arguments = hinges.arguments(decision)
        reach = _AT_KINK * (1e-300 + hinges.offset.abs().amax((1, 2))).view(-1, 1, 1)
        near = arguments.abs() <= reach
        # Off the kink the sign counts; near it the slope is what stationarity leaves over.
        sign = 0.5 * (1 + torch.sign(arguments))
        subgradients = subgradients - hinges.scenario_force(
            hinges.coefficient * torch.where(near, sign, 0.0)
        )
        rest = torch.einsum("bm,bmn->bn", weights, subgradients) + force
        share = _kink_shares(hinges, weights, near, rest)
        subgradients = subgradients + hinges.scenario_force(hinges.coefficient * share)
        strict = (share > _STRICT) & (share < 1 - _STRICT)
        at_kink = near & strict & (weights > 0).unsqueeze(-1)
    stationarity = torch.einsum("bm,bmn->bn", weights, subgradients) + force
    values = constraints.inequality_values(decision)
    violation = torch.cat([values.clamp_min(0), constraints.equality_residual(decision)], dim=1)
    # An infinite limit has an infinite slack.
    unused = torch.where(duals > 0, duals * values, 0.0)
    residuals = torch.stack(
        [
            torch.cat([part.abs(), part.new_zeros(len(part), 1)], dim=1).amax(1)
            for part in (stationarity, violation, unused)
        ],
        dim=1,
    )
    failed = status != int(Status.SOLVED)
    return Solution(
        decision=decision,
        duals=duals,
        equality_duals=equality_duals,
        subgradients=torch.where(failed.view(-1, 1, 1), torch.nan, subgradients),
        at_kink=at_kink & ~failed.view(-1, 1, 1),
        status=status,
        iterations=iterations,
        residuals=torch.where(failed.view(-1, 1), torch.inf, residuals),
    )


def _kink_shares(hinges: Hinges, weights: Tensor, near: Tensor, rest: Tensor) -> Tensor:
    """Shares in [0, 1] of the kinks in ``near`` that bring ``rest (B, n)`` to 0: ``(B, M, K)``.

    Of all shares the ones of least norm, so that tied scenarios share alike.
    """
    size = weights.unsqueeze(2) * hinges.coefficient * near
    jacobian = hinges.jacobian.expand(*size.shape, -1) * size.unsqueeze(3)
    rows = jacobian.flatten(1, 2)
    gram = rows.transpose(1, 2) @ rows
    solved = torch.linalg.pinv(gram.nan_to_num(), rtol=1e-12, hermitian=True) @ rest.unsqueeze(2)
    shares = -(rows @ solved.nan_to_num()).squeeze(2).view_as(size)
    return torch.where(near, shares, 0.0).clamp(0, 1)
