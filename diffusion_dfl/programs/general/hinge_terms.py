"""Hinge terms ``coefficient * (a(y, z))_+^power`` of a user's own cost, and their convolutions.

With ``xi ~ N(0, 1)``, ``t = a / s``, Phi and phi of the standard normal, and power 1, 2, 3:

    E (a + s xi)_+   = a Phi(t) + s phi(t)
    E (a + s xi)_+^2 = (a^2 + s^2) Phi(t) + a s phi(t)
    E (a + s xi)_+^3 = (a^3 + 3 a s^2) Phi(t) + (a^2 s + 2 s^3) phi(t).

Derivatives in a step down this ladder, ``d/da H_p = p H_{p-1}`` with ``H_0 = Phi(t)``, and the
derivative in s is ``s d^2/da^2`` (the heat equation).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import perm

import torch
from torch import Tensor
from torch.func import jacrev, vjp, vmap

from diffusion_dfl.programs.batching import over_batch
from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.numbers import as_tensor
from diffusion_dfl.programs.program import Hinges
from diffusion_dfl.programs.smoothing import (
    hinge,
    hinge_cube,
    hinge_density,
    hinge_slope,
    hinge_square,
    normal_cdf,
    normal_pdf,
)

#: ``(y (d_y,), z (n,)) -> scalar or (K,)``, for one scenario, or of ``(y, z, x (d_x,))``.
Argument = Callable[..., Tensor]

# Beyond this many widths Phi and phi are 0 or 1 in float64, and their derivatives 0.
_FAR = 40.0
# An argument this close to its affine form, relative to its summands, is that form.
_AFFINE = 1e-9


@dataclass(frozen=True, eq=False)
class Hinge:
    """``sum_k coefficient_k (a_k(y, z))_+^power`` with ``a`` affine in z; a term of the cost.

    Attributes:
        coefficient: >= 0, a number or one an argument, ``(K,)``.
        argument: a, ``(y (d_y,), z (n,)) -> scalar or (K,)``: a torch function of one scenario, and of
            the context ``x (d_x,)`` if it takes three arguments.
        power: 1 for a kink, 2 or 3 for its smooth relatives.
    """

    coefficient: float | Sequence[float] | Tensor
    argument: Argument
    power: int = 1

    def __post_init__(self) -> None:
        if not callable(self.argument):
            raise TypeError(f"a hinge's argument is a function (y, z) -> a; got {self.argument!r}")
        if self.power not in (1, 2, 3):
            raise ValueError(f"hinge {self.name}: power={self.power} must be 1, 2 or 3")
        values = as_tensor(f"hinge {self.name}: coefficient", self.coefficient)
        if values.dim() > 1 or not bool((values.isfinite() & (values >= 0)).all()):
            raise ValueError(
                f"hinge {self.name}: coefficient={self.coefficient} must be numbers >= 0; a "
                "concave hinge makes the cost not convex"
            )

    @property
    def name(self) -> str:
        """The function's own name, for messages."""
        return getattr(self.argument, "__name__", repr(self.argument))

    def coefficients(self, like: Tensor) -> Tensor:
        """``(K,)`` or a scalar, with the dtype and device of ``like``."""
        return torch.as_tensor(self.coefficient, dtype=like.dtype, device=like.device)

    def values(self, outcome: Tensor, decision: Tensor) -> Tensor:
        """Arguments of one scenario, always ``(K,)``."""
        return torch.atleast_1d(self.argument(outcome, decision))

    def widths(self, outcome: Tensor, decision: Tensor, bandwidth: Tensor) -> Tensor:
        """Standard deviations ``sqrt(sum_j (s_j da_k/dy_j)^2)`` of one scenario's arguments: ``(K,)``.

        Differentiable, with derivative 0 where the width is 0.
        """
        variance = ((jacrev(self.values)(outcome, decision) * bandwidth) ** 2).sum(-1)
        positive = variance > 0
        root = torch.sqrt(torch.where(positive, variance, torch.ones_like(variance)))
        return torch.where(positive, root, torch.zeros_like(root))

    def kinks(self, instances: Instances, z: Tensor) -> Hinges:
        """The hinges whose argument has width 0 at z, coefficient 0 for the others."""
        origin = z.new_zeros(z.shape[1])

        def offsets(y: Tensor) -> Tensor:
            return self.values(y, origin)

        def slopes(y: Tensor) -> Tensor:
            return jacrev(self.values, argnums=1)(y, origin)

        y = instances.scenarios
        offset, jacobian = over_batch(vmap(offsets), y), over_batch(vmap(slopes), y)
        every = vmap(self.widths, in_dims=(0, None, None))
        widths = over_batch(every, y, z, instances.bandwidth)
        return Hinges((widths <= 0) * self.coefficients(offset), offset, jacobian)

    def hinge_product(self, instances: Instances, z: Tensor, multipliers: Tensor) -> Tensor:
        """``sum_k multiplier_mk grad_y a_k(y_m, z)``: ``(B, M, K) -> (B, M, d_y)``."""

        def one(y: Tensor, multiplier: Tensor, z: Tensor) -> Tensor:
            return vjp(lambda at: self.values(at, z), y)[1](multiplier)[0]

        return over_batch(vmap(one, in_dims=(0, 0, None)), instances.scenarios, multipliers, z)

    def cost(self, argument: Tensor, width: Tensor | None, shares: Tensor | None) -> Tensor:
        """``sum_k coefficient_k E (a_k + width_k xi)_+^power``: a scalar for torch.func.

        Args:
            argument: ``(K,)``.
            width: ``(K,)``; None for the exact hinge, as is a width of 0.
            shares: ``(K,)``, slopes in [0, 1] of exact hinges of power 1; by the sign of the
                argument, one half at 0, if None.
        """
        if shares is not None and self.power == 1:
            value = shares * argument
        else:
            value = (0.5 * (argument + argument.abs())) ** self.power
        if width is not None:
            positive = width > 0
            # The inner where keeps 1/0 out of the derivatives of the branch not taken.
            safe = torch.where(positive, width, torch.ones_like(width))
            value = torch.where(positive, convolved_power(argument, safe, self.power), value)
        return (self.coefficients(argument) * value).sum()


def convolved_power(argument: Tensor, width: Tensor, power: int) -> Tensor:
    """``E (a + s xi)_+^power`` for widths > 0, differentiable in both: elementwise."""
    a, s = argument, width
    ratio = (a / s).clamp(-_FAR, _FAR)
    above, density = normal_cdf(ratio), normal_pdf(ratio)
    if power == 1:
        return a * above + s * density
    if power == 2:
        return (a**2 + s**2) * above + a * s * density
    return (a**3 + 3 * a * s**2) * above + (a**2 * s + 2 * s**3) * density


def _ladder(argument: Tensor, width: Tensor, level: int) -> Tensor:
    """H_level for ``level`` in -2..3, with the limits of width 0; see the module's docstring."""
    if level >= 0:
        return (hinge_slope, hinge, hinge_square, hinge_cube)[level](argument, width)
    density = hinge_density(argument, width)
    if level == -1:
        return density
    safe = torch.where(width > 0, width, torch.ones_like(width))
    return -(argument / safe) / safe * density


def _kinked(argument: Tensor, level: int) -> Tensor:
    """:func:`_ladder` of width 0, where no tail is to be computed."""
    if level < 0:
        return torch.zeros_like(argument)
    if level == 0:
        return 0.5 * (1 + argument.sign())
    return argument.clamp_min(0) ** level


def as_hinges(name: str, given: Hinge | Sequence[Hinge]) -> tuple[Hinge, ...]:
    """One hinge or several as a tuple; TypeError, by the name of the argument, if it holds others."""
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    for term in several:
        if not isinstance(term, Hinge):
            raise TypeError(f"{name} hold {term!r}; make it Hinge(coefficient, argument)")
    return tuple(several)


@dataclass(frozen=True, eq=False)
class AffineHinge:
    """A hinge whose arguments are affine in outcome and decision together: ``c + D y + E z``.

    All of its derivatives are closed forms, so nothing is left to torch.func.

    Attributes:
        coefficient: ``(K,)``.
        power: 1, 2 or 3.
        offset: c, ``(K,)``.
        outcome_slopes: D, ``(K, d_y)``.
        decision_slopes: E, ``(K, n)``.
    """

    coefficient: Tensor
    power: int
    offset: Tensor
    outcome_slopes: Tensor
    decision_slopes: Tensor

    @staticmethod
    def of(hinge: Hinge, outcomes: Tensor, decisions: Tensor) -> "AffineHinge | None":
        """The affine form of a hinge, or None if it does not hold at the trial points.

        Args:
            outcomes, decisions: ``(T, d_y)``, ``(T, n)``.
        """
        origin = torch.zeros_like(outcomes[0]), torch.zeros_like(decisions[0])
        in_outcome, in_decision = jacrev(hinge.values, argnums=(0, 1))(*origin)
        offset = hinge.values(*origin)
        form = AffineHinge(
            hinge.coefficients(offset).detach().expand_as(offset).clone(),
            hinge.power,
            offset.detach(),
            in_outcome.detach(),
            in_decision.detach(),
        )
        return form if form.holds(hinge, outcomes.unsqueeze(1), decisions) else None

    def holds(self, hinge: Hinge, scenarios: Tensor, z: Tensor) -> bool:
        """Whether the form gives the hinge's coefficients, and arguments at ``(B, M, d_y), (B, n)``."""
        if not bool((hinge.coefficients(self.offset) == self.coefficient).all()):
            return False
        truth = over_batch(vmap(hinge.values, in_dims=(0, None)), scenarios, z)
        size = self.offset.abs() + scenarios.abs() @ self.outcome_slopes.abs().T
        size = size + (z.abs() @ self.decision_slopes.abs().T).unsqueeze(1)
        error = (truth - self.arguments(scenarios, z)).abs()
        # Where the scenarios are not finite neither side is; the solver reports those.
        known = scenarios.isfinite().all(2, keepdim=True)
        return bool(((error <= _AFFINE * size) | ~known).all())

    def arguments(self, scenarios: Tensor, z: Tensor) -> Tensor:
        """``c + D y_m + E z``: ``(B, M, K)``."""
        in_decision = z @ self.decision_slopes.T
        return scenarios @ self.outcome_slopes.T + (self.offset + in_decision).unsqueeze(1)

    def widths(self, bandwidth: Tensor) -> Tensor:
        """Standard deviation of the arguments under the kernel: ``(B, d_y) -> (B, 1, K)``."""
        return torch.sqrt(bandwidth**2 @ (self.outcome_slopes**2).T).unsqueeze(1)

    def derivative(self, order: int, instances: Instances, z: Tensor) -> Tensor:
        """``coefficient * d^order/da^order E (a + s xi)_+^power``: ``(B, M, K)``."""
        level = self.power - order
        factor = perm(self.power, order) if level >= 0 else perm(self.power, self.power)
        argument = self.arguments(instances.scenarios, z)
        width = self.widths(instances.bandwidth)
        found = _ladder(argument, width, level) if bool(width.any()) else _kinked(argument, level)
        return factor * self.coefficient * found

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B,)``."""
        return torch.einsum("bm,bmk->b", instances.weights, self.derivative(0, instances, z))

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B, M, n)``."""
        return self.derivative(1, instances, z) @ self.decision_slopes

    def gradient(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B, n)``."""
        slopes = torch.einsum("bm,bmk->bk", instances.weights, self.derivative(1, instances, z))
        return slopes @ self.decision_slopes

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B, n, n)``; kinks of width 0 left out."""
        bends = torch.einsum("bm,bmk->bk", instances.weights, self.derivative(2, instances, z))
        return (self.decision_slopes.T * bends.unsqueeze(1)) @ self.decision_slopes

    def cross_product(
        self, instances: Instances, z: Tensor, adjoint: Tensor, shares: Tensor | None = None
    ) -> Tensor:
        """``(B, M, d_y)``: slopes in z do not depend on y, so only the bend counts, not shares."""
        along = (adjoint @ self.decision_slopes.T).unsqueeze(1)
        return (self.derivative(2, instances, z) * along) @ self.outcome_slopes

    def bandwidth_product(self, instances: Instances, z: Tensor, adjoint: Tensor) -> Tensor:
        """``(B, d_y)``: the width's factor ``ds_k/ds_j = s_j D_kj^2 / s_k`` meets ``s_k d^3/da^3``."""
        bends = torch.einsum("bm,bmk->bk", instances.weights, self.derivative(3, instances, z))
        along = adjoint @ self.decision_slopes.T
        return instances.bandwidth * ((bends * along) @ self.outcome_slopes**2)

    def kinks(self, instances: Instances, z: Tensor) -> Hinges:
        """The hinges whose argument has width 0, coefficient 0 for the others."""
        exact = (self.widths(instances.bandwidth) <= 0) * self.coefficient
        offset = instances.scenarios @ self.outcome_slopes.T + self.offset
        return Hinges(
            exact.expand_as(offset),
            offset,
            self.decision_slopes.view(1, 1, *self.decision_slopes.shape),
            self._as_written,
        )

    @cached_property
    def _as_written(self) -> bool:
        """Whether arguments are a decision and one outcome or constant, as they are or with the other sign."""
        y, z = self.outcome_slopes, self.decision_slopes
        of_one = ((z != 0).sum(1) == 1) & (z.abs().sum(1) == 1)
        of_outcome = ((y != 0).sum(1) == 1) & (y.abs().sum(1) == 1) & (self.offset == 0)
        return bool((of_one & (of_outcome | (y == 0).all(1))).all())

    def hinge_product(self, instances: Instances, z: Tensor, multipliers: Tensor) -> Tensor:
        """``sum_k multiplier_mk D_k``: ``(B, M, K) -> (B, M, d_y)``."""
        return multipliers @ self.outcome_slopes

    def is_other_side(self, of: "AffineHinge") -> bool:
        """Whether its arguments are those of another one with the other sign, ``(a)_+`` and ``(-a)_+``."""
        pairs = (
            (self.offset, of.offset),
            (self.outcome_slopes, of.outcome_slopes),
            (self.decision_slopes, of.decision_slopes),
        )
        alike = self.power == of.power == 1 and len(self.offset) == len(of.offset)
        return alike and all(torch.equal(mine, -theirs) for mine, theirs in pairs)

    def with_other_side(self, coefficient: Tensor) -> tuple["AffineHinge", Tensor]:
        """The sum with its other side ``(-a)_+`` of a ``coefficient (K,)``, as one hinge and the gradient
        ``(n,)`` of a linear part.

        It has the arguments of the side that costs more: of a difference of two large numbers the small
        one would be rounded away.
        """
        one = torch.ones_like(self.offset)
        sign = torch.where(coefficient > self.coefficient, -one, one)
        hinge = AffineHinge(
            self.coefficient + coefficient,
            self.power,
            sign * self.offset,
            sign.unsqueeze(1) * self.outcome_slopes,
            sign.unsqueeze(1) * self.decision_slopes,
        )
        return hinge, -torch.minimum(self.coefficient, coefficient) @ hinge.decision_slopes


def joined(hinges: Sequence[AffineHinge]) -> tuple[tuple[AffineHinge, ...], Tensor | float]:
    """The same sum as one hinge a power, beside a linear part: what an iteration evaluates.

    Two sides of a kink are one, ``c (a)_+ + d (-a)_+ = (c + d) (a)_+ - d a``.

    Returns:
        The hinges, and the gradient ``(n,)`` of what is linear in the decision.
    """
    sides: list[tuple[AffineHinge, Tensor | None]] = []
    for form in hinges:
        place = next((i for i, (one, _) in enumerate(sides) if form.is_other_side(one)), None)
        if place is None:
            sides.append((form, None))
        else:
            one, other = sides[place]
            sides[place] = one, form.coefficient if other is None else other + form.coefficient
    kept: list[AffineHinge] = []
    slope: Tensor | float = 0.0
    for one, other in sides:
        if other is not None:
            one, pull = one.with_other_side(other)
            slope = slope + pull
        kept.append(one)
    parts = []
    for power in sorted({form.power for form in kept}):
        same = [form for form in kept if form.power == power]
        tensors = ("coefficient", "offset", "outcome_slopes", "decision_slopes")
        parts.append(
            same[0]
            if len(same) == 1
            else AffineHinge(
                power=power,
                **{name: torch.cat([getattr(h, name) for h in same]) for name in tensors},
            )
        )
    return tuple(parts), slope
