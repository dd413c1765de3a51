"""The scaled data of a batch of programs, and the linear systems of their Newton steps.

A program with exact hinges is, with ``c_mk`` the weight of a hinge times its slope,

    min_z  F(z) + sum_mk c_mk (a_mk(z))_+   s.t.  c(z) <= 0 (bounds, rows of G, smooth),  A z = b.

Hinge arguments are divided by the norm of their gradient, as :mod:`diffusion_dfl.solvers.rows` does
with constraints: slacks are lengths and multipliers are slopes of the cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffusion_dfl.programs import Hinges, Instances, Program
from diffusion_dfl.programs.constraints import apply, transpose_apply
from diffusion_dfl.programs.general.quadratic import QuadraticCost
from diffusion_dfl.solvers.factor import Factor, with_diagonal
from diffusion_dfl.solvers.hinges import Pairs, ScaledHinges
from diffusion_dfl.solvers.rows import Rows, gram, largest

# Relative size of a step that is safely beyond rounding.
_ASIDE = 1e-9
# So many decisions or rows are few, and many; change of a slope over the length of a program, relative to slopes,
# that curves it.
_FEW, _MANY, _CURVED = 3, 64, 0.02
_IRRATIONAL = 0.6180339887498949


@dataclass(frozen=True)
class Problem:
    """A batch of scaled programs.

    ``quadratic`` is the cost as a quadratic form and closed hinges, where it is one; ``pairs`` are the
    hinges that stand as one, the same whatever part of the batch or of the kinks is looked at; ``near`` says
    that it is scaled and begun near its curved sets.
    ``origin (B, n)`` is the allowed decision nearest to 0 at which the cost has derivatives. Their
    magnitudes, ``(B,)`` each: ``length`` of decisions, ``hinge_length`` of hinge arguments and
    ``slope`` of the cost.
    """

    program: Program
    instances: Instances
    rows: Rows
    hinges: ScaledHinges | None
    quadratic: QuadraticCost | None
    origin: Tensor
    length: Tensor
    hinge_length: Tensor
    slope: Tensor
    pairs: Pairs
    near: bool

    def select(self, rows: Tensor) -> "Problem":
        return Problem(
            self.program,
            self.instances.select(rows),
            self.rows.select(rows),
            None if self.hinges is None else self.hinges.select(rows),
            None if self.quadratic is None else self.quadratic.select(rows),
            self.origin[rows],
            self.length[rows],
            self.hinge_length[rows],
            self.slope[rows],
            self.pairs,
            self.near,
        )

    def first_order(self, z: Tensor) -> "FirstOrder":
        """Values and gradients at z ``(B, n)``."""
        arguments = z.new_zeros(len(z), 0, 0)
        if self.hinges is not None:
            arguments = self.hinges.arguments(z)
        if self.quadratic is not None and not self._mixed:
            gradient = self.quadratic.gradient(self.instances, z, self.hinges is None)
            if self.hinges is not None and self.hinges.sides is not None:
                gradient = gradient + self.hinges.sides.pull
        elif self.hinges is None:
            gradient = self.program.gradient(self.instances, z)
        else:
            gradient = self._smooth(z, self._gradient_without_hinges)
        rows = self.rows.constraints
        values = rows.inequality_values(z)
        jacobian = None
        if rows.smooth is not None:
            count = rows.smooth.size
            unit = self.rows.unit[:, -count:]
            values = torch.cat([values[:, :-count], values[:, -count:] / unit], dim=1)
            jacobian = rows.smooth.jacobian(z) / unit.unsqueeze(-1)
        values = self.rows.real(values, -1.0)
        return FirstOrder(gradient, values, jacobian, rows.equality_residual(z), arguments)

    @cached_property
    def _real_pairs(self) -> Tensor | None:
        """Which rows are there, and which hinges, twice: ``(B|1, q + 2 M K)``; None for all."""
        present = self.rows.present
        if self.hinges is None:
            return None if self.rows.whole else present
        if self.hinges.whole and self.rows.whole:
            return None
        real = (self.hinges.weight > 0).flatten(1)
        return torch.cat([present.expand(len(real), -1), real, real], dim=1)

    def of_pairs(self, values: Tensor) -> Tensor:
        """Values ``(B, q + 2 M K)`` of rows and of both parts of hinges, 0 for those not there."""
        if self._real_pairs is None:
            return values
        return values * self._real_pairs

    @cached_property
    def num_pairs(self) -> Tensor:
        """How many are there, at least 1: ``(B|1,)``."""
        count = self.rows.present.sum(1)
        if self.hinges is not None:
            count = count + 2 * self.hinges.count
        return count.clamp_min(1)

    @cached_property
    def _mixed(self) -> bool:
        """Whether some hinges are exact and others smoothed."""
        return self.hinges is not None and bool((self.instances.bandwidth > 0).any())

    def _gradient_without_hinges(self, z: Tensor) -> Tensor:
        hinges = self.hinges
        assert hinges is not None
        gradient = self.program.gradient(self.instances, z)
        # The program's gradient takes exact hinges at the slope of their side.
        return gradient - hinges.force(hinges.weight * side(hinges.arguments(z)))

    def slopes(self, z: Tensor) -> Tensor:
        """Largest mean absolute slope of the scenarios' costs: ``(B, n) -> (B,)``."""
        return mean_slopes(self.program, self.instances, self.quadratic, z)

    def smooth_slopes(self, z: Tensor) -> Tensor:
        """:meth:`slopes` without exact hinges, whose slope at a kink says nothing of what holds it there."""
        if self.hinges is None or self._mixed:
            return self.slopes(z)
        if self.quadratic is not None and self.quadratic.proved:
            return mean_slopes(self.program, self.instances, self.quadratic, z, kinks=False)
        exact = self.program.hinges(self.instances)
        assert exact is not None
        gradients = self.smooth_gradients(z, exact).abs()
        return largest(torch.einsum("bm,bmn->bn", self.instances.weights, gradients))

    def gradients(self, z: Tensor) -> Tensor:
        """Of the scenarios' costs, from their closed form if they have one: ``(B, n) -> (B, M, n)``."""
        found = None
        if self.quadratic is not None:
            found = self.quadratic.gradients(self.instances, z)
        if found is None:
            return self.program.gradients(self.instances, z)
        return found.expand(-1, self.instances.scenarios.shape[1], -1)

    def smooth_gradients(self, z: Tensor, exact: Hinges) -> Tensor:
        """Gradients of the scenarios' costs without their exact hinges: ``(B, n) -> (B, M, n)``."""

        def gradients(point: Tensor) -> Tensor:
            slopes = exact.coefficient * side(exact.arguments(point))
            return self.gradients(point) - exact.scenario_force(slopes)

        return self._smooth(z, gradients)

    def _smooth(self, z: Tensor, gradient: Callable[[Tensor], Tensor]) -> Tensor:
        """A smooth function of z that is known off the kinks only: their sides' mean at the kinks.

        The program may round the argument of a hinge to another side of 0 than this module.
        """
        if self.hinges is None or not self.hinges.near(z):
            return gradient(z)
        index = torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device)
        # A direction along which no hinge is likely to be flat; the error is its square.
        aside = 0.5 + (index * _IRRATIONAL).frac()
        aside = _ASIDE * (self.length + z.abs().amax(1)).unsqueeze(1) * aside
        return 0.5 * (gradient(z + aside) + gradient(z - aside))

    def curvature(self, z: Tensor, dual: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hessians ``(B, n, n)`` of F and of ``dual' c`` (None if all rows are affine)."""
        if self.quadratic is not None:
            hessian = self.quadratic.curvature(self.instances, z, self._smoothed)
        else:
            hessian = self.program.hessian(self.instances, z)
            if hessian.dim() == 2:
                hessian = torch.diag_embed(hessian)
            hessian = self._without_bounds(hessian, z)
        smooth = self.rows.constraints.smooth
        if smooth is None:
            return hessian, None
        unit = self.rows.unit[:, -smooth.size :]
        bend = smooth.hessian(z, dual[:, -smooth.size :] / unit)
        return hessian, self._without_bounds(bend, z)

    def proved_hessian(self, z: Tensor) -> Tensor | None:
        """Of F, ``(B, n, n)``, where its form is proved; None elsewhere."""
        if self.quadratic is None or not self.quadratic.proved:
            return None
        return self.quadratic.curvature(self.instances, z, self._smoothed)

    @property
    def closed(self) -> bool:
        """Whether no function of a user's is met at a decision: cost and rows are known in closed form."""
        smooth = self.rows.constraints.smooth
        return self.quadratic is not None and not self._mixed and smooth is None

    @property
    def _smoothed(self) -> bool:
        """Whether a hinge of power 1 may have curvature: exact ones have none."""
        return self.hinges is None or self._mixed

    @property
    def bent_alike(self) -> bool:
        """Whether the Hessian of F is the same at all decisions."""
        return self.quadratic is not None and not self.quadratic.bent(self._smoothed)

    @property
    def pivots(self) -> bool:
        """Whether a few changes of sides lead from afar to the optimum.

        The Hessian is the same everywhere, and decisions are two or three and no row couples them; or kinks
        are no more than decisions, rows are few and the cost is curved. Along what is flat or nearly so the
        way leads from vertex to vertex.
        """
        if not (self.closed and self.bent_alike):
            return False
        rows, size = self.rows.constraints, self.origin.shape[1]
        coupled = rows.matrix.shape[1] + rows.equality_matrix.shape[1]
        if self.hinges is not None and self.hinges.weight[0].numel() > size:
            return size <= _FEW and not coupled
        if size > _MANY or coupled > max(_FEW, size // 4):
            return False
        assert self.quadratic is not None
        bend = self.quadratic.hessian.diagonal(dim1=1, dim2=2).amin(1)
        return bool((bend * self.length > _CURVED * self.slope).all())

    def _without_bounds(self, hessian: Tensor, z: Tensor) -> Tensor:
        """0 for what is not finite of a coordinate at its bound, as the slope of z^1.5 is at 0."""
        if bool(hessian.isfinite().all()):
            return hessian
        rows = self.rows.constraints
        at_bound = torch.zeros_like(z, dtype=torch.bool)
        for bound in (rows.lower, rows.upper):
            if bound is not None:
                at_bound = at_bound | (z == bound)
        of_bound = at_bound.unsqueeze(1) | at_bound.unsqueeze(2)
        return torch.where(of_bound & ~hessian.isfinite(), 0.0, hessian)

    def push(self, at: "FirstOrder", direction: Tensor) -> Tensor:
        """Derivative of the rows along a direction: ``(B, n) -> (B, q)``."""
        rows = self.rows.constraints
        parts = [apply(rows.matrix, direction)] if rows.matrix.shape[1] else [direction[:, :0]]
        if rows.lower is not None:
            parts.append(-direction)
        if rows.upper is not None:
            parts.append(direction)
        if at.jacobian is not None:
            parts.append(apply(at.jacobian, direction))
        return self.rows.real(torch.cat(parts, dim=1))

    def force(self, at: "FirstOrder", dual: Tensor, nu: Tensor) -> Tensor:
        """``J' dual + A' nu``: ``(B, q), (B, p) -> (B, n)``."""
        rows = self.rows.constraints
        affine, lower, upper, smooth = dual.split(list(rows.counts), dim=1)
        total = transpose_apply(rows.matrix, affine)
        if nu.shape[1]:
            total = total + transpose_apply(rows.equality_matrix, nu)
        if rows.lower is not None:
            total = total - lower
        if rows.upper is not None:
            total = total + upper
        if at.jacobian is not None:
            total = total + transpose_apply(at.jacobian, smooth)
        return total

    @property
    def diagonal(self) -> bool:
        """Whether :meth:`system` is diagonal: only bounds and a quadratic cost of single coordinates."""
        alone = self.hinges is None and not self.rows.constraints.matrix.shape[1]
        alone = alone and self.rows.constraints.smooth is None
        return alone and self.quadratic is not None and self.quadratic.diagonal

    def system(
        self, at: "FirstOrder", hessian: Tensor, row_weight: Tensor, hinge_weight: Tensor
    ) -> Tensor:
        """``H + J' diag(row_weight) J + sum hinge_weight jacobian jacobian'``: ``(B, n, n)``."""
        rows = self.rows.constraints
        affine, _, _, smooth = row_weight.split(list(rows.counts), dim=1)
        system = with_diagonal(hessian, self.of_bounds(row_weight))
        if rows.matrix.shape[1]:
            system += gram(rows.matrix, affine)
        if at.jacobian is not None:
            system += gram(at.jacobian, smooth)
        if self.hinges is not None:
            system += self.hinges.gram(hinge_weight)
        return system

    def factor(
        self,
        at: "FirstOrder",
        hessian: Tensor,
        row_weight: Tensor,
        hinge_weight: Tensor,
        scale: Tensor,
    ) -> "Factor":
        """Factors of :meth:`system` with the equalities; ``scale (B,)`` is that of its entries."""
        if self.diagonal:
            system = hessian.diagonal(dim1=1, dim2=2) + self.of_bounds(row_weight)
        else:
            system = self.system(at, hessian, row_weight, hinge_weight)
        return Factor(system, self.rows.constraints.equality_matrix, scale)

    def of_bounds(self, row_weight: Tensor) -> Tensor:
        """What weights of the rows ``(B, q)`` add to the diagonal of :meth:`system`: ``(B, n)``."""
        rows = self.rows.constraints
        _, lower, upper, _ = row_weight.split(list(rows.counts), dim=1)
        total = torch.zeros_like(self.origin)
        if rows.lower is not None:
            total = total + lower
        return total if rows.upper is None else total + upper


@dataclass(frozen=True)
class FirstOrder:
    """At a decision: gradient of F ``(B, n)``, inequality values ``(B, q)``, Jacobian of the smooth
    ones ``(B, q_s, n)`` or None, ``A z - b (B, p)`` and hinge arguments ``(B, M, K)``."""

    gradient: Tensor
    values: Tensor
    jacobian: Tensor | None
    equality: Tensor
    arguments: Tensor

    def select(self, rows: Tensor) -> "FirstOrder":
        jacobian = None if self.jacobian is None else self.jacobian[rows]
        return FirstOrder(
            self.gradient[rows],
            self.values[rows],
            jacobian,
            self.equality[rows],
            self.arguments[rows],
        )


def mean_slopes(
    program: Program,
    instances: Instances,
    quadratic: QuadraticCost | None,
    z: Tensor,
    kinks: bool = True,
) -> Tensor:
    """Largest mean absolute slope of a program's scenarios, from its closed form if it has one: ``(B,)``.

    Of a closed form also without its ``kinks``.
    """
    slopes = None if quadratic is None else quadratic.slopes(instances, z, kinks)
    if slopes is None:
        gradients = program.gradients(instances, z).abs()
        slopes = torch.einsum("bm,bmn->bn", instances.weights, gradients)
    return largest(slopes)


def side(arguments: Tensor) -> Tensor:
    """Slope of a hinge by the sign of its argument: 0, 1, and 1/2 at 0."""
    return 0.5 * (1 + torch.sign(arguments))
