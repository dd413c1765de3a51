"""From an almost solved program to its active set: multipliers to rounding, and the certificate.

An interior point knows which constraints bind and which hinges hold the decision, and stops short
of them. Here they become equalities, and Newton's method solves what is left
(:mod:`diffusion_dfl.solvers.active_newton`). Rows whose multiplier has the wrong sign, and rows that turn out
violated, change sides. The KKT residuals, without any regularisation, decide what is solved.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import apply
from diffusion_dfl.solvers.active_newton import ROUNDING, Penalties, Point, Sides, newton
from diffusion_dfl.solvers.newton_system import FirstOrder, Problem
from diffusion_dfl.solvers.rows import largest

#: Largest KKT residual of a solved instance, relative to the size of its data.
TOLERANCE = 1e-9
# A violation this far below what is allowed is rounding.
_ENOUGH = 1e-3
# From here one more round may solve an instance.
_NEAR = 1e4
_ROUNDS = 4
_REFINEMENTS = 2
# Penalties where sides change after every step, so that one step keeps to them.
_STIFF = 1e9
# Rounds without fewer changes after which one side changes at a time.
_PATIENCE = 3
# Share of the changes of sides that a few rounds are to leave at most.
_FEWER = 0.7


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

    Stationarity is relative to the sizes of the scenarios' gradients, feasibility of a row to its own
    terms (of hinges to the size of their arguments), complementarity to
    the product of both.
    """
    z, hinges = point.z, problem.hinges
    size = z.abs().amax(1)
    # What is summed up here: a hinge that costs much elsewhere, and slopes met on the way, say nothing of it.
    if hinges is not None:
        steep = torch.stack([steep, largest(at.gradient), largest(point.alpha.sum(1))]).amax(0)
    here = torch.maximum(steep, largest(hessian) * (problem.length + size))
    slope = torch.minimum(problem.slope, here)
    steep = steep + 1e-5 * slope
    near = problem.hinge_length + 1e-3 * size
    of_rows, of_equalities = problem.rows.terms(z)
    least = (1e-6 * problem.length).unsqueeze(1)
    of_rows, of_equalities = of_rows + least, of_equalities + least
    stationarity = at.gradient + problem.force(at, point.dual, point.nu)
    ratios = [largest(at.values.clamp_min(0) / of_rows), largest(at.equality / of_equalities)]
    unused = torch.where(point.dual > 0, point.dual * at.values / of_rows, 0.0)
    if hinges is not None:
        stationarity = stationarity + hinges.force(point.alpha)
        rounding = (10 * ROUNDING * (size + problem.length)).view(-1, 1, 1)
        above = (hinges.weight - point.alpha) * (at.arguments - rounding).clamp_min(0)
        below = point.alpha * (at.arguments + rounding).clamp_max(0)
        allowed = (steep * near).clamp_min(1e-300)
        ratios += [largest(part) / allowed for part in (above, below)]
        ratios.append(largest(at.arguments * point.held) / near)
    ratios.append(largest(unused) / steep.clamp_min(1e-300))
    # A decision is a float64: its own rounding times the curvature is as small as a slope can get.
    resolution = largest(apply(hessian.abs(), z.abs()))
    rounding = ROUNDING / TOLERANCE * (resolution + 10 * slope)
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
    sides = _sides(problem, point, slack)
    best, best_violation = point, torch.full_like(problem.slope, torch.inf)
    now = _begun(problem, point, sides)
    penalties = Penalties.of(problem, now)
    hessian: Tensor | None = None
    ended: FirstOrder | None = None
    fixed, curved = problem.closed and problem.bent_alike, problem.rows.constraints.smooth
    steep = measured = None
    near = False
    for turn in range(rounds):
        if turn and not fixed:
            known = hessian if curved is None and now.at is ended else None
            penalties = Penalties.of(problem, now, hessian=known)
        begun, now = now, newton(problem, now, sides, penalties, refinements)
        alpha, ended = now.alpha, now.at
        if problem.hinges is not None:
            alpha = torch.minimum(alpha.clamp_min(0), problem.hinges.weight)
        candidate = Multipliers(now.z, now.dual.clamp_min(0), now.nu, alpha, sides.held)
        hessian = penalties.hessian if fixed else problem.curvature(now.z, candidate.dual)[0]
        # Slopes may be of another size where it is solved than where the first round ended.
        if steep is None or near:
            here, measured = problem.smooth_slopes(now.z), turn
            steep = here if steep is None else torch.minimum(steep, here)
        score = violation(problem, candidate, now.at, hessian, steep)
        if measured != turn and bool((score <= 1).any()):
            steep = torch.minimum(steep, problem.smooth_slopes(now.z))
            score = violation(problem, candidate, now.at, hessian, steep)
        near = bool((score <= _NEAR).any())
        better = score < best_violation
        best = candidate.where(better, best)
        best_violation = torch.where(better, score, best_violation)
        if not bool((better & (best_violation > enough)).any()):
            break
        sides, now, _ = sides.after(problem, begun, now, penalties.hessian)
    return best, best_violation


def pivoted(
    problem: Problem, point: Multipliers, slack: Tensor, rounds: int
) -> tuple[Multipliers, Tensor, Tensor]:
    """Change sides from far away, without a look at residuals in between.

    A program of few kinks, or of few decisions, is through in so many rounds as decisions are held
    otherwise than where it began (primal-dual active set: Hintermueller, Ito and Kunisch, SIAM J. Optim.
    13(3), 2002). An instance that goes in a circle changes one side at a time (Judice and Pires, Comput.
    Oper. Res. 21(5), 1994). Where kinks are more than decisions, a step ends where the cost turns.

    Args:
        problem: what to solve; its Hessian is the same everywhere.
        point, slack: as for :func:`polish`, which is to follow.
        rounds: how often the active set may change.

    Returns:
        The last decision, slack with which :func:`polish` takes its sides, and which instances came through.
    """
    sides = _sides(problem, point, slack)
    now = _begun(problem, point, sides)
    penalties = Penalties.of(problem, now, _STIFF)
    search = now.at.arguments[0].numel() > now.z.shape[1]
    fewest = torch.full_like(problem.slope, torch.iinfo(torch.int64).max, dtype=torch.int64)
    patience = torch.full_like(fewest, _PATIENCE)
    left: list[tuple[int, int]] = []
    for _ in range(rounds):
        begun, now = now, newton(problem, now, sides, penalties, 1)
        hessian, single = penalties.hessian, patience <= 0
        sides, now, count = sides.after(problem, begun, now, hessian, search, single)
        left.append((int((count > 0).sum()), int(count.sum())))
        if not left[-1][0] or _no_longer_falls(left):
            break
        patience = torch.where((count < fewest) & (patience > 0), _PATIENCE, patience - 1)
        fewest = torch.minimum(fewest, count)
    alpha = sides.shares(problem, now.alpha)
    point = Multipliers(now.z, now.dual, now.nu, alpha, sides.held)
    return point, torch.where(sides.active, -1.0, torch.inf), count == 0


def _no_longer_falls(left: list[tuple[int, int]]) -> bool:
    """Whether neither open instances nor changes of sides are fewer than some rounds before."""
    if len(left) <= _PATIENCE + 1:
        return False
    (open_then, then), (open_now, now) = left[-2 - _PATIENCE], left[-1]
    return open_now >= open_then and now > _FEWER * then


def _sides(problem: Problem, point: Multipliers, slack: Tensor) -> Sides:
    """As an interior iterate has them."""
    unit = (problem.slope / problem.length).unsqueeze(1)
    active = problem.rows.present & (point.dual > unit * slack)
    up = point.held
    if problem.hinges is not None:
        up = point.alpha > 0.5 * problem.hinges.weight
    return Sides(active, point.held, up)


def _begun(problem: Problem, point: Multipliers, sides: Sides) -> Point:
    dual = torch.where(sides.active, point.dual, 0.0)
    return Point(point.z, dual, point.nu, point.alpha, problem.first_order(point.z))
