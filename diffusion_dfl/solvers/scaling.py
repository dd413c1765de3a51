"""Magnitudes of a batch of programs, and a first decision made from them."""

from dataclasses import replace

import torch
from torch import Tensor

from diffusion_dfl.programs import Program
from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.solvers.newton_system import Factor, Problem, ScaledHinges
from diffusion_dfl.solvers.rows import Rows, largest


def scaled_problem(
    program: Program,
    scenarios: Tensor,
    weights: Tensor,
    bandwidth: Tensor,
    context: Tensor | None,
) -> Problem:
    """The program with unit gradients and its magnitudes, at the allowed decision nearest to 0."""
    given = program.constraints(scenarios, context)
    z = _nearest_to_zero(given, scenarios, program.num_decisions)
    rows = Rows.of(given, z)
    hinges = _scaled_hinges(program, scenarios, weights, bandwidth)
    slopes = program.gradients(scenarios, bandwidth, z, weights).abs()
    slope = largest(torch.einsum("bm,bmn->bn", weights, slopes))
    length = _length(rows, hinges, z)
    if hinges is not None:
        slope = torch.maximum(slope, largest(hinges.weight.sum(1)))
    problem = Problem(program, scenarios, weights, bandwidth, rows, hinges, length, length, slope)
    if not bool(((length > 0) & (slope > 0)).all()):
        problem = _with_defaults(problem, z)
    return problem


def _nearest_to_zero(given: Constraints, like: Tensor, size: int) -> Tensor:
    z = like.new_zeros(len(like), size)
    if given.lower is not None:
        z = torch.maximum(z, given.lower)
    if given.upper is not None:
        z = torch.minimum(z, given.upper)
    return z.nan_to_num(0.0, 0.0, 0.0)


def _smallest_limit(rows: Rows, z: Tensor) -> Tensor:
    """Smallest limit that is not 0, ``inf`` where there is none: ``(B,)``.

    Large limits are often a user's word for none at all.
    """
    limits = rows.constraints
    parts = [limits.limit]
    parts += [bound for bound in (limits.lower, limits.upper) if bound is not None]
    if limits.smooth is not None:
        parts.append(limits.smooth.values(z) / rows.unit[:, -limits.smooth.size :])
    smallest = torch.full_like(z[:, 0], torch.inf)
    for part in parts:
        if part.shape[1]:
            size = part.abs()
            size = torch.where((size > 0) & size.isfinite(), size, torch.inf)
            smallest = torch.minimum(smallest, size.amin(1))
    return smallest


def _length(rows: Rows, hinges: ScaledHinges | None, z: Tensor) -> Tensor:
    """The farthest kink, without one the smallest limit; no less than the equalities: ``(B,)``."""
    length = _smallest_limit(rows, z)
    length = torch.where(length.isfinite(), length, 0.0)
    if hinges is not None:
        farthest = largest(torch.where(hinges.weight > 0, hinges.offset, 0.0))
        length = torch.where(farthest > 0, farthest, length)
    equalities = largest(rows.constraints.equality_value).expand(len(z))
    return torch.stack([length, largest(z), equalities]).amax(0)


def _with_defaults(problem: Problem, z: Tensor) -> Problem:
    """Magnitudes from a Newton step where the limits name none; 1 where nothing does."""
    hessian = problem.curvature(z, torch.zeros_like(problem.first_order(z).values))[0]
    curvature = largest(hessian)
    step = torch.where(curvature > 0, problem.slope / curvature.clamp_min(1e-300), 0.0)
    length = torch.where(problem.length > 0, problem.length, step)
    length = torch.where(length > 0, length, 1.0)
    slope = torch.where(problem.slope > 0, problem.slope, curvature * length)
    slope = torch.where(slope > 0, slope, 1.0)
    return replace(problem, length=length, hinge_length=length, slope=slope)


def _scaled_hinges(
    program: Program, scenarios: Tensor, weights: Tensor, bandwidth: Tensor
) -> ScaledHinges | None:
    hinges = program.hinges(scenarios, bandwidth)
    if hinges is None:
        return None
    weight = hinges.coefficient * weights.unsqueeze(-1)
    if not bool((weight > 0).any()):
        return None
    unit = hinges.jacobian.norm(dim=3)
    weight = torch.where(unit > 0, weight * unit, 0.0)
    unit = torch.where(unit > 0, unit, 1.0)
    jacobian = hinges.jacobian / unit.unsqueeze(3)
    plain = ((hinges.jacobian == jacobian) & (jacobian.abs() != 1)).sum(3) == jacobian.shape[3] - 1
    return ScaledHinges(weight, hinges.offset / unit, jacobian, unit, bool(plain.all()))


def cold_start(problem: Problem) -> Tensor:
    """Minimiser of a quadratic model: F's own, a spring to each kink and violated row, ``A z = b``."""
    z = _nearest_to_zero(problem.rows.constraints, problem.scenarios, problem.program.num_decisions)
    at = problem.first_order(z)
    hessian = problem.curvature(z, torch.zeros_like(at.values))[0]
    unit = (problem.slope / problem.length).unsqueeze(1)
    typical = torch.maximum(hessian.diagonal(dim1=1, dim2=2).mean(1, keepdim=True), 0.1 * unit)
    eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    right, spring = -at.gradient, at.arguments
    if problem.hinges is not None:
        weight = problem.hinges.weight
        spring = weight / problem.length.view(-1, 1, 1)
        right = right - problem.hinges.force(0.5 * weight + spring * at.arguments)
    system = hessian + 0.01 * unit.unsqueeze(2) * eye
    matrix = problem.rows.constraints.equality_matrix
    penalty = torch.zeros_like(at.values)
    step = torch.zeros_like(z)
    for _ in range(2):
        violated = problem.rows.present & (at.values + problem.push(at, step) > 0)
        penalty = torch.where(violated, typical, penalty)
        force = problem.force(at, penalty * at.values, torch.zeros_like(at.equality))
        factor = Factor(problem.system(at, system, penalty, spring), matrix, typical.squeeze(1))
        step = factor.solve(right - force, -at.equality)[0]
    size = step.abs().amax(1, keepdim=True)
    usable = step.isfinite().all(1, keepdim=True) & (size < 1e3 * problem.length.unsqueeze(1))
    return torch.where(usable, z + step, z)


def rescaled(problem: Problem, z: Tensor) -> Problem:
    """The problem with the magnitudes found at a first decision ``z (B, n)``.

    Distances to kinks and slopes there do not depend on where 0 is, unlike those of the data.
    """
    gradients = problem.program.gradients(
        problem.scenarios, problem.bandwidth, z, problem.weights
    ).abs()
    steep = largest(torch.einsum("bm,bmn->bn", problem.weights, gradients))
    if problem.hinges is None:
        length = torch.maximum(problem.length, largest(z))
        slope = torch.maximum(steep, 1e-3 * problem.slope)
        return replace(problem, length=length, hinge_length=length, slope=slope)
    at, rows = problem.first_order(z), problem.rows
    real = problem.hinges.weight > 0
    apart = largest(torch.where(real, at.arguments, 0.0))
    equalities = largest(rows.constraints.equality_value).expand(len(z))
    violated = largest(at.values.clamp_min(0))
    limit = torch.minimum(_smallest_limit(rows, z), largest(z))
    length = torch.stack([apart, equalities, violated, limit, 1e-3 * largest(z)]).amax(0)
    length = torch.where(length > 0, length, problem.length)
    slope = torch.maximum(steep, 1e-3 * problem.slope)
    slope = torch.maximum(slope, largest(problem.hinges.weight.sum(1)))
    near = torch.maximum(apart, 1e-3 * length)
    return replace(problem, length=length, hinge_length=near, slope=slope)
