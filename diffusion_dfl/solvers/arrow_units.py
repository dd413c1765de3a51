"""Units of their own for the coordinates of both stages, where they differ by orders of magnitude.

As :mod:`diffusion_dfl.solvers.columns` has them for programs of one stage: with ``v = (z, w) = D v'`` a
two-stage program is one in v'. A scenario's functions take the diagonal D from outside, so that instances
with the same D are solved together; D is rounded to few values to make that many.
"""

from dataclasses import replace

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import Constraints
from diffusion_dfl.programs.recourse import ScenarioProblem
from diffusion_dfl.solvers.arrow import Arrow
from diffusion_dfl.solvers.columns import Units, constraints_in_units, without_noise
from diffusion_dfl.solvers.scenarios import Scenarios

# Units are powers of this power of 2, which leaves coordinates within 16 of their own.
_POWER = 8
# Kinds of instances that are solved one after the other; with more, all have the units of most.
_KINDS = 16


def units_of(arrow: Arrow, v: Tensor) -> Units:
    """Units of z and w, ``(B, n + r)``, from the derivatives at decisions v ``(B, M, n + r)``."""
    units = Units.of(_entries(arrow, v), v[:, 0])
    if not bool(units.apart.any()):
        return units
    sizes = torch.exp2(_POWER * (units.sizes.log2() / _POWER).round())
    if len(torch.unique(sizes[units.apart], dim=0)) > _KINDS:
        common = sizes[units.apart].median(0).values
        sizes = torch.where(units.apart.unsqueeze(1), common, 1.0)
    return replace(units, sizes=sizes)


def _entries(arrow: Arrow, v: Tensor) -> list[Tensor]:
    """Matrices ``(B|1, rows, n + r)``, of the scenarios on average."""
    scenarios, z = arrow.scenarios, v[:, 0, : arrow.scenarios.problem.size]
    count = scenarios.num_rows
    hessian = scenarios.hessian(v, v.new_zeros(*v.shape[:2], count)).abs().mean(1)
    root = hessian.diagonal(dim1=1, dim2=2).sqrt()
    blocks = [without_noise(hessian, root), root.unsqueeze(1)]
    blocks.append(scenarios.gradient(v).abs().mean(1, keepdim=True))
    blocks.append(scenarios.row_slopes(v).abs().mean(1))
    blocks.append(scenarios.equalities.slope.abs().mean(1))
    if scenarios.rows is None and count:
        bent = scenarios.hessian(v, v.new_ones(*v.shape[:2], count)).abs().mean(1)
        blocks.append(without_noise(bent, bent.diagonal(dim1=1, dim2=2).sqrt()))
    first = [arrow.constraints.matrix, arrow.constraints.equality_matrix]
    slopes = arrow.first_slopes(z)
    first += [] if slopes is None else [slopes]
    width = v.shape[2] - z.shape[1]
    return blocks + [torch.nn.functional.pad(part, (0, width)) for part in first]


def alike(sizes: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The instances of every kind of units ``(B, N)``, with these ``(N,)``."""
    kinds, kind = torch.unique(sizes, dim=0, return_inverse=True)
    return [(torch.nonzero(kind == k).flatten(), own) for k, own in enumerate(kinds)]


def problem_in_units(given: ScenarioProblem, units: Tensor) -> ScenarioProblem:
    """A scenario's problem in v', of units ``(n + r,)``."""
    if bool((units == 1).all()):
        return given
    cost, rows, equalities = given.cost, given.rows, given.equalities
    own = units[given.size :]
    return replace(
        given,
        cost=lambda y, v: cost(y, units * v),
        rows=None if rows is None else lambda y, v: rows(y, units * v),
        equalities=None if equalities is None else lambda y, v: equalities(y, units * v),
        lower=given.lower / own,
        upper=given.upper / own,
    )


def first_in_units(given: Constraints, units: Tensor, batch: int) -> Constraints:
    """The first stage's constraints of z', of units ``(n,)``."""
    if bool((units == 1).all()):
        return given
    return constraints_in_units(given, units.expand(batch, -1))


def of_first(constraints: Constraints, units: Tensor) -> Tensor:
    """What inequalities of z' are multiplied by to be those of z: ``(q,)``, of units ``(n,)``."""
    counts = constraints.counts
    bounds = [units] * (bool(counts.lower) + bool(counts.upper))
    return torch.cat([units.new_ones(counts.affine), *bounds, units.new_ones(counts.smooth)])


def of_second(scenarios: Scenarios, units: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a scenario's inequalities and equalities, ``(k + b,)`` and ``(p,)``, of all units."""
    problem = scenarios.problem
    own, (low, high), fixed = units[problem.size :], problem.bounded, problem.fixed
    stated = scenarios.equalities.slope.shape[2] - len(fixed)
    rows = torch.cat([own.new_ones(scenarios.num_rows), own[low], own[high]])
    return rows, torch.cat([own.new_ones(stated), own[fixed]])
