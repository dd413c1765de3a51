"""What is differentiated implicitly is differentiated once."""

from typing import Any

import torch
from torch import Tensor

#: What a second derivative is told.
ONCE = (
    "the decision layer has first derivatives only: z* is differentiated implicitly once, and a second "
    "derivative through it (a gradient penalty, a Hessian) would be wrong; detach() the gradients, or "
    "leave create_graph off"
)


class FirstOrderOnly(torch.autograd.Function):
    """The identity on a gradient that depends on ``anchors`` in a way autograd does not see."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *anchors: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> None:
        raise RuntimeError(ONCE)


class OnceDifferentiable(torch.autograd.Function):
    """The identity on what a value depends on in a way that autograd sees to first order only."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return FirstOrderOnly.apply(gradient, *ctx.saved_tensors)
        return gradient
