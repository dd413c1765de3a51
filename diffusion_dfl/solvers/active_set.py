"""From an almost solved program to its active set: multipliers to rounding, and the certificate.

An interior point knows which constraints bind and which hinges hold the decision, and stops short
of them. Here the binding rows ``c_A(z) = 0`` and the holding hinges ``a_H(z) = 0`` become
equalities. Newton's method on what is left, in the form of the method of multipliers

    (H + rho C'C) d = -(gradient + C'y + rho C'r),    y <- y + rho (r + C d),

needs one factorisation whatever the number of rows, and leaves redundant ones the multipliers
they came with. Rows whose multiplier has the wrong sign, and rows that turn out violated, change
sides. The KKT residuals, without any regularisation, decide what is solved.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import apply
from diffusion_dfl.solvers.factor import Factor, cholesky
from diffusion_dfl.solvers.newton_system import FirstOrder, Problem
from diffusion_dfl.solvers.rows import largest

#: Largest KKT residual of a solved instance, relative to the size of its data.
TOLERANCE = 1e-9
# What rounding alone may leave, relative to the magnitudes met on the way.
_ROUNDING = 1e-14
_PENALTY = 1e6
# A violation this far below what is allowed is rounding.
_ENOUGH = 1e-3
_ROUNDS = 4
_REFINEMENTS = 2


@dataclass(frozen=True)
class Multipliers:
    """A decision ``z (B, n)`` with multipliers of rows ``(B, q)``, equalities ``(B, p)`` and hinges
    ``(B, M, K)``; the last lie in ``[0, weight]``. ``held`` are the hinges at their kink."""

    z: Tensor
    dual: Tensor
    nu: Tensor
    alpha: Tensor
    held: Tensor

    def select(self, rows: Tensor) -> "Multipliers":
        return Multipliers(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def copied(self) -> "Multipliers":
        """The same in new tensors."""
        return Multipliers(**{f.name: getattr(self, f.name).clone() for f in fields(self)})

    def write(self, rows: Tensor, other: "Multipliers") -> None:
        """Put another one in the instances ``rows``, in place."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(other, f.name)

    def where(self, chosen: Tensor, other: "Multipliers") -> "Multipliers":
        """This one in the instances ``chosen (B,)``, the other elsewhere."""
        if bool(chosen.all()):
            return self

        def pick(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(chosen.view(-1, *[1] * (mine.dim() - 1)), mine, theirs)

        return Multipliers(
            **{f.name: pick(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        )


def violation(
    problem: Problem, point: Multipliers, at: FirstOrder, hessian: Tensor, steep: Tensor
) -> Tensor:
    """KKT residuals over what is allowed: at most 1 in a solved instance, ``(B,)``.

    Stationarity is relative to the sizes of the scenarios' gradients, feasibility of a row to the
    decision and to its own limit (of hinges to the size of their arguments), complementarity to
    the product of both.
    """
    z, hinges = point.z, problem.hinges
    size = z.abs().amax(1)
    # What is summed up here: a hinge that costs much elsewhere, and slopes met on the way, say nothing of it.
    here = torch.maximum(steep, largest(hessian) * (problem.length + size))
    if hinges is not None:
        here = torch.maximum(here, largest(point.alpha.sum(1)))
    slope = torch.minimum(problem.slope, here)
    steep = steep + 1e-5 * slope
    near = problem.hinge_length + 1e-3 * size
    reach = (size + 1e-6 * problem.length).unsqueeze(1)
    of_rows = problem.rows.sizes + reach
    of_equalities = problem.rows.constraints.equality_value.abs() + reach
    stationarity = at.gradient + problem.force(at, point.dual, point.nu)
    ratios = [largest(at.values.clamp_min(0) / of_rows), largest(at.equality / of_equalities)]
    unused = torch.where(point.dual > 0, point.dual * at.values / of_rows, 0.0)
    if hinges is not None:
        stationarity = stationarity + hinges.force(point.alpha)
        steep = torch.maximum(steep, largest(point.alpha.sum(1)))
        rounding = (10 * _ROUNDING * (size + problem.length)).view(-1, 1, 1)
        above = (hinges.weight - point.alpha) * (at.arguments - rounding).clamp_min(0)
        below = point.alpha * (at.arguments + rounding).clamp_max(0)
        ratios += [largest(part) / (steep * near) for part in (above, below)]
        ratios.append(largest(at.arguments * point.held) / near)
    ratios.append(largest(unused) / steep.clamp_min(1e-300))
    # A decision is a float64: its own rounding times the curvature is as small as a slope can get.
    resolution = largest(apply(hessian.abs(), z.abs()))
    rounding = _ROUNDING / TOLERANCE * (resolution + 10 * slope)
    ratios.append(largest(stationarity) / (steep + rounding).clamp_min(1e-300))
    return torch.stack(ratios).amax(0).nan_to_num(torch.inf, torch.inf) / TOLERANCE


def polish(
    problem: Problem,
    point: Multipliers,
    slack: Tensor,
    rounds: int = _ROUNDS,
    refinements: int = _REFINEMENTS,
    enough: float = _ENOUGH,
) -> tuple[Multipliers, Tensor]:
    """Solve for the active set that an interior iterate points to.

    Args:
        problem: what to solve.
        point: the iterate; ``held`` marks the hinges it has close to their kink.
        slack: ``(B, q)`` of the iterate.
        rounds: how often the active set may change.
        refinements: steps with the same Hessian in each round.
        enough: a violation below which no further round is taken.

    Returns:
        The best decision found and its :func:`violation`.
    """
    unit = (problem.slope / problem.length).unsqueeze(1)
    present = problem.rows.present
    active = present & (point.dual > unit * slack)
    hinges = problem.hinges
    held = point.held
    if hinges is not None:
        up = point.alpha > 0.5 * hinges.weight
    else:
        up = held
    best, best_violation = point, torch.full_like(problem.slope, torch.inf)
    z, nu = point.z, point.nu
    dual = torch.where(active, point.dual, 0.0)
    alpha = point.alpha
    steep = problem.slopes(point.z)
    for _ in range(rounds):
        begun = z
        if hinges is not None:
            alpha = alpha * held + hinges.weight * (up & ~held)
        z, dual, nu, alpha = _equality_newton(
            problem, z, dual, nu, alpha, active, held, refinements
        )
        z = _snapped(problem, z, active, held)
        at = problem.first_order(z)
        clamped = alpha
        if hinges is not None:
            clamped = torch.minimum(alpha.clamp_min(0), hinges.weight)
        candidate = Multipliers(z, dual.clamp_min(0), nu, clamped, held)
        hessian = problem.curvature(z, candidate.dual)[0]
        score = violation(problem, candidate, at, hessian, steep)
        straight = problem.quadratic is not None and not problem.quadratic.forms
        if not straight and bool((score <= 1).any()):
            # Slopes may be of another size here than where the last round ended.
            steep = torch.minimum(steep, problem.slopes(z))
            score = violation(problem, candidate, at, hessian, steep)
        better = score < best_violation
        best = candidate.where(better, best)
        best_violation = torch.where(better, score, best_violation)
        if not bool((better & (best_violation > enough)).any()):
            break
        # What the signs say against, changes sides.
        rounding = _ROUNDING * (z.abs().amax(1) + problem.length)
        if hinges is not None:
            reach = 10 * rounding.view(-1, 1, 1)
            crossed = (up & (at.arguments < -reach)) | (~up & (at.arguments > reach))
            crossed = ~held & crossed & (hinges.weight > 0)
            if bool((crossed.sum((1, 2)) > z.shape[1]).any()):
                z, crossed = _to_first_kink(problem, begun, z, at.arguments, crossed)
                at = problem.first_order(z)
            strict = held & (alpha > 0) & (alpha < hinges.weight)
            loose = held & ~strict
            up = (loose & (alpha > 0)) | (~loose & up)
            held = (strict & (hinges.weight > 0)) | crossed
        active = present & ((active & (dual > 0)) | (at.values > 10 * rounding.unsqueeze(1)))
        dual = torch.where(active, dual.clamp_min(0), 0.0)
    return best, best_violation


def _to_first_kink(
    problem: Problem, begun: Tensor, z: Tensor, arguments: Tensor, crossed: Tensor
) -> tuple[Tensor, Tensor]:
    """Decisions on the way to z ``(B, n)`` where the first kink is met, and which kinks those are.

    Only where more are crossed than can hold a decision: there the cost falls so slowly, as along an edge
    of a linear program, that its slope says nothing of how far.
    """
    assert problem.hinges is not None
    before = problem.hinges.arguments(begun)
    share = torch.where(crossed, before / (before - arguments), torch.inf).clamp_min(0.0)
    share = share.nan_to_num(0.0)
    first = share.amin((1, 2))
    far = (crossed.sum((1, 2)) > z.shape[1]) & (first < 1)
    met = share <= first.view(-1, 1, 1) * (1 + 1e-9)
    z = torch.where(far.unsqueeze(1), begun + first.clamp_max(1.0).unsqueeze(1) * (z - begun), z)
    return z, crossed & (met | ~far.view(-1, 1, 1))


def _equality_newton(
    problem: Problem,
    z: Tensor,
    dual: Tensor,
    nu: Tensor,
    alpha: Tensor,
    active: Tensor,
    held: Tensor,
    refinements: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Newton steps on the equality-constrained program of an active set.

    Where only bounds and equalities are beside a cost of single coordinates, the equalities are eliminated.
    """
    hinges, rows = problem.hinges, problem.rows.constraints
    at = problem.first_order(z)
    hessian, bend = problem.curvature(z, dual)
    if bend is not None:
        hessian = hessian + bend
    # Stiffness of the cost along a row; rows that meet soft coordinates only get a soft penalty.
    unit = problem.slope / problem.length
    soft = 1.0 / (hessian.diagonal(dim1=1, dim2=2).clamp_min(0) + 1e-3 * unit.unsqueeze(1))
    row_penalty = torch.where(active, _PENALTY / _square_sum(problem, at, soft), 0.0)
    matrix = rows.equality_matrix
    equality_penalty = _PENALTY / ((matrix**2) @ soft.unsqueeze(-1)).squeeze(-1).clamp_min(1e-300)
    equality_penalty = torch.where((matrix != 0).any(2), equality_penalty, 0.0)
    hinge_penalty = alpha
    if hinges is not None:
        square = _hinge_square_sum(problem, soft)
        # Ties keep equal shares of their weights if their multipliers move in proportion to them.
        top = hinges.weight.amax(1, keepdim=True).clamp_min(1e-300)
        share = (hinges.weight / top).clamp_min(1e-4)
        hinge_penalty = (_PENALTY * share / square) * held
    typical = hessian.diagonal(dim1=1, dim2=2).mean(1).clamp_min(0) + unit
    factor: Factor | Tensor
    if problem.diagonal:
        factor = problem.factor(at, hessian, row_penalty, hinge_penalty, typical)
        equality_penalty = torch.zeros_like(equality_penalty)
    else:
        system = problem.system(at, hessian, row_penalty, hinge_penalty)
        if matrix.shape[1]:
            system += matrix.transpose(1, 2) @ (matrix * equality_penalty.unsqueeze(-1))
        system.diagonal(dim1=1, dim2=2).add_(1e-10 * typical.unsqueeze(1))
        factor = cholesky(system)
    for step in range(refinements):
        if step:
            at = problem.first_order(z)
        right = at.gradient + problem.force(
            at,
            torch.where(active, dual + row_penalty * at.values, 0.0),
            nu + equality_penalty * at.equality,
        )
        if hinges is not None:
            right = right + hinges.force(alpha + hinge_penalty * at.arguments)
        if isinstance(factor, Factor):
            move, further = factor.solve(-right, -at.equality)
        else:
            move = -torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
            change = at.equality + (matrix @ move.unsqueeze(-1)).squeeze(-1)
            further = equality_penalty * change
        finite = move.isfinite().all(1, keepdim=True)
        move, further = torch.where(finite, move, 0.0), torch.where(finite, further, 0.0)
        dual = torch.where(active, dual + row_penalty * (at.values + problem.push(at, move)), 0.0)
        nu = nu + further
        if hinges is not None:
            alpha = alpha + hinge_penalty * (at.arguments + hinges.push(move))
        z = z + move
    return z, dual, nu, alpha


def _square_sum(problem: Problem, at: FirstOrder, weight: Tensor) -> Tensor:
    """``sum_j weight_j J_qj^2`` of every inequality: ``(B, n) -> (B, q)``."""
    rows = problem.rows.constraints
    parts = [((rows.matrix**2) @ weight.unsqueeze(-1)).squeeze(-1)]
    parts += [weight for bound in (rows.lower, rows.upper) if bound is not None]
    if at.jacobian is not None:
        parts.append(((at.jacobian**2) @ weight.unsqueeze(-1)).squeeze(-1))
    return torch.cat(parts, dim=1).clamp_min(1e-300)


def _hinge_square_sum(problem: Problem, weight: Tensor) -> Tensor:
    assert problem.hinges is not None
    square = problem.hinges.jacobian**2
    flat = (square.flatten(1, 2) @ weight.unsqueeze(-1)).squeeze(-1)
    return flat.view(len(weight), *square.shape[1:3]).clamp_min(1e-300)


def _snapped(problem: Problem, z: Tensor, active: Tensor, held: Tensor) -> Tensor:
    """Decisions put exactly on the bounds, and on the kinks of one coordinate, that hold them."""
    rows = problem.rows.constraints
    _, low, high, _ = active.split(list(rows.counts), dim=1)
    if problem.hinges is not None:
        z = _on_kinks(problem, z, held)
    # Equal bounds are stated as an equality, which is kept to rounding only.
    rounding = (_ROUNDING * (z.abs().amax(1) + problem.length)).unsqueeze(1)
    for bound, holds in ((rows.lower, low), (rows.upper, high)):
        if bound is not None:
            z = torch.where(holds | ((z - bound).abs() <= rounding), bound, z)
    return z


def _on_kinks(problem: Problem, z: Tensor, held: Tensor) -> Tensor:
    hinges = problem.hinges
    assert hinges is not None
    jacobian = hinges.jacobian
    single = (jacobian != 0).sum(3) == 1
    size, column = jacobian.abs().max(3)
    signed = torch.where(
        single, jacobian.gather(3, column.unsqueeze(3)).squeeze(3), size.clamp_min(1.0)
    )
    column = column.expand_as(held).flatten(1)
    kink = (-hinges.offset / signed).flatten(1)
    chosen = (held & single).flatten(1)
    distance = (z.gather(1, column) - kink).abs()
    reach = 100 * _ROUNDING * (z.abs().amax(1, keepdim=True) + problem.length.unsqueeze(1))
    near = chosen & (distance <= reach)
    # Ties agree on the value; others that are this near differ by rounding only.
    target = z.new_full(z.shape, -torch.inf).scatter_reduce(
        1, column, torch.where(near, kink, -torch.inf), "amax"
    )
    return torch.where(target.isfinite(), target, z)
