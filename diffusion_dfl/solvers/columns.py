"""Units of their own for coordinates that differ by orders of magnitude.

The interior point measures a decision by one length and a cost by one slope. Where one coordinate is
in millions and another in millionths, neither means anything to both. With ``z = D w`` the program
in w has gradients ``D grad f`` and rows ``G D``; the diagonal D is that of Curtis and Reid (J. Inst.
Maths. Applics. 10, 1972): of all scalings of rows and columns the one that leaves the entries of the
program's matrices nearest to 1, in the sum of the squares of their logarithms.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from diffusion_dfl.programs import Hinges, Instances, Program
from diffusion_dfl.programs.constraints import Constraints, SmoothConstraints
from diffusion_dfl.programs.general.quadratic import QuadraticCost
from diffusion_dfl.solvers.factor import cholesky
from diffusion_dfl.solvers.newton_system import Problem
from diffusion_dfl.solvers.rows import largest
from diffusion_dfl.solvers.solution import Solution

# Coordinates within this factor of each other are left in the units that they are given in.
_ALIKE = 1e2
# Weight of the wish to leave a coordinate as it is, beside that of one entry of a matrix.
_AS_GIVEN = 1e-3
# An entry of a Hessian this small beside those of its diagonal is rounding.
_ROUNDING = 1e-12
# Entries that are left farther than this factor from 1 say that units do not explain them.
_EXPLAINED = 1e3


@dataclass(frozen=True)
class Units:
    """Units of the coordinates of a batch.

    Attributes:
        sizes: D ``(B, n)``, powers of 2; 1 in instances whose coordinates are alike.
        apart: ``(B,)``, whether they are not.
        plain: ``(B,)``, whether units explain all entries. Where they do not, as tiny ones that are
            rounding noise, the units that the program is given in come first.
    """

    sizes: Tensor
    apart: Tensor
    plain: Tensor

    @staticmethod
    def of(blocks: list[Tensor], like: Tensor) -> "Units":
        """The units of a batch, from matrices ``(B|1, rows, n)`` of entries in units of ``1 / D``, each
        row in its own; ``like (B, n)``."""
        eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
        system, right = _AS_GIVEN * eye.repeat(len(like), 1, 1), torch.zeros_like(like)
        terms = []
        for block in (block for block in blocks if block.shape[1]):
            there = ((block != 0) & block.isfinite()).to(like.dtype)
            share = there / there.sum(2, keepdim=True).clamp_min(1.0)
            log = torch.where(there > 0, block.abs().log2(), 0.0)
            rest = log - (share * log).sum(2, keepdim=True)
            system -= there.mT @ share
            system.diagonal(dim1=1, dim2=2).add_(there.sum(1))
            right = right - (there * rest).sum(1)
            terms.append((there, share, rest))
        log_sizes = torch.cholesky_solve(right.unsqueeze(2), cholesky(system))
        sizes = torch.exp2(log_sizes.squeeze(2).round())
        apart = sizes.amax(1) > _ALIKE * sizes.amin(1)
        left = torch.zeros_like(like[:, 0])
        if bool(apart.any()):
            for there, share, rest in terms:
                error = rest + log_sizes.mT - share @ log_sizes
                left = torch.maximum(left, largest(there * error))
        plain = left <= math.log2(_EXPLAINED)
        return Units(torch.where(apart.unsqueeze(1), sizes, 1.0), apart, plain)


def without_noise(hessian: Tensor, root: Tensor) -> Tensor:
    """A Hessian ``(B, n, n)`` without entries that are rounding beside the ``root (B, n)`` of its diagonal."""
    noise = _ROUNDING * root.unsqueeze(1) * root.unsqueeze(2)
    return torch.where(hessian.abs() > noise, hessian, 0.0)


def entries(problem: Problem) -> list[Tensor]:
    """Of a program of one stage, what :meth:`Units.of` takes."""
    constraints = problem.rows.constraints
    at = problem.first_order(problem.origin)
    hessian, bend = problem.curvature(problem.origin, torch.ones_like(at.values))
    root = hessian.diagonal(dim1=1, dim2=2).abs().sqrt()
    # A row with one entry says nothing of others.
    alone = problem.quadratic is not None and problem.quadratic.diagonal
    blocks = [root.unsqueeze(1)] if alone else [without_noise(hessian, root), root.unsqueeze(1)]
    blocks += [at.gradient.unsqueeze(1), constraints.matrix, constraints.equality_matrix]
    blocks += [part for part in (bend, at.jacobian) if part is not None]
    if problem.hinges is not None:
        blocks.append(problem.hinges.jacobian.flatten(1, 2))
    elif problem.program.kinked:
        # Far from all kernels a smoothed cost has no curvature.
        kinks = problem.program.hinges(problem.instances.exact())
        blocks += [] if kinks is None else [kinks.jacobian.flatten(1, 2)]
    return blocks


def with_units(instances: Instances, units: Tensor) -> Instances:
    """Those of a :class:`ProgramInUnits`, of outcomes ``(y, D)``."""
    y, width = instances.scenarios, torch.cat([instances.bandwidth, torch.zeros_like(units)], 1)
    every = units.unsqueeze(1).expand(-1, y.shape[1], -1)
    return replace(instances, scenarios=torch.cat([y, every], 2), bandwidth=width)


@dataclass(frozen=True, eq=False)
class ProgramInUnits(Program):
    """A program in ``w = z / D``. Its outcomes are ``(y, D)``: an instance takes its units along."""

    given: Program

    def __post_init__(self) -> None:
        for name in ("num_decisions", "kinked", "separable", "contextual"):
            object.__setattr__(self, name, getattr(self.given, name))
        object.__setattr__(self, "num_outcomes", self.given.num_outcomes + self.num_decisions)

    def parts(self, instances: Instances) -> tuple[Instances, Tensor]:
        """The instances of the given program, and ``D (B, n)``."""
        size, both = self.given.num_outcomes, instances.scenarios
        width = instances.bandwidth[:, :size]
        return replace(instances, scenarios=both[..., :size], bandwidth=width), both[:, 0, size:]

    def cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        """f(y, D w): ``(..., d_y + n), (..., n) -> (...)``."""
        size = self.given.num_outcomes
        return self.given.cost(outcome[..., :size], outcome[..., size:] * decision)

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B,)``."""
        own, units = self.parts(instances)
        return self.given.objective(own, units * z)

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B, M, n)``."""
        own, units = self.parts(instances)
        return self.given.gradients(own, units * z) * units.unsqueeze(1)

    def gradient(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B, n)``."""
        own, units = self.parts(instances)
        return units * self.given.gradient(own, units * z)

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B, n, n)``, or ``(B, n)`` of a separable program."""
        own, units = self.parts(instances)
        found = self.given.hessian(own, units * z)
        return found * (units**2 if found.dim() == 2 else _squared(units))

    def hinges(self, instances: Instances) -> Hinges | None:
        """The program's, with gradients in w."""
        own, units = self.parts(instances)
        found = self.given.hinges(own)
        if found is None:
            return None
        jacobian = found.jacobian * units.view(len(units), 1, 1, -1)
        return Hinges(found.coefficient, found.offset, jacobian)

    def quadratic(self, instances: Instances) -> QuadraticCost | None:
        """The program's, in w."""
        found = self.given.quadratic(self.parts(instances)[0])
        if found is None:
            return None
        parts = {part.name: getattr(found, part.name) for part in fields(found)}
        return _QuadraticInUnits(**parts, program=self)

    def constraints(self, like: Tensor, context: Tensor | None = None) -> Constraints:
        """The program's, of w; ``like`` are the scenarios."""
        units = like[:, 0, self.given.num_outcomes :]
        return constraints_in_units(self.given.constraints(like, context), units)

    def cross_product(self, *args: Any, **kwargs: Any) -> Tensor:
        """None: derivatives of decisions are those of the program as given."""
        raise TypeError("a program in units is there to be solved; differentiate the given one")

    def cvxpy_problem(self, *args: Any, **kwargs: Any) -> tuple[Any, Any, list[Any]]:
        """None: the reference solves the program as given."""
        raise TypeError("a program in units has no cvxpy statement; state the given one")


@dataclass(frozen=True, eq=False)
class _QuadraticInUnits(QuadraticCost):
    """The closed form of the given program, of w."""

    program: ProgramInUnits = field(kw_only=True)

    def gradients(self, instances: Instances, z: Tensor, kinks: bool = True) -> Tensor | None:
        """``(B, M|1, n)``."""
        own, units = self.program.parts(instances)
        found = super().gradients(own, units * z, kinks)
        return None if found is None else units.unsqueeze(1) * found

    def gradient(self, instances: Instances, z: Tensor, kinks: bool) -> Tensor:
        """``(B, n)``."""
        own, units = self.program.parts(instances)
        return units * super().gradient(own, units * z, kinks)

    def curvature(self, instances: Instances, z: Tensor, kinks: bool) -> Tensor:
        """``(B, n, n)``."""
        own, units = self.program.parts(instances)
        return _squared(units) * super().curvature(own, units * z, kinks)


def _squared(units: Tensor) -> Tensor:
    """``(B, n) -> (B, n, n)``: what a Hessian is multiplied by."""
    return units.unsqueeze(1) * units.unsqueeze(2)


def constraints_in_units(given: Constraints, units: Tensor) -> Constraints:
    """The constraints of ``w = z / D``, D being ``units (B, n)``."""
    row = units.unsqueeze(1)
    return Constraints(
        matrix=given.matrix * row,
        limit=given.limit,
        lower=None if given.lower is None else given.lower / units,
        upper=None if given.upper is None else given.upper / units,
        equality_matrix=given.equality_matrix * row,
        equality_value=given.equality_value,
        smooth=None if given.smooth is None else _in_units(given.smooth, units),
    )


def _in_units(given: SmoothConstraints, units: Tensor) -> SmoothConstraints:
    """Smooth constraints of w, whose context takes the units along."""
    size = units.shape[1]

    def function(context: Tensor | None, w: Tensor) -> Tensor:
        assert context is not None
        own = None if given.context is None else context[:-size]
        return given.function(own, w * context[-size:])

    context = units if given.context is None else torch.cat([given.context, units], dim=1)
    return SmoothConstraints(function, given.size, context)


def in_given_units(solution: Solution, units: Tensor, given: Constraints) -> Solution:
    """The solution of the program as given, all but its residuals, from that in w."""
    affine, lower, upper, smooth = solution.duals.split(list(given.counts), dim=1)
    bounds = [part / units for part in (lower, upper) if part.shape[1]]
    return replace(
        solution,
        decision=units * solution.decision,
        duals=torch.cat([affine, *bounds, smooth], dim=1),
        subgradients=solution.subgradients / units.unsqueeze(1),
        hessian=None,
    )
