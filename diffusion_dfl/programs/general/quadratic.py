"""Costs whose smooth part is quadratic in the decision: its sum over scenarios is found once a solve.

    sum_m omega_m smooth(y_m, z) = z' Q z / 2 + c' z + constant

for all z, with Q and c from two derivatives at one point. Most users' costs are of this kind, and an
iteration of a solver then differentiates nothing.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import apply
from diffusion_dfl.programs.general.hinge_terms import AffineHinge, joined
from diffusion_dfl.programs.general.scenario_cost import ScenarioCost
from diffusion_dfl.programs.instances import Instances

# A gradient this close to that of the quadratic form, relative to its terms, is that gradient.
_SAME = 1e-10


@dataclass(frozen=True, eq=False)
class QuadraticCost:
    """A batch of summed costs: a quadratic form, and hinges with closed forms.

    Attributes:
        hessian, linear: Q ``(B, n, n)`` and c ``(B, n)``.
        forms: the hinges, as :func:`joined` has them.
        slope: gradient ``(n,)`` of what is linear beside them, a scenario.
        each: gradients of the scenarios' smooth parts at 0, ``(B, M, n)``, where all have one Hessian;
            None where that is not known.
        proved: whether the smooth part is known to be of this form, rather than seen to be at some decisions.
        smooth: that part, where it is proved and ``each`` is not known.
    """

    hessian: Tensor
    linear: Tensor
    forms: tuple[AffineHinge, ...]
    slope: Tensor | float
    each: Tensor | None
    proved: bool
    smooth: ScenarioCost | None = None

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
        forms, slope = joined(forms)
        if smooth is None:
            square = origin.new_zeros(*origin.shape, origin.shape[1])
            return QuadraticCost(square, origin, forms, slope, origin[:1].unsqueeze(1), True)
        exact = instances.exact()
        kind = smooth.hessian_kind(exact, origin)
        if kind is not None:
            each = smooth.gradients(exact, origin)
            linear = torch.einsum("bm,bmn->bn", instances.weights, each)
            if kind == "constant":
                one = smooth.one_hessian(exact, origin)
                hessian = instances.weights.sum(1)[:, None, None] * one
            else:
                hessian = smooth.summed_hessian(exact, origin)
            if not bool(linear.isfinite().all() & hessian.isfinite().all()):
                return None
            if kind == "constant":
                return QuadraticCost(hessian, linear, forms, slope, each, True)
            return QuadraticCost(hessian, linear, forms, slope, None, True, smooth)
        # All points in one call, most of whose time is that of the call.
        times = torch.tensor([0.0, 1.0, -3.0, 4.0], dtype=generic.dtype, device=generic.device)
        points = times.view(-1, 1, 1) * generic
        every = exact.select(torch.arange(len(generic), device=generic.device).repeat(len(times)))
        linear, *others = smooth.gradient(every, points.flatten(0, 1)).view_as(points)
        hessian = smooth.summed_hessian(exact, origin)
        if not bool(linear.isfinite().all() & hessian.isfinite().all()):
            return None
        for found, z in zip(others, points[1:], strict=True):
            error = (found - linear - apply(hessian, z)).abs()
            size = linear.abs() + apply(hessian.abs(), z.abs())
            if not bool((error <= _SAME * size.amax(1, keepdim=True)).all()):
                return None
        return QuadraticCost(hessian, linear, forms, slope, None, False)

    def bent(self, kinks: bool) -> bool:
        """Whether hinges, ``kinks`` with those of power 1, make the Hessian depend on the decision."""
        return any(kinks or form.power > 1 for form in self.forms)

    @cached_property
    def diagonal(self) -> bool:
        """Whether the quadratic form is a sum over coordinates, and there are no hinges."""
        rest = self.hessian - torch.diag_embed(self.hessian.diagonal(dim1=1, dim2=2))
        return not self.forms and not bool(rest.any())

    def select(self, rows: Tensor) -> "QuadraticCost":
        """The instances ``rows`` of the batch."""
        each = self.each
        if each is not None and len(each) == len(self.linear):
            each = each[rows]
        part = replace(self, hessian=self.hessian[rows], linear=self.linear[rows], each=each)
        if "diagonal" in self.__dict__:
            part.__dict__["diagonal"] = self.diagonal
        return part

    def gradients(self, instances: Instances, z: Tensor, kinks: bool = True) -> Tensor | None:
        """Of the scenarios' costs, ``(B, M|1, n)``; None where they are not known."""
        if self.each is not None:
            total = instances.weights.sum(1, keepdim=True)
            found = self.each + (apply(self.hessian, z) / total).unsqueeze(1)
        elif self.smooth is not None:
            found = self.smooth.gradients(instances.exact(), z)
        else:
            return None
        if kinks:
            found = found + self.slope
        for form in self.forms:
            if kinks or form.power > 1:
                found = found + form.gradients(instances, z)
        return found

    def slopes(self, instances: Instances, z: Tensor, kinks: bool = True) -> Tensor | None:
        """Mean absolute gradient of the scenarios' costs, ``(B, n)``; None where they are not known."""
        found = self.gradients(instances, z, kinks)
        if found is None:
            return None
        total = instances.weights.sum(1, keepdim=True)
        if found.shape[1] == 1:
            return total * found.squeeze(1).abs()
        return torch.einsum("bm,bmn->bn", instances.weights, found.abs())

    def gradient(self, instances: Instances, z: Tensor, kinks: bool) -> Tensor:
        """Gradient of the sum, ``(B, n)``; ``kinks``: with the hinges of power 1."""
        total = self.linear + apply(self.hessian, z)
        if kinks:
            total = total + self.slope * instances.weights.sum(1, keepdim=True)
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
