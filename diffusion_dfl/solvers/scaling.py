"""Magnitudes of a batch of programs, and a first decision made from them."""

from dataclasses import replace

import torch
from torch import Tensor

from diffusion_dfl.programs import Instances, Program
from diffusion_dfl.programs.constraints import Constraints, QuadraticConstraints
from diffusion_dfl.programs.general.quadratic import QuadraticCost
from diffusion_dfl.solvers.factor import cholesky, with_diagonal
from diffusion_dfl.solvers.hinges import Pairs, ScaledHinges
from diffusion_dfl.solvers.newton_system import Problem, mean_slopes
from diffusion_dfl.solvers.roots import longest_share
from diffusion_dfl.solvers.rows import Rows, largest

# A limit below this share of a program's size is a 0 with rounding noise.
_NOISE = 1e-6
# Steps away from a decision at which the cost has no derivatives.
_ASIDE = (1.0, 1e-3)
# A step is made so much shorter, or longer.
_SHORTEST, _LONGEST = 1e-300, 1e15
# A decision this many lengths away is no size of a program.
_RUN_AWAY = 1e3
# Newton's step where there is no curvature to see: beyond any number, and made shorter.
_ENDLESS = 1e150
# A cost that is not quadratic may rise so much faster than its model says and by this share of its slope,
# and fall on for this share of it beyond the model's minimum.
_STEEPER, _RISE, _GENTLE = 1.5, 0.1, 0.25
# Steps towards curved sets, how little of the first violation is none, how short a step is the last, and how
# much of it must be gone for the way to have led there.
_TOWARDS, _AT_EDGE, _STILL, _CLOSER = 60, 1e-14, 1e-10, 0.5
# Of a slope, what rounding leaves of it.
_NOTHING = 1e-12


def scaled_problem(program: Program, instances: Instances, near: bool = True) -> Problem:
    """The program with unit gradients and its magnitudes, at an allowed decision near 0, and ``near`` its
    curved sets."""
    given = program.constraints(instances.scenarios, instances.context)
    quadratic = program.quadratic(instances)
    z = _origin(program, given, instances, quadratic is None)
    if near:
        z = near_curved(given, z)
    rows = Rows.of(given, z, near)
    return _with_magnitudes(program, instances, rows, quadratic, z, None, near)


def without_kernels(problem: Problem) -> Problem:
    """The problem with exact kinks."""
    exact = problem.instances.exact()
    return _again(replace(problem, instances=exact))


def without_form(problem: Problem) -> Problem:
    """The problem with its cost as it is, in place of the quadratic form it was taken for."""
    return _again(replace(problem, quadratic=None))


def _again(problem: Problem) -> Problem:
    """The problem with its magnitudes found anew."""
    parts = problem.rows, problem.quadratic, problem.origin, problem.pairs, problem.near
    return _with_magnitudes(problem.program, problem.instances, *parts)


def _with_magnitudes(
    program: Program,
    instances: Instances,
    rows: Rows,
    quadratic: QuadraticCost | None,
    z: Tensor,
    pairs: Pairs | None,
    near: bool,
) -> Problem:
    hinges = kinks = _scaled_hinges(program, instances)
    slope = mean_slopes(program, instances, quadratic, z)
    if program.kinked and bool((instances.bandwidth > 0).any()):
        # Kernels are where the kinks are.
        kinks = _scaled_hinges(program, instances.exact())
    length = _length(rows, kinks, z)
    if pairs is None:
        pairs = () if kinks is None else kinks.opposites()
    if hinges is not None:
        hinges = hinges.one_sided(pairs)
        slope = torch.maximum(slope, largest(hinges.weight.sum(1)))
    problem = Problem(
        program, instances, rows, hinges, quadratic, z, length, length, slope, pairs, near
    )
    if not bool(((length > 0) & (slope > 0)).all()):
        problem = _with_defaults(problem)
    return problem


def _origin(program: Program, given: Constraints, instances: Instances, doubtful: bool) -> Tensor:
    """The allowed decision nearest to 0, aside of it where the cost has no derivatives: ``(B, n)``.

    Whether it has is looked at where it is ``doubtful``, and that of smooth constraints always. An
    entropy has none on the bound that is the end of its domain, a norm none at 0.
    """
    batch, size = len(instances), program.num_decisions
    first = Instances.of(instances.scenarios[:, :1])
    z = first.bandwidth.new_zeros(batch, size)
    lower = z - torch.inf if given.lower is None else given.lower.expand_as(z)
    upper = z + torch.inf if given.upper is None else given.upper.expand_as(z)
    z = torch.minimum(torch.maximum(z, lower), upper).nan_to_num(0.0, 0.0, 0.0)
    for aside in _ASIDE if doubtful or given.smooth is not None else ():
        known = torch.ones_like(z[:, 0], dtype=torch.bool)
        if doubtful:
            known = program.hessian(first, z).isfinite().flatten(1).all(1)
            known = known & program.gradient(first, z).isfinite().all(1)
        if given.smooth is not None:
            bend = given.smooth.hessian(z, z.new_ones(batch, given.smooth.size))
            known = known & bend.isfinite().flatten(1).all(1)
        if bool(known.all()):
            break
        # Of different sizes, so that a difference of decisions is not 0 either.
        step = aside * (1 + torch.arange(size, dtype=z.dtype, device=z.device) / size)
        room = upper - lower
        up = torch.where(room.isfinite(), torch.minimum(step, aside / (1 + aside) * room), step)
        inside = torch.where(
            lower.isfinite(), lower + up, torch.where(upper.isfinite(), upper - up, up)
        )
        z = torch.where(known.unsqueeze(1), z, inside)
    return z


def near_curved(given: Constraints, z: Tensor) -> Tensor:
    """Decisions moved from z ``(B, n)`` to the edge of the curved sets that they are outside of.

    What a convex set far away is like, how wide and how steep its edge, is not seen from 0. Newton's method
    on the violated rows; an instance that it does not bring there stays where it was.
    """
    smooth = given.smooth
    if smooth is None:
        return z
    known, found = QuadraticConstraints.of(smooth, z), z
    values = known.values(z)
    begun = largest(values.clamp_min(0))
    for _ in range(_TOWARDS):
        outside = values > _AT_EDGE * begun.unsqueeze(1)
        if not bool(outside.any()):
            break
        slope = torch.where(outside.unsqueeze(2), known.jacobian(found), 0.0)
        square = slope @ slope.mT
        unit = square.diagonal(dim1=1, dim2=2).amax(1, keepdim=True).clamp_min(1e-300)
        factor = cholesky(with_diagonal(square, 1e-12 * unit))
        right = torch.where(outside, values, 0.0).unsqueeze(2)
        step = (slope.mT @ torch.cholesky_solve(right, factor)).squeeze(2)
        if bool((step.abs().amax(1) <= _STILL * found.abs().amax(1)).all()):
            break
        found = found - step
        for bound, nearer in ((given.lower, torch.maximum), (given.upper, torch.minimum)):
            if bound is not None:
                found = nearer(found, bound)
        values = known.values(found)
    reached = found.isfinite().all(1) & (largest(values.clamp_min(0)) <= _CLOSER * begun)
    return torch.where(reached.unsqueeze(1), found, z)


def _smallest_limit(rows: Rows, seen: Tensor) -> Tensor:
    """Smallest limit that is not 0, ``inf`` where there is none: ``(B,)``.

    Large limits are often a user's word for none at all. One that is small beside what was ``seen``
    of the program's size ``(B,)``, or beside most limits, is a 0 with rounding noise.
    """
    sizes = torch.where(rows.sizes > 0, rows.sizes, torch.nan)
    if not sizes.shape[1]:
        return torch.full_like(seen, torch.inf)
    typical = sizes.nanmedian(1, keepdim=True).values.nan_to_num(0.0)
    noise = _NOISE * torch.maximum(typical, seen.unsqueeze(1))
    return torch.where(sizes >= noise, sizes, torch.inf).nan_to_num(torch.inf, torch.inf).amin(1)


def _length(rows: Rows, kinks: ScaledHinges | None, z: Tensor) -> Tensor:
    """The farthest kink, without one the smallest limit; no less than the way to the equalities and
    violated rows from z ``(B, n)``: ``(B,)``."""
    limits = rows.constraints
    values = limits.inequality_values(z)
    if limits.smooth is not None:
        values = values / torch.where(
            torch.arange(values.shape[1], device=z.device) >= values.shape[1] - limits.smooth.size,
            rows.unit,
            1.0,
        )
    equalities = largest(limits.equality_value).expand(len(z))
    violated = largest(torch.where(rows.present, values.clamp_min(0), 0.0))
    seen = torch.stack([rows.reach(z), equalities, violated]).amax(0)
    length = _smallest_limit(rows, seen)
    length = torch.where(length.isfinite(), length, 0.0)
    if kinks is not None:
        farthest = largest(torch.where(kinks.weight > 0, kinks.arguments(z), 0.0))
        length = torch.where(farthest > 0, farthest, length)
    return torch.maximum(length, seen)


def _with_defaults(problem: Problem) -> Problem:
    """Magnitudes from a Newton step where the limits name none; 1 where nothing does."""
    z = problem.origin
    hessian = problem.curvature(z, torch.zeros_like(problem.first_order(z).values))[0]
    curvature = largest(hessian)
    step = torch.where(curvature > 0, problem.slope / curvature.clamp_min(1e-300), 0.0)
    if problem.quadratic is None:
        gradient = problem.first_order(z).gradient
        way = -gradient / largest(gradient).clamp_min(1e-300).unsqueeze(1)
        step = torch.where(curvature > 0, step, _ENDLESS).clamp_max(_ENDLESS)
        step = largest(fitting(problem, z, way * step.unsqueeze(1), torch.zeros_like(step)))
        # One that falls for ever says nothing of its size.
        step = torch.where(step < 0.1 * _ENDLESS, step, 0.0)
    length = torch.where(problem.length > 0, problem.length, step)
    length = torch.where(length > 0, length, 1.0)
    slope = torch.where(problem.slope > 0, problem.slope, curvature * length)
    slope = torch.where(slope > 0, slope, 1.0)
    return replace(problem, length=length, hinge_length=length, slope=slope)


def sized_by_cost(problem: Problem) -> Problem:
    """The problem with the length of its cost's Newton step in place of that of its limits."""
    return _with_defaults(replace(problem, length=torch.zeros_like(problem.length)))


def _scaled_hinges(program: Program, instances: Instances) -> ScaledHinges | None:
    hinges = program.hinges(instances)
    if hinges is None:
        return None
    weight = hinges.coefficient * instances.weights.unsqueeze(-1)
    if not bool((weight > 0).any()):
        return None
    if hinges.jacobian.shape[1] == 1 and bool((hinges.offset == hinges.offset[:, :1]).all()):
        # The same kinks in every scenario, as of a cost of trading: once a program.
        hinges = replace(hinges, offset=hinges.offset[:, :1])
        weight = weight.sum(1, keepdim=True)
    unit = hinges.jacobian.norm(dim=3)
    weight = torch.where(unit > 0, weight * unit, 0.0)
    unit = torch.where(unit > 0, unit, 1.0)
    jacobian = hinges.jacobian / unit.unsqueeze(3)
    return ScaledHinges(weight, hinges.offset / unit, jacobian, hinges.as_written)


def cold_start(problem: Problem) -> Tensor:
    """Minimiser of a quadratic model: F's own, a spring to each kink and violated row, ``A z = b``."""
    z = problem.origin
    at = problem.first_order(z)
    hessian = problem.curvature(z, torch.zeros_like(at.values))[0]
    unit = (problem.slope / problem.length).unsqueeze(1)
    typical = torch.maximum(hessian.diagonal(dim1=1, dim2=2).mean(1, keepdim=True), 0.1 * unit)
    right, spring = -at.gradient, at.arguments
    if problem.hinges is not None:
        weight = problem.hinges.weight
        spring = weight / problem.length.view(-1, 1, 1)
        right = right - problem.hinges.force(0.5 * weight + spring * at.arguments)
    system = with_diagonal(hessian, 0.01 * unit)
    penalty = torch.zeros_like(at.values)
    step = torch.zeros_like(z)
    for _ in range(2):
        violated = problem.rows.present & (at.values + problem.push(at, step) > 0)
        penalty = torch.where(violated, typical, penalty)
        force = problem.force(at, penalty * at.values, torch.zeros_like(at.equality))
        factor = problem.factor(at, system, penalty, spring, typical.squeeze(1))
        step = factor.solve(right - force, -at.equality)[0]
    if problem.quadratic is None:
        step = fitting(problem, z, step, 0.01 * unit.squeeze(1))
    size = step.abs().amax(1, keepdim=True)
    usable = step.isfinite().all(1, keepdim=True) & (size < 1e3 * problem.length.unsqueeze(1))
    return torch.where(usable, z + step, z)


def fitting(problem: Problem, z: Tensor, step: Tensor, spring: Tensor) -> Tensor:
    """Steps from z ``(B, n)``, made as long as the cost asks for where its quadratic model does not.

    Newton's step leads from the flat tail of a cost to where the cost overflows, and down the steep side of
    an exponential one unit at a time. Along it the slope of a convex cost only grows. Looked for by orders of
    magnitude is the longest step that has not become much steeper than the model says, and where the
    model's minimum is not one, the step that has the slope it should have there. Of exact hinges, which
    are springs in the model, nothing is asked.

    Args:
        spring: added to the Hessian of the model that the step is from, ``(B,)``.
    """
    length = largest(step)
    way = torch.where(step.isfinite(), step, 0.0) / length.clamp_min(1e-300).unsqueeze(1)

    def slope(share: Tensor) -> Tensor:
        there = z + (share * length).unsqueeze(1) * way
        return (problem.first_order(there).gradient * way).sum(1)

    hessian = problem.curvature(z, torch.zeros_like(problem.first_order(z).values))[0]
    begun, one = slope(torch.zeros_like(length)), torch.ones_like(length)
    bend = torch.einsum("bi,bij,bj->b", way, hessian, way) * length
    found, model = slope(one), begun + bend
    expected = model + spring * way.square().sum(1) * length
    expected = torch.where(expected.abs() <= _NOTHING * begun.abs(), 0.0, expected)

    def allowed(share: Tensor) -> Tensor:
        return _STEEPER * (begun + share * bend).clamp_min(0) + _RISE * begun.abs()

    moves = length > 0
    steep = ~(found <= allowed(one)) & moves
    gentle = (found < model - _GENTLE * begun.abs()) & moves
    if not bool((steep | gentle).any()):
        return step
    found = longest_share(
        lambda share: slope(share) <= torch.where(gentle, expected, allowed(share)),
        torch.where(gentle, one, _SHORTEST),
        torch.where(gentle, _LONGEST, one),
    )
    return (torch.where(steep | gentle, found, 1.0) * length).unsqueeze(1) * way


def within_bounds(problem: Problem, z: Tensor, share: float) -> Tensor:
    """Decisions ``(B, n)`` moved strictly between their bounds, by a share of the problem's length
    or a quarter of the way to the other bound."""
    rows = problem.rows.constraints
    lower = None if rows.lower is None else rows.lower.expand_as(z)
    upper = None if rows.upper is None else rows.upper.expand_as(z)
    margin = (share * problem.length.unsqueeze(1)).expand_as(z)
    if lower is not None and upper is not None:
        margin = torch.minimum(margin, 0.25 * (upper - lower))
    # Equal bounds are an equality; contrary ones leave no room.
    apart = margin > 0
    if lower is not None:
        z = torch.where(apart, torch.maximum(z, lower + margin), z)
    if upper is not None:
        z = torch.where(apart, torch.minimum(z, upper - margin), z)
    return z


def rescaled(problem: Problem, z: Tensor) -> Problem:
    """The problem with the magnitudes found at a first decision ``z (B, n)``.

    Distances to kinks and slopes there do not depend on where 0 is, unlike those of the data.
    """
    steep = problem.slopes(z)
    if problem.hinges is None:
        length = torch.maximum(problem.length, problem.rows.reach(z))
        slope = torch.maximum(steep, 1e-3 * problem.slope)
        if problem.quadratic is None:
            # Iterates may have run away, and the slope of an exponential where it was first looked at says
            # nothing of that at z.
            length = torch.minimum(length, _RUN_AWAY * problem.length)
            hessian = problem.curvature(z, torch.zeros_like(problem.first_order(z).values))[0]
            slope = torch.maximum(steep, torch.minimum(slope, largest(hessian) * length))
            slope = torch.where(slope > 0, slope, problem.slope)
        return replace(problem, length=length, hinge_length=length, slope=slope)
    at, rows = problem.first_order(z), problem.rows
    real = problem.hinges.weight > 0
    apart = largest(torch.where(real, at.arguments, 0.0))
    equalities = largest(rows.constraints.equality_value).expand(len(z))
    violated = largest(at.values.clamp_min(0))
    size = rows.reach(z)
    limit = torch.minimum(_smallest_limit(rows, violated), size)
    length = torch.stack([apart, equalities, violated, limit, 1e-3 * size]).amax(0)
    length = torch.where(length > 0, length, problem.length)
    slope = torch.maximum(steep, 1e-3 * problem.slope)
    slope = torch.maximum(slope, largest(problem.hinges.weight.sum(1)))
    near = torch.maximum(apart, 1e-3 * length)
    return replace(problem, length=length, hinge_length=near, slope=slope)
