"""Implicit differentiation of the KKT system (Eq. 5 and Eq. 9 from the same adjoint).

At a solution the binding rows R hold with equality and

    sum_m omega_m grad_z f(y_m, z) + R' v = 0.

One solve of the transposed system ``[H R'; R 0] [u; v] = [dL/dz; 0]`` an instance gives

    dL/dy_m     = -omega_m f_zy(y_m, z)' u          (pathwise, Eq. 5)
    dL/domega_m = -u' grad_z f(y_m, z) = w_m        (score weights, Eq. 9 and 10)
    dL/ds       = -(d/ds sum_m omega_m grad_z f_s)' u.

A kinked program in exact form has decisions that sit on a scenario's kink ``a(y_m, z) = 0``. That
kink is a row of R, and its multiplier reaches the scenario: ``dL/dy_m = -v grad_y a``.

Curvature (``curvature=``):
    ``convolved``  the program is solved in its Gaussian-convolved form and all derivatives are its;
    ``saa``        the exact sample program and its exact derivatives;
    ``paper``      the exact program with the derivatives the paper prints: kinks left out of H and
                   of the cross term, a 0/1 mask in the gradients. It is the derivative of no map,
                   and exists for comparison.

Where the map has a kink of its own, one rule each, so that results are reproducible:
a constraint that is tight with a zero multiplier counts as slack; a decision that touches a
scenario whose slope share is 0 or 1 counts as not held by it; tied scenarios share alike;
a rank-deficient set of binding rows is solved by its scaled pseudo-inverse.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffusion_dfl.layers.adjoint import Adjoint, Degeneracy, solve_adjoint
from diffusion_dfl.programs import Constraints, Hinges, Instances, Program
from diffusion_dfl.programs.constraints import transpose_apply
from diffusion_dfl.programs.program import block
from diffusion_dfl.solvers import Solution

Curvature = Literal["convolved", "saa", "paper"]


class Gradients(NamedTuple):
    """Of a loss: in scenarios, weights and bandwidth, shaped like them; in the values of the optimality
    conditions of the solved instances (:class:`~diffusion_dfl.programs.program.KKTValues`), if asked
    for; and which instances are degenerate."""

    scenarios: Tensor
    weights: Tensor
    bandwidth: Tensor
    conditions: tuple[Tensor, ...]
    degeneracy: Degeneracy


def differentiate(
    program: Program,
    solution: Solution,
    instances: Instances,
    grad_decision: Tensor,
    curvature: Curvature = "convolved",
    learned: bool = False,
) -> Gradients:
    """Vector-Jacobian product of z*.

    Args:
        program, instances: what was solved.
        solution: its solution.
        grad_decision: dL/dz*, ``(B, n)``.
        curvature: ``paper`` for the printed formula; the others differ in what was solved only.
        learned: whether gradients in the values of the optimality conditions are wanted.
    """
    given = solution
    if not bool(given.solved.all()):
        solution, instances = _stand_in(solution), instances.stand_in(given.solved)
    z, weights = solution.decision, instances.weights
    right = torch.where(solution.solved.unsqueeze(1), grad_decision, 0.0)
    held, subgradients, shares = solution.at_kink, solution.subgradients, solution.shares
    if curvature == "paper":
        held, shares = torch.zeros_like(held), None
        subgradients = program.masked_gradients(instances, z)
    hinges = program.hinges(instances) if held.shape[2] else None
    point = (instances, z)
    hessian: Tensor | Callable[[Tensor], Tensor]
    if program.separable:
        hessian = program.hessian(*point)
    elif solution.hessian is None:
        hessian = partial(program.hessian_block, *point)
    else:
        hessian = partial(block, solution.hessian)
    constraints = program.constraints(z, instances.context)
    adjoint = solve_adjoint(solution, weights, constraints, hessian, hinges, held, right)
    degeneracy = adjoint.degeneracy
    if hinges is not None:
        touching = (hinges.arguments(z) == 0) & (hinges.coefficient > 0) & ~held
        touching = touching & (weights > 0).unsqueeze(2)
        degeneracy = replace(degeneracy, weak=degeneracy.weak | touching.flatten(1).any(1))
    u = adjoint.direction
    in_scenarios = -weights.unsqueeze(-1) * program.cross_product(instances, z, u, shares)
    if adjoint.kink_multipliers is not None and held.shape[2]:
        moved = program.hinge_product(instances, z, adjoint.kink_multipliers)
        in_scenarios = in_scenarios - moved
    in_weights = -torch.einsum("bn,bmn->bm", u, subgradients)
    in_bandwidth = -program.bandwidth_product(instances, z, u)
    conditions: tuple[Tensor, ...] = ()
    if learned:
        curved = program.hessian(*point) if solution.hessian is None else solution.hessian
        conditions = _in_conditions(adjoint, constraints, curved, hinges, solution, held, right)
        rows = torch.nonzero(given.solved).flatten()
        conditions = tuple(part[rows] for part in conditions)
    return Gradients(in_scenarios, in_weights, in_bandwidth, conditions, degeneracy)


def _in_conditions(
    adjoint: Adjoint,
    constraints: Constraints,
    hessian: Tensor,
    hinges: Hinges | None,
    solution: Solution,
    held: Tensor,
    right: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``-(u, v)``: gradients in stationarity, inequalities, equalities and arguments of hinges.

    The multiplier of a bound that binds is what the other terms leave of dL/dz at its coordinate.
    """
    z, u = solution.decision, adjoint.direction
    assert adjoint.rows is not None and adjoint.equalities is not None
    kinks = torch.zeros_like(held, dtype=z.dtype)
    if adjoint.kink_multipliers is not None:
        kinks = adjoint.kink_multipliers
    counts = constraints.counts
    affine, smooth = adjoint.rows.split([counts.affine, counts.smooth], dim=1)
    # Where the optimum stands on the end of its domain, u is 0 and curvature may be infinite.
    bent = torch.einsum("bij,bj->bi", torch.where(u.unsqueeze(1) != 0, hessian, 0.0), u)
    total = bent + transpose_apply(constraints.matrix, affine)
    total = total + transpose_apply(constraints.equality_matrix, adjoint.equalities)
    if constraints.smooth is not None:
        curved = constraints.smooth.hessian(z, solution.duals[:, -counts.smooth :])
        total = total + torch.einsum("bij,bj->bi", curved, u)
        total = total + transpose_apply(constraints.smooth.jacobian(z), smooth)
    if hinges is not None:
        total = total + hinges.scenario_force(kinks).sum(1)
    rest = right - total
    parts = [affine]
    _, low, high, _ = solution.duals.split(list(counts), dim=1)
    if constraints.lower is not None:
        parts.append(torch.where(low > 0, -rest, 0.0))
    if constraints.upper is not None:
        parts.append(torch.where((high > 0) & ~_both(low, high), rest, 0.0))
    rows = torch.cat([*parts, smooth], dim=1)
    return -u, -rows, -adjoint.equalities, -kinks


def _both(low: Tensor, high: Tensor) -> Tensor:
    """Coordinates held by both bounds, which are equal; the lower one carries the multiplier."""
    return (low > 0) & (high > 0) if low.shape == high.shape else torch.zeros_like(high > 0)


def _stand_in(solution: Solution) -> Solution:
    """Finite values in place of what belongs to unsolved instances."""
    column, alone = solution.solved.unsqueeze(1), solution.solved.view(-1, 1, 1)
    return Solution(
        decision=torch.where(column, solution.decision, 0.0),
        duals=torch.where(column, solution.duals, 0.0),
        equality_duals=torch.where(column, solution.equality_duals, 0.0),
        subgradients=torch.where(alone, solution.subgradients, 0.0),
        at_kink=solution.at_kink & alone,
        status=solution.status,
        iterations=solution.iterations,
        residuals=solution.residuals,
        shares=None if solution.shares is None else torch.where(alone, solution.shares, 0.0),
        hessian=None if solution.hessian is None else torch.where(alone, solution.hessian, 0.0),
    )
