"""Newton's method on what is left of a program once its active set is taken for equalities.

The binding rows ``c_A(z) = 0`` and the holding hinges ``a_H(z) = 0`` are kept by the method of multipliers

    (H + rho C'C) d = -(gradient + C'y + rho C'r),    y <- y + rho (r + C d),

which needs one factorisation whatever the number of rows, and leaves redundant ones the multipliers they
came with. :class:`Sides` say which rows and hinges those are, and change where the signs say against them.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffusion_dfl.solvers.factor import Factor, cholesky
from diffusion_dfl.solvers.newton_system import FirstOrder, Problem

# What rounding alone may leave, relative to the magnitudes met on the way.
ROUNDING = 1e-14
_PENALTY = 1e6
# A violation of this size, relative to the decision, is none of a penalty's.
_OUTSIDE = 1e-6


@dataclass(frozen=True)
class Point:
    """A decision ``z (B, n)``, the program at it, and multipliers of rows ``(B, q)``, equalities ``(B, p)``
    and hinges ``(B, M, K)``."""

    z: Tensor
    dual: Tensor
    nu: Tensor
    alpha: Tensor
    at: FirstOrder


@dataclass(frozen=True)
class Sides:
    """Which rows bind ``(B, q)``, which hinges are held at their kink and which of the others are above
    it, ``(B, M, K)`` bool."""

    active: Tensor
    held: Tensor
    up: Tensor

    def shares(self, problem: Problem, alpha: Tensor) -> Tensor:
        """Multipliers of the hinges, those of what is not held by their side: ``(B, M, K)``."""
        if problem.hinges is None:
            return alpha
        return alpha * self.held + problem.hinges.weight * (self.up & ~self.held)

    def after(
        self,
        problem: Problem,
        begun: Point,
        point: Point,
        hessian: Tensor,
        search: bool = False,
        single: Tensor | None = None,
    ) -> tuple["Sides", Point, Tensor]:
        """The sides after a step that kept to these: what the signs say against, changes.

        Args:
            problem: the program.
            begun, point: before the step and after it.
            hessian: of the cost between them, ``(B, n, n)``.
            search: whether a step that crosses a kink or a row ends where the cost turns, also where no more
                of them are crossed than can hold a decision.
            single: ``(B,)`` bool, where the largest of the changes is made alone.

        Returns:
            The new sides, where they begin, and how many of them changed, ``(B,)``.
        """
        held, up, hinges = self.held, self.up, problem.hinges
        alpha, at = point.alpha, point.at
        rounding = ROUNDING * (point.z.abs().amax(1) + problem.length)
        beyond = at.values > 10 * rounding.unsqueeze(1)
        beyond = beyond & ~self.active & problem.rows.present
        free = self.active & ~(point.dual > 0)
        crossed = loose = above = held
        far = torch.full_like(rounding, search, dtype=torch.bool)
        if hinges is not None:
            reach = 10 * rounding.view(-1, 1, 1)
            crossed = torch.where(up, at.arguments < -reach, at.arguments > reach) & ~held
            if not hinges.whole:
                crossed = crossed & (hinges.weight > 0)
            above = alpha > 0
            loose = held & ~(above & (alpha < hinges.weight))
            if not search:
                far = crossed.sum((1, 2)) > point.z.shape[1]
        if search or bool(far.any()):
            outside = _OUTSIDE / ROUNDING * rounding.unsqueeze(1)
            z, crossed, passed, beyond, early = self._to_turn(
                problem, begun, point, crossed, beyond, far, hessian, outside
            )
            up, at = up ^ passed, problem.first_order(z)
            point = replace(point, z=z, at=at)
            # Multipliers are those of the whole step, before which what was taken for active may not be. Near
            # the optimum, where nothing is searched, they are right all the same.
            early = early & search
            off = at.values < -10 * rounding.unsqueeze(1)
            free = torch.where(early.unsqueeze(1), self.active & off, free)
            if hinges is not None:
                early = early.view(-1, 1, 1)
                loose = torch.where(early, held & (at.arguments.abs() > reach), loose)
                above = torch.where(early, at.arguments > 0, above)
        rows, kinks = beyond | free, loose | crossed
        if single is not None and bool(single.any()):
            rows, kinks = _largest_alone(problem, point, rows, kinks, crossed, single)
        count = rows.sum(1)
        if hinges is not None:
            count = count + kinks.sum((1, 2))
            up = torch.where(kinks & held, above, up)
            held = held ^ kinks
        active = self.active ^ rows
        dual = torch.where(active, point.dual.clamp_min(0), 0.0)
        return Sides(active, held, up), replace(point, dual=dual), count

    def _to_turn(
        self,
        problem: Problem,
        begun: Point,
        point: Point,
        crossed: Tensor,
        beyond: Tensor,
        far: Tensor,
        hessian: Tensor,
        reach: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Where on the way from ``begun`` to ``point`` the cost begins to rise, in the instances ``far (B,)``.

        Where the cost falls slowly, as along an edge of a linear program, its slope says nothing of how far. On
        the way each kink that is ``crossed (B, M, K)`` adds to it; a row that is ``beyond (B, q)`` ends it.

        Returns:
            The decisions, the kinks that hold them and those that were passed, the rows that end the way, and
            which instances stopped early.
        """
        count = beyond.shape[1]
        before, after = begun.at.values, point.at.values
        stops, gain = beyond, torch.where(beyond, torch.inf, 0.0)
        if problem.hinges is not None:
            before = torch.cat([before, begun.at.arguments.flatten(1)], dim=1)
            after = torch.cat([after, point.at.arguments.flatten(1)], dim=1)
            stops = torch.cat([stops, crossed.flatten(1)], dim=1)
            steps = problem.hinges.weight * (point.at.arguments - begun.at.arguments).abs()
            gain = torch.cat([gain, torch.where(crossed, steps, 0.0).flatten(1)], dim=1)
        share = torch.where(stops, before / (before - after), torch.inf).nan_to_num(0.0, torch.inf)
        share, order = share.clamp(0.0, None).sort(1)
        gain = gain.gather(1, order)
        way = point.z - begun.z
        bend = (way * (hessian @ way.unsqueeze(2)).squeeze(2)).sum(1, keepdim=True).clamp_min(0.0)
        slope = begun.at.gradient
        if problem.hinges is not None:
            sides = problem.hinges.weight * (begun.at.arguments > 0)
            slope = slope + problem.hinges.force(sides)
        fall = torch.maximum(bend, -(slope * way).sum(1, keepdim=True))
        passed = (gain.cumsum(1) < fall - bend * share.clamp_max(1.0)) & (share < 1)
        # Where it turned between two kinks none of them holds the decision.
        so_far = torch.where(passed, gain, 0.0).sum(1, keepdim=True)
        between = (fall - so_far) / bend.clamp_min(1e-300)
        next_one = torch.where(passed, torch.inf, share).amin(1, keepdim=True)
        at_kink = next_one <= between
        reached = torch.where(at_kink, next_one, between.clamp(0.0, 1.0)).clamp_max(1.0)
        # A way into the feasible set is gone to its end, whatever it costs.
        outside = (begun.at.values > reach).any(1) | (begun.at.equality.abs() > reach).any(1)
        whole = outside.unsqueeze(1)
        reached = torch.where(whole, 1.0, reached)
        of_row = order < count
        passed = torch.where(whole, ~of_row, passed)
        at_kink = at_kink | whole
        mine = far.unsqueeze(1)
        met = (share <= reached * (1 + 1e-9)) & ~passed & at_kink
        met = torch.zeros_like(stops).scatter(1, order, met) & stops
        passed = torch.zeros_like(stops).scatter(1, order, passed) & stops & mine
        kept = torch.where(mine, met, stops)
        z = torch.where(mine, begun.z + reached * way, point.z)
        early = far & ((reached < 1).squeeze(1) | outside)
        if problem.hinges is None:
            return z, crossed, crossed, kept, early
        of_hinges = kept[:, count:].view_as(crossed), passed[:, count:].view_as(crossed)
        return z, *of_hinges, kept[:, :count], early


def _largest_alone(
    problem: Problem, point: Point, rows: Tensor, kinks: Tensor, crossed: Tensor, single: Tensor
) -> tuple[Tensor, Tensor]:
    """Of changes of rows ``(B, q)`` and hinges ``(B, M, K)`` the largest alone, in the instances ``single (B,)``.

    A multiplier out of its range counts as it is, a violation times the slope that the problem has a length.
    """
    unit = (problem.slope / problem.length).unsqueeze(1)
    sizes = torch.maximum(unit * point.at.values, -point.dual)
    chosen, count = rows, rows.shape[1]
    if problem.hinges is not None:
        out = torch.maximum(-point.alpha, point.alpha - problem.hinges.weight)
        of_hinges = torch.where(crossed, unit.unsqueeze(2) * point.at.arguments.abs(), out)
        sizes = torch.cat([sizes, of_hinges.flatten(1)], dim=1)
        chosen = torch.cat([rows, kinks.flatten(1)], dim=1)
    sizes = torch.where(chosen, sizes, -torch.inf)
    chosen = chosen & ((sizes == sizes.amax(1, keepdim=True)) | ~single.unsqueeze(1))
    return chosen[:, :count], chosen[:, count:].view_as(kinks)


@dataclass(frozen=True)
class Penalties:
    """Of all that may be active, with the Hessian beside which they are large.

    Attributes:
        hessian: of the Lagrangian, ``(B, n, n)``; ``typical (B,)`` of its diagonal.
        rows: ``(B, q)``.
        equalities: ``(B, p)``.
        hinges: ``(B, M, K)``, or None without hinges.
    """

    hessian: Tensor
    typical: Tensor
    rows: Tensor
    equalities: Tensor
    hinges: Tensor | None

    @staticmethod
    def of(
        problem: Problem, point: Point, size: float = _PENALTY, hessian: Tensor | None = None
    ) -> "Penalties":
        """At a decision, ``size`` times as stiff as the cost; its ``hessian`` there where it is known."""
        hinges, rows = problem.hinges, problem.rows.constraints
        if hessian is None:
            hessian, bend = problem.curvature(point.z, point.dual)
            if bend is not None:
                hessian = hessian + bend
        # Stiffness of the cost along a row; rows that meet soft coordinates only get a soft penalty.
        unit = problem.slope / problem.length
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        soft = 1.0 / (diagonal.clamp_min(0) + 1e-3 * unit.unsqueeze(1))
        matrix = rows.equality_matrix
        of_equalities = soft[:, :0]
        if matrix.shape[1]:
            square = ((matrix**2) @ soft.unsqueeze(-1)).squeeze(-1).clamp_min(1e-300)
            of_equalities = torch.where((matrix != 0).any(2), size / square, 0.0)
        of_hinges = None
        if hinges is not None:
            # Ties keep equal shares of their weights if their multipliers move in proportion to them.
            top = hinges.weight.amax(1, keepdim=True).clamp_min(1e-300)
            share = (hinges.weight / top).clamp_min(1e-4)
            of_hinges = size * share / _hinge_square_sum(problem, soft)
        return Penalties(
            hessian,
            diagonal.mean(1).clamp_min(0) + unit,
            size / _square_sum(problem, point.at, soft),
            of_equalities,
            of_hinges,
        )


def newton(
    problem: Problem, point: Point, sides: Sides, penalties: Penalties, refinements: int
) -> Point:
    """Newton steps on the equality-constrained program of an active set, put onto its bounds and kinks.

    Where only bounds and equalities are beside a cost of single coordinates, the equalities are eliminated.
    """
    hinges, active = problem.hinges, sides.active
    z, dual, nu, at = point.z, point.dual, point.nu, point.at
    alpha = sides.shares(problem, point.alpha)
    matrix = problem.rows.constraints.equality_matrix
    of_rows, of_equalities = penalties.rows * active, penalties.equalities
    of_hinges = alpha
    if penalties.hinges is not None:
        of_hinges = penalties.hinges * sides.held
    factor: Factor | Tensor
    if problem.diagonal:
        factor = problem.factor(at, penalties.hessian, of_rows, of_hinges, penalties.typical)
        of_equalities = torch.zeros_like(of_equalities)
    else:
        system = problem.system(at, penalties.hessian, of_rows, of_hinges)
        if matrix.shape[1]:
            system += matrix.transpose(1, 2) @ (matrix * of_equalities.unsqueeze(-1))
        system.diagonal(dim1=1, dim2=2).add_(1e-10 * penalties.typical.unsqueeze(1))
        factor = cholesky(system)
    for step in range(refinements):
        if step:
            at = problem.first_order(z)
        shifted = torch.addcmul(dual, of_rows, at.values) * active
        right = at.gradient + problem.force(at, shifted, nu + of_equalities * at.equality)
        if hinges is not None:
            right = right + hinges.force(torch.addcmul(alpha, of_hinges, at.arguments))
        if isinstance(factor, Factor):
            move, further = factor.solve(-right, -at.equality)
        else:
            move = -torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
            further = of_equalities
            if matrix.shape[1]:
                change = at.equality + (matrix @ move.unsqueeze(-1)).squeeze(-1)
                further = of_equalities * change
        finite = move.isfinite().all(1, keepdim=True)
        move, further = torch.where(finite, move, 0.0), torch.where(finite, further, 0.0)
        dual = torch.where(active, dual + of_rows * (at.values + problem.push(at, move)), 0.0)
        nu = nu + further
        if hinges is not None:
            alpha = alpha + of_hinges * (at.arguments + hinges.push(move))
        z = z + move
    z = _snapped(problem, z, active, sides.held)
    return Point(z, dual, nu, alpha, problem.first_order(z))


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
    rounding = (ROUNDING * (z.abs().amax(1) + problem.length)).unsqueeze(1)
    for bound, holds in ((rows.lower, low), (rows.upper, high)):
        if bound is not None:
            z = torch.where(holds | ((z - bound).abs() <= rounding), bound, z)
    return z


def _on_kinks(problem: Problem, z: Tensor, held: Tensor) -> Tensor:
    hinges = problem.hinges
    assert hinges is not None
    single, column, kink = hinges.single_kinks
    if not single.numel():
        return z
    column = column.expand_as(held).flatten(1)
    kink = kink.flatten(1)
    chosen = (held & single).flatten(1)
    distance = (z.gather(1, column) - kink).abs()
    reach = 100 * ROUNDING * (z.abs().amax(1, keepdim=True) + problem.length.unsqueeze(1))
    near = chosen & (distance <= reach)
    # Ties agree on the value; others that are this near differ by rounding only.
    target = z.new_full(z.shape, -torch.inf).scatter_reduce(
        1, column, torch.where(near, kink, -torch.inf), "amax"
    )
    return torch.where(target.isfinite(), target, z)
