"""The reference the fast solvers are held against: cvxpy with Clarabel, one instance at a time.

Every program states its exact sample problem in plain cvxpy; here Clarabel solves that statement
at the tightest tolerance it reaches. Slow, without gradients, and never used in training.
"""

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.programs.power import PowerProgram
from diffusion_dfl.solvers.solution import Solution, Status

# Tried in turn: an interior point in float64 does not always reach the tightest.
_TOLERANCES = (1e-12, 1e-11, 1e-10, 1e-9)
# Decisions this close to a scenario, relative to the largest one, sit on its kink.
_AT_KINK = 1e-7
# A slope share this close to an end of its interval does not hold the decision.
_STRICT = 1e-6


def solve_reference(
    program: PowerProgram,
    scenarios: Tensor,
    weights: Tensor | None = None,
    bandwidth: Tensor | None = None,
) -> Solution:
    """Solve ``min_z sum_m omega_m f(y_m, z)`` under ramp limits with Clarabel.

    Args:
        program: what to solve; its ``cvxpy_problem`` is the statement.
        scenarios: ``(B, M, n)`` float64, ``M >= 1``.
        weights: ``(B, M)``, non-negative, each row with sum 1; uniform if None.
        bandwidth: None or zeros: only the exact program has a conic form.

    Returns:
        The :class:`Solution` of the exact program. ``status`` is Clarabel's word, ``iterations``
        its iterations. Decisions are accurate to about 1e-8, and so is the test for kinks;
        the slope shares at kinks are what stationarity with Clarabel's duals leaves over.

    Raises:
        TypeError: scenarios that are not float64.
        ValueError: a positive bandwidth, or shapes that do not match.
    """
    if scenarios.dtype != torch.float64:
        raise TypeError(f"scenarios have dtype {scenarios.dtype}; torch.float64 is needed")
    if scenarios.dim() != 3 or scenarios.shape[1] < 1:
        raise ValueError(
            f"scenarios have shape {tuple(scenarios.shape)}; expected (B, M, n), M >= 1"
        )
    if bandwidth is not None and bool((bandwidth > 0).any()):
        raise ValueError(
            "the reference solves exact programs only: a convolved cost has no conic form; "
            "pass bandwidth=None"
        )
    batch, num_scenarios, size = scenarios.shape
    if size != program.num_decisions:
        raise ValueError(f"scenarios have {size} hours; the program has {program.num_decisions}")
    if weights is None:
        weights = scenarios.new_full((batch, num_scenarios), 1.0 / num_scenarios)
    if tuple(weights.shape) != (batch, num_scenarios):
        raise ValueError(
            f"weights have shape {tuple(weights.shape)}; expected {(batch, num_scenarios)}"
        )
    scenarios, weights = scenarios.detach(), weights.detach()
    rows = [_solve_one(program, scenarios[b], weights[b]) for b in range(batch)]
    decision = torch.stack([row[0] for row in rows])
    duals = torch.stack([row[1] for row in rows])
    status = torch.tensor([int(row[2]) for row in rows], device=scenarios.device)
    iterations = torch.tensor([row[3] for row in rows], device=scenarios.device)
    return _complete(program, scenarios, weights, decision, duals, status, iterations)


def _solve_one(
    program: PowerProgram, scenarios: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Status, int]:
    """Decision ``(n,)``, duals ``(m,)``, status and iterations of one instance."""
    num_limits = 2 * (program.num_decisions - 1)
    nothing = scenarios.new_full((program.num_decisions,), torch.nan)
    no_duals = scenarios.new_full((num_limits,), torch.nan)
    valid = scenarios.isfinite().all() & weights.isfinite().all() & (weights >= 0).all()
    if not bool(valid & ((weights.sum() - 1.0).abs() <= 1e-3)):
        return nothing, no_duals, Status.INVALID_INPUT, 0
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
    else:
        return nothing, no_duals, Status.NOT_CONVERGED, 0
    multipliers = np.concatenate([np.ravel(limit.dual_value) for limit in constraints])
    return (
        scenarios.new_tensor(z.value),
        scenarios.new_tensor(multipliers).clamp_min(0),
        Status.SOLVED,
        int(problem.solver_stats.num_iters),
    )


def _complete(
    program: PowerProgram,
    scenarios: Tensor,
    weights: Tensor,
    decision: Tensor,
    duals: Tensor,
    status: Tensor,
    iterations: Tensor,
) -> Solution:
    """Subgradients, kinks and residuals of Clarabel's decisions."""
    matrix, limit = program.inequalities(decision)
    force = duals @ matrix
    shortfall = scenarios - decision.unsqueeze(1)
    reach = _AT_KINK * (1e-300 + scenarios.abs().amax((1, 2))).view(-1, 1, 1)
    near = shortfall.abs() <= reach
    share = ((shortfall > 0) & ~near).to(decision.dtype)
    subgradients = program.excess - shortfall - program.hinge_slope * share
    rest = torch.einsum("bm,bmn->bn", weights, subgradients) + force
    tied = torch.einsum("bm,bmn->bn", weights, near.to(decision.dtype)) * program.hinge_slope
    kink_share = torch.where(tied > 0, rest / torch.where(tied > 0, tied, 1.0), 0.0).clamp(0, 1)
    kink_share = kink_share.unsqueeze(1) * near
    subgradients = subgradients - program.hinge_slope * kink_share
    at_kink = (kink_share > _STRICT) & (kink_share < 1 - _STRICT) & (weights > 0).unsqueeze(-1)
    slack = limit - decision @ matrix.T
    stationarity = torch.einsum("bm,bmn->bn", weights, subgradients) + force
    unused = torch.where(duals > 0, duals * slack, 0.0)
    residuals = torch.stack(
        [
            torch.cat([part.abs(), part.new_zeros(len(part), 1)], dim=1).amax(1)
            for part in (stationarity, (-slack).clamp_min(0), unused)
        ],
        dim=1,
    )
    failed = status != int(Status.SOLVED)
    return Solution(
        decision=decision,
        duals=duals,
        equality_duals=duals.new_zeros(len(duals), 0),
        subgradients=torch.where(failed.view(-1, 1, 1), torch.nan, subgradients),
        at_kink=at_kink & ~failed.view(-1, 1, 1),
        status=status,
        iterations=iterations,
        residuals=torch.where(failed.view(-1, 1), torch.inf, residuals),
    )
