"""Costs whose smooth part is quadratic in the decision: its sum over scenarios is found once a solve.

    sum_m omega_m smooth(y_m, z) = z' Q z / 2 + c' z + constant

for all z, with Q and c from two derivatives at one point. Most users' costs are of this kind, and an
iteration of a solver then differentiates nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_dfl.programs.general.hinge_terms import AffineHinge
from diffusion_dfl.programs.general.scenario_cost import ScenarioCost
from diffusion_dfl.programs.instances import Instances

# A gradient this close to that of the quadratic form, relative to its terms, is that gradient.
_SAME = 1e-10


@dataclass(frozen=True, eq=False)
class QuadraticCost:
    """A batch of summed costs: a quadratic form, and hinges with closed forms.

    Attributes:
        hessian, linear: Q ``(B, n, n)`` and c ``(B, n)``.
        forms: the hinges.
    """

    hessian: Tensor
    linear: Tensor
    forms: tuple[AffineHinge, ...]

    @staticmethod
    def of(
        smooth: ScenarioCost | None,
        forms: tuple[AffineHinge, ...],
        instances: Instances,
        generic: Tensor,
    ) -> "QuadraticCost | None":
        """The form of a smooth part that is quadratic, or None of one that is not.

        Args:
            smooth: without hinges; None for no smooth part.
            generic: a decision ``(B, n)`` at which the form is held against the gradient.
        """
        origin = torch.zeros_like(generic)
        if smooth is None:
            square = origin.new_zeros(*origin.shape, origin.shape[1])
            return QuadraticCost(square, origin, forms)
        exact = instances.exact()
        linear, hessian = smooth.gradient(exact, origin), smooth.hessian(exact, origin)
        if not bool(linear.isfinite().all() & hessian.isfinite().all()):
            return None
        for z in (generic, -3.0 * generic):
            found = smooth.gradient(exact, z)
            error = (found - linear - torch.einsum("bij,bj->bi", hessian, z)).abs()
            size = linear.abs() + torch.einsum("bij,bj->bi", hessian.abs(), z.abs())
            if not bool((error <= _SAME * size.amax(1, keepdim=True)).all()):
                return None
        return QuadraticCost(hessian, linear, forms)

    def select(self, rows: Tensor) -> "QuadraticCost":
        """The instances ``rows`` of the batch."""
        return QuadraticCost(self.hessian[rows], self.linear[rows], self.forms)

    def gradient(self, instances: Instances, z: Tensor, kinks: bool) -> Tensor:
        """Gradient of the sum, ``(B, n)``; ``kinks``: with the hinges of power 1."""
        total = self.linear + torch.einsum("bij,bj->bi", self.hessian, z)
        for form in self.forms:
            if kinks or form.power > 1:
                total = total + form.gradient(instances, z)
        return total

    def curvature(self, instances: Instances, z: Tensor, kinks: bool) -> Tensor:
        """Hessian of the sum, ``(B, n, n)``; ``kinks``: with the hinges of power 1."""
        total = self.hessian
        for form in self.forms:
            if kinks or form.power > 1:
                total = total + form.hessian(instances, z)
        return total
