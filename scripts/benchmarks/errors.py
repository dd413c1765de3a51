"""How wrong a decision is: against the best known objective, and by the KKT conditions.

All errors are relative, so that one number serves returns of 0.02 and penalties of 50: objectives to
the mean absolute cost of a scenario, forces to the largest scenario gradient.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_dfl.programs import Instances, Program
from diffusion_dfl.solvers import Solution, solve

# A hinge argument this small beside the largest scenario is at its kink.
_AT_KINK = 1e-12


@dataclass(frozen=True)
class Optimum:
    """What is known of the optimum of some instances.

    Attributes:
        decision: ``(b, n)``, the best known one of each instance.
        objective: ``(b,)``, its value.
        scale: ``(b,)``, mean absolute cost of a scenario there.
    """

    decision: Tensor
    objective: Tensor
    scale: Tensor

    def gap(self, objective: Tensor) -> float:
        """Largest relative excess over the best known; below 0 only if constraints are violated."""
        return float(((objective - self.objective) / self.scale).max())


def mean_cost(program: Program, scenarios: Tensor, decision: Tensor) -> Tensor:
    """Exact sample objective with uniform weights: ``(b, M, d_y), (b, n) -> (b,)``."""
    return program.cost(scenarios, decision.unsqueeze(1)).mean(1)


def best_exact(program: Program, scenarios: Tensor, ours: Tensor) -> tuple[Optimum, float]:
    """The better, an instance, of our exact decision and tight Clarabel's; and Clarabel's gap.

    A Clarabel decision is feasible to 1e-10 or so; what that gains is below the gaps shown.
    """
    with warnings.catch_warnings():
        # A tolerance that Clarabel misses is tried again, looser, by the reference itself.
        warnings.simplefilter("ignore")
        reference = solve(program, scenarios, solver="cvxpy")
    values = [mean_cost(program, scenarios, ours)]
    theirs = mean_cost(program, scenarios, reference.decision.nan_to_num())
    values.append(torch.where(reference.solved, theirs, torch.inf))
    objective, which = torch.stack(values).min(0)
    decision = torch.where((which == 0).unsqueeze(1), ours, reference.decision)
    scale = program.cost(scenarios, decision.unsqueeze(1)).abs().mean(1)
    optimum = Optimum(decision, objective, scale)
    solved = reference.solved
    gap = ((values[1] - objective) / scale)[solved].max() if bool(solved.any()) else torch.tensor(0)
    return optimum, float(gap)


def best_convolved(program: Program, scenarios: Tensor, width: Tensor, ours: Tensor) -> Optimum:
    """As :func:`best_exact`, against the general interior point: no conic solver has this cost."""
    other = solve(program, scenarios, None, width, solver="interior_point")
    given = Instances.of(scenarios, None, width)
    candidates = torch.stack([ours, torch.where(other.solved.unsqueeze(1), other.decision, ours)])
    values = torch.stack([program.objective(given, z) for z in candidates])
    objective, which = values.min(0)
    decision = torch.where((which == 0).unsqueeze(1), candidates[0], candidates[1])
    scale = program.cost(scenarios, decision.unsqueeze(1)).abs().mean(1)
    return Optimum(decision, objective, scale)


def violation(program: Program, decision: Tensor) -> float:
    """Largest violation of a constraint, in units of the decision."""
    constraints = program.constraints(decision)
    parts = [constraints.inequality_values(decision).clamp_min(0)]
    parts.append(constraints.equality_residual(decision).abs())
    return float(torch.cat(parts, dim=1).max())


def kkt_residual(program: Program, scenarios: Tensor, width: Tensor, solution: Solution) -> float:
    """Largest violation of the KKT conditions, each recomputed from the data, none believed.

    Stationarity of the subgradients with the multipliers, and that each subgradient lies in its
    scenario's subdifferential, relative to the largest subgradient; feasibility; signs of the
    multipliers; complementarity, relative to the largest subgradient.
    """
    z, duals = solution.decision, solution.duals
    constraints = program.constraints(z)
    scale = solution.subgradients.abs().amax((1, 2))
    force = solution.subgradients.mean(1) + constraints.inequality_force(z, duals)
    force = force + solution.equality_duals @ constraints.equality_matrix[0]
    slack = -constraints.inequality_values(z)
    unused = torch.where(duals != 0, duals * slack, 0.0)
    relative = torch.cat(
        [force, unused, duals.clamp_max(0), _outside(program, scenarios, width, solution)], 1
    )
    return max(float((relative.abs().amax(1) / scale).max()), violation(program, z))


def _outside(program: Program, scenarios: Tensor, width: Tensor, solution: Solution) -> Tensor:
    """Distance of the mean subgradient's parts to the subdifferentials: ``(b, n)``.

    For programs without kinks or with one hinge a coordinate, as all of the benchmark are.
    """
    z = solution.decision
    given = Instances.of(scenarios, None, width)
    gradients = program.gradients(given, z)
    hinges = program.hinges(given) if program.kinked else None
    if hinges is None:
        return (solution.subgradients - gradients).abs().mean(1)
    arguments = hinges.arguments(z)
    near = arguments.abs() <= _AT_KINK * scenarios.abs().amax((1, 2)).view(-1, 1, 1)
    now = 0.5 * (1 + torch.sign(arguments))
    # The hinge's derivative in z is -coefficient times the share of the slope.
    low = torch.where(near, 0.0, now) - now
    high = torch.where(near, 1.0, now) - now
    change = gradients - solution.subgradients
    low, high = low * hinges.coefficient, high * hinges.coefficient
    return ((low - change).clamp_min(0) + (change - high).clamp_min(0)).mean(1)
