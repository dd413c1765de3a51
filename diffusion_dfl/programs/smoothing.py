"""Gaussian convolution of kinked costs.

A cost with hinges, such as ``(y - z)_+``, has no useful derivative at the optimum of a sample
average: the optimum sits on a scenario. The convolved cost ``f_s(y, z) = E f(y + s xi, z)`` with
``xi ~ N(0, 1)`` is smooth, and its minimiser is a kernel-smoothed quantile. This module holds the
closed forms every program shares, and the bandwidth rule.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SQRT_HALF = math.sqrt(0.5)
INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)

# A scenario spread below this share of the scenarios' magnitude is rounding, not spread.
_NEGLIGIBLE_SPREAD = 1e-9


def normal_cdf(x: Tensor) -> Tensor:
    """Standard normal distribution function, elementwise, accurate in the lower tail."""
    return 0.5 * torch.erfc(-SQRT_HALF * x)


def normal_pdf(x: Tensor) -> Tensor:
    """Standard normal density, elementwise."""
    return INV_SQRT_2PI * torch.exp(-0.5 * x * x)


def _ratio(argument: Tensor, bandwidth: Tensor) -> Tensor:
    """``argument / bandwidth`` with the limit of a zero bandwidth: +-inf, and 0 at 0."""
    positive = bandwidth > 0
    safe = torch.where(positive, bandwidth, torch.ones_like(bandwidth))
    exact = torch.where(argument == 0, torch.zeros_like(argument), torch.sign(argument) * math.inf)
    return torch.where(positive, argument / safe, exact)


def hinge(argument: Tensor, bandwidth: Tensor) -> Tensor:
    """``E (a + s xi)_+ = a Phi(a/s) + s phi(a/s)``; the plain hinge where ``s = 0``.

    ``argument`` and ``bandwidth`` broadcast; both in the units of the outcome.
    """
    ratio = _ratio(argument, bandwidth)
    return argument * normal_cdf(ratio) + bandwidth * normal_pdf(ratio)


def hinge_slope(argument: Tensor, bandwidth: Tensor) -> Tensor:
    """Derivative of :func:`hinge` in its argument, ``Phi(a/s)``; one half at the kink of ``s = 0``."""
    return normal_cdf(_ratio(argument, bandwidth))


def hinge_density(argument: Tensor, bandwidth: Tensor) -> Tensor:
    """Second derivative of :func:`hinge`, ``phi(a/s)/s``; 0 where ``s = 0``."""
    positive = bandwidth > 0
    safe = torch.where(positive, bandwidth, torch.ones_like(bandwidth))
    density = torch.exp(-((argument * (SQRT_HALF / safe)) ** 2)) * (INV_SQRT_2PI / safe)
    return torch.where(positive, density, 0.0)


def hinge_square(argument: Tensor, bandwidth: Tensor) -> Tensor:
    """``E (a + s xi)_+^2 = (a^2 + s^2) Phi(a/s) + a s phi(a/s)``; ``(a)_+^2`` where ``s = 0``.

    Its derivative in ``a`` is twice :func:`hinge`. ``argument`` and ``bandwidth`` broadcast.
    """
    ratio = _ratio(argument, bandwidth)
    moment = argument**2 + bandwidth**2
    return moment * normal_cdf(ratio) + argument * bandwidth * normal_pdf(ratio)


def hinge_cube(argument: Tensor, bandwidth: Tensor) -> Tensor:
    """``E (a + s xi)_+^3 = (a^3 + 3 a s^2) Phi(a/s) + (a^2 s + 2 s^3) phi(a/s)``.

    ``(a)_+^3`` where ``s = 0``. Its derivative in ``a`` is three times :func:`hinge_square`.
    Accurate absolutely, not relatively, in the lower tail, where the two terms cancel.
    """
    ratio = _ratio(argument, bandwidth)
    square, variance = argument**2, bandwidth**2
    cubic = argument * (square + 3 * variance) * normal_cdf(ratio)
    return cubic + bandwidth * (square + 2 * variance) * normal_pdf(ratio)


def tail_ratio(size: Tensor, bandwidth: Tensor) -> Tensor:
    """``min(|a|/s, 37)`` of sizes ``|a|``, where ``s = 0`` too: 37 off the kink and 0 at it.

    A tail at 37 is below 1e-297. Its subnormal neighbours would be ten times slower to compute.
    """
    return (size / bandwidth.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(37.0)


@dataclass(frozen=True)
class HingePair:
    """Convolved powers of ``(a)_+`` and ``(-a)_+`` from one tail probability.

    The smaller side comes from the tail ``Phi(-|a|/s)`` and the larger from
    ``H_1(a) - H_1(-a) = a`` and ``H_2(a) + H_2(-a) = a^2 + s^2``, so neither loses the other's
    digits. Sides are picked by arithmetic, which is faster than ``torch.where``. For values only:
    not meant to be differentiated. Made by :meth:`of`; every shape broadcasts.
    """

    argument: Tensor
    bandwidth: Tensor
    size: Tensor
    tail: Tensor
    height: Tensor

    @staticmethod
    def of(argument: Tensor, bandwidth: Tensor) -> "HingePair":
        """The pair for arguments a and widths s >= 0, both in the units of the outcome."""
        size = argument.abs()
        ratio = tail_ratio(size, bandwidth)
        return HingePair(argument, bandwidth, size, normal_cdf(-ratio), normal_pdf(ratio))

    @property
    def slope(self) -> Tensor:
        """``Phi(a/s)``, as :func:`hinge_slope`."""
        return 0.5 + torch.sign(self.argument) * (0.5 - self.tail)

    @property
    def density(self) -> Tensor:
        """``phi(a/s)/s``, as :func:`hinge_density`."""
        width = torch.where(self.bandwidth > 0, self.bandwidth, torch.inf)
        return self.height * width.reciprocal()

    @property
    def linear(self) -> tuple[Tensor, Tensor]:
        """:func:`hinge` of a and of -a."""
        small = self._small
        return small + self.argument.clamp_min(0), small - self.argument.clamp_max(0)

    @property
    def square(self) -> tuple[Tensor, Tensor]:
        """:func:`hinge_square` of a and of -a."""
        variance = self.bandwidth**2
        small = (variance * self.tail - self.size * self._small).clamp_min(0)
        more = torch.sign(self.argument) * (self.size**2 + variance - 2 * small)
        return small + more.clamp_min(0), small - more.clamp_max(0)

    @property
    def _small(self) -> Tensor:
        """:func:`hinge` of ``-|a|``."""
        return (self.bandwidth * self.height - self.size * self.tail).clamp_min(0)


def bandwidth(
    scenarios: Tensor,
    weights: Tensor | None = None,
    scale: float = 1.06,
    sample_size: int | None = None,
) -> Tensor:
    """Width of the smoothing kernel, ``s_j = scale * std_m(y_mj) * M^(-1/5)`` (Silverman's rule).

    The spread is the weighted population standard deviation, so the rule is a smooth function of
    the scenarios and of their weights and can be differentiated in both. Identical scenarios and
    ``M = 1`` give exactly 0 with a zero gradient, which selects the exact program. So do values
    that are not finite and weights without a positive sum; the solver reports those instances.

    Args:
        scenarios: ``(B, M, d_y)``.
        weights: ``(B, M)``, normalised here to sum 1; uniform if None.
        scale: the constant ``c``; 0 selects the exact program.
        sample_size: the M of the formula; the number of scenarios if None. A rule trained with M
            scenarios keeps its width when it decides with more.

    Returns:
        ``(B, d_y)``, in the units of the scenarios.
    """
    num_scenarios = scenarios.shape[1]
    # Masked before use: 0 * NaN in the backward pass would reach instances a layer leaves out.
    scenarios = torch.where(scenarios.isfinite().all(1, keepdim=True), scenarios, 0.0)
    if weights is None:
        share = torch.full_like(scenarios[..., :1], 1.0 / max(num_scenarios, 1))
    else:
        usable = weights.isfinite().all(1, keepdim=True) & (weights.sum(1, keepdim=True) > 0)
        weights = torch.where(usable, weights, 1.0)
        share = (weights / weights.sum(1, keepdim=True)).unsqueeze(-1)
    mean = (share * scenarios).sum(1, keepdim=True)
    variance = (share * (scenarios - mean) ** 2).sum(1)
    magnitude = scenarios.detach().abs().amax(1) if num_scenarios else variance.detach()
    spread = variance.detach() > (_NEGLIGIBLE_SPREAD * magnitude) ** 2
    # The inner where keeps sqrt away from 0, whose infinite slope would turn 0 * inf into NaN.
    root = torch.sqrt(torch.where(spread, variance, torch.ones_like(variance)))
    width = scale * root * max(sample_size or num_scenarios, 1) ** (-0.2)
    return torch.where(spread, width, torch.zeros_like(width))
