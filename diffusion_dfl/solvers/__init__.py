"""Batched solvers: one call for a whole batch of stochastic programs."""

from functools import singledispatch

import torch
from torch import Tensor

from diffusion_dfl.programs.power import PowerProgram
from diffusion_dfl.programs.smoothing import resolvable
from diffusion_dfl.solvers.power import solve_power
from diffusion_dfl.solvers.solution import Solution, Status

__all__ = ["Solution", "Status", "solve"]


def solve(
    program: object,
    scenarios: Tensor,
    weights: Tensor | None = None,
    bandwidth: Tensor | None = None,
    context: Tensor | None = None,
) -> Solution:
    """Solve ``z* = argmin_z sum_m omega_m f_s(y_m, z)`` under the program's constraints.

    The whole batch at once, on the scenarios' device. A bad instance does not raise: it is
    reported in ``Solution.status``.

    Args:
        program: what to solve, e.g. :class:`~diffusion_dfl.programs.power.PowerProgram`.
        scenarios: ``(B, M, d_y)`` float64, ``M >= 1``.
        weights: ``(B, M)``, non-negative, each row with sum 1; uniform if None.
        bandwidth: ``(B, d_y)``, width of the Gaussian that smooths a kinked program; None or 0
            for the exact program, as is a width too narrow for float64.
        context: ``(B, d_x)``, for programs whose constraints depend on it; unused by the others.

    Raises:
        TypeError: scenarios that are not float64, or a program without a solver.
        ValueError: shapes that do not match.
    """
    if scenarios.dtype != torch.float64:
        raise TypeError(
            f"scenarios have dtype {scenarios.dtype}; solves need torch.float64 "
            "(DecisionLayer casts for you)"
        )
    if scenarios.dim() != 3 or scenarios.shape[1] < 1:
        raise ValueError(
            f"scenarios have shape {tuple(scenarios.shape)}; expected (B, M, d_y), M >= 1"
        )
    batch, num_scenarios, size = scenarios.shape
    if weights is None:
        weights = scenarios.new_full((batch, num_scenarios), 1.0 / num_scenarios)
    if bandwidth is None:
        bandwidth = scenarios.new_zeros(batch, size)
    for name, value, shape in (
        ("weights", weights, (batch, num_scenarios)),
        ("bandwidth", bandwidth, (batch, size)),
    ):
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} have shape {tuple(value.shape)}; expected {shape}")
    scenarios, weights, bandwidth = scenarios.detach(), weights.detach(), bandwidth.detach()
    valid = scenarios.isfinite().all(2).all(1) & weights.isfinite().all(1)
    valid &= bandwidth.isfinite().all(1) & (bandwidth >= 0).all(1) & (weights >= 0).all(1)
    valid &= (weights.sum(1) - 1.0).abs() <= 1e-3
    bandwidth = resolvable(scenarios, bandwidth)
    if bool(valid.all()):
        return _solve(program, scenarios, weights, bandwidth, context)
    # A harmless stand-in keeps the batch together; its rows are overwritten below.
    scenarios = torch.where(valid.view(-1, 1, 1), scenarios, 0.0)
    weights = torch.where(valid.view(-1, 1), weights, 1.0 / num_scenarios)
    bandwidth = torch.where(valid.view(-1, 1), bandwidth, 0.0)
    solution = _solve(program, scenarios, weights, bandwidth, context)
    return Solution(
        decision=torch.where(valid.view(-1, 1), solution.decision, torch.nan),
        duals=torch.where(valid.view(-1, 1), solution.duals, torch.nan),
        subgradients=torch.where(valid.view(-1, 1, 1), solution.subgradients, torch.nan),
        at_kink=solution.at_kink & valid.view(-1, 1, 1),
        status=torch.where(valid, solution.status, int(Status.INVALID_INPUT)),
        iterations=torch.where(valid, solution.iterations, 0),
        residuals=torch.where(valid.view(-1, 1), solution.residuals, torch.inf),
    )


@singledispatch
def _solve(
    program: object, scenarios: Tensor, weights: Tensor, bandwidth: Tensor, context: Tensor | None
) -> Solution:
    raise TypeError(f"no solver for {type(program).__name__}; known: PowerProgram")


@_solve.register
def _(
    program: PowerProgram,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    context: Tensor | None,
) -> Solution:
    if scenarios.shape[2] != program.num_decisions:
        raise ValueError(
            f"scenarios have {scenarios.shape[2]} hours; the program has {program.num_decisions}"
        )
    return solve_power(program, scenarios, weights, bandwidth)
