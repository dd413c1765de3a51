"""What programs are solved for and differentiated at: a batch of instances."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffusion_dfl.programs.devices import require_float64
from diffusion_dfl.programs.numbers import Numbers, as_tensor

# A kernel this narrow beside the scenarios' magnitude is no kernel: float64 decisions cannot
# resolve its slope, whose reciprocal is its width.
_NEGLIGIBLE_WIDTH = 1e-10


@dataclass(frozen=True, eq=False)
class Instances:
    """A batch of instances of a program; :meth:`of` checks them.

    Attributes:
        scenarios: ``(B, M, d_y)``.
        weights: ``(B, M)``, non-negative, rows with sum 1.
        bandwidth: ``(B, d_y)``, width of the Gaussian that smooths kinks; 0 leaves them exact.
        context: ``(B, d_x)`` or None.
    """

    scenarios: Tensor
    weights: Tensor
    bandwidth: Tensor
    context: Tensor | None = None

    @staticmethod
    def of(
        scenarios: Numbers,
        weights: Numbers | None = None,
        bandwidth: Numbers | None = None,
        context: Numbers | None = None,
    ) -> "Instances":
        """Instances in float64, of uniform weights and exact by default.

        Raises:
            TypeError, ValueError: what does not fit, by name.
        """
        scenarios = checked_scenarios(scenarios)
        if scenarios.dtype != torch.float64:
            raise TypeError(
                f"scenarios have dtype {scenarios.dtype}; solves need torch.float64 "
                "(DecisionLayer casts for you)"
            )
        batch, count, size = scenarios.shape
        context = None if context is None else as_tensor("context", context)
        if context is not None and context.dim() != 2:
            raise ValueError(
                f"context has shape {tuple(context.shape)}; expected (B, d_x), a row for each of the "
                f"{batch} instances: context.unsqueeze(1) makes a column of one number each"
            )
        width = () if context is None else context.shape[1:]
        context = fitting("context", context, scenarios, batch, *width)
        weights = fitting("weights", weights, scenarios, batch, count)
        bandwidth = fitting("bandwidth", bandwidth, scenarios, batch, size)
        return Instances(
            scenarios,
            scenarios.new_full((batch, count), 1.0 / count) if weights is None else weights,
            scenarios.new_zeros(batch, size) if bandwidth is None else bandwidth,
            context,
        )

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What functions of torch.autograd, which see no tensors in a class, take one by one."""
        return self.scenarios, self.weights, self.bandwidth, self.context

    def __len__(self) -> int:
        return len(self.scenarios)

    @property
    def valid(self) -> Tensor:
        """Which have finite numbers, weights >= 0 with sum 1 and bandwidths >= 0: ``(B,)`` bool."""
        known = self.scenarios.isfinite().all(2).all(1) & self.weights.isfinite().all(1)
        known &= self.bandwidth.isfinite().all(1) & (self.bandwidth >= 0).all(1)
        known &= (self.weights >= 0).all(1) & ((self.weights.sum(1) - 1.0).abs() <= 1e-3)
        return known if self.context is None else known & self.context.isfinite().all(1)

    def select(self, rows: Tensor) -> "Instances":
        """The instances ``rows`` of the batch."""
        context = None if self.context is None else self.context[rows]
        return Instances(self.scenarios[rows], self.weights[rows], self.bandwidth[rows], context)

    def stand_in(self, valid: Tensor) -> "Instances":
        """Harmless numbers where not ``valid (B,)``, to keep the batch together."""
        column = valid.unsqueeze(1)
        return Instances(
            torch.where(column.unsqueeze(2), self.scenarios, 0.0),
            torch.where(column, self.weights, 1.0 / self.weights.shape[1]),
            torch.where(column, self.bandwidth, 0.0),
            None if self.context is None else torch.where(column, self.context, 0.0),
        )

    def detached(self) -> "Instances":
        y, weights, width, x = self.parts
        context = None if x is None else x.detach()
        return Instances(y.detach(), weights.detach(), width.detach(), context)

    def exact(self) -> "Instances":
        """Without bandwidths."""
        return replace(self, bandwidth=torch.zeros_like(self.bandwidth))

    def resolvable(self) -> "Instances":
        """With bandwidths too narrow for float64 set to 0, the exact program.

        Too narrow is less than 1e-10 of an instance's largest scenario.
        """
        width = self.bandwidth
        limit = _NEGLIGIBLE_WIDTH * self.scenarios.detach().abs().amax((1, 2))
        negligible = (width >= 0) & (width <= limit.clamp_min(1e-100).unsqueeze(1))
        return replace(self, bandwidth=torch.where(negligible, torch.zeros_like(width), width))


def checked_scenarios(scenarios: Numbers) -> Tensor:
    """Scenarios as a floating tensor ``(B, M, d_y)`` with ``M >= 1``, on a device with float64.

    Raises:
        TypeError, ValueError: what is none.
    """
    scenarios = as_tensor("scenarios", scenarios)
    if not scenarios.is_floating_point():
        raise TypeError(f"scenarios have dtype {scenarios.dtype}; pass floating scenarios")
    require_float64(scenarios.device)
    if scenarios.dim() != 3 or scenarios.shape[1] < 1:
        raise ValueError(
            f"scenarios have shape {tuple(scenarios.shape)}; expected (B, M, d_y), M >= 1"
        )
    return scenarios


def fitting(name: str, value: Numbers | None, scenarios: Tensor, *shape: int) -> Tensor | None:
    """An argument of that shape, as a tensor of the scenarios' dtype on their device.

    Raises:
        TypeError, ValueError: what is none, by name.
    """
    if value is None:
        return None
    found = as_tensor(name, value)
    if not isinstance(value, Tensor):
        found = found.to(scenarios.device)
    if tuple(found.shape) != shape:
        raise ValueError(f"{name} have shape {tuple(found.shape)}; expected {shape}")
    if found.dtype != scenarios.dtype or found.device != scenarios.device:
        raise TypeError(
            f"{name} are {found.dtype} on {found.device}; the scenarios are "
            f"{scenarios.dtype} on {scenarios.device}: convert one of them"
        )
    return found
