"""The perceptron of every predictor and of the policy: width, depth, activation, dropout.

Weight decay, the other knob of its capacity, is the optimiser's: ``fit.weight_decay``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diffusion_dfl.sizes import check_sizes

ActivationName = Literal["silu", "relu", "gelu"]


@dataclass(frozen=True)
class Activation:
    """An elementwise activation, as a module and as operations on memory that is there already.

    Attributes:
        module: of a network.
        into: ``into(hidden, out)`` writes the activation of ``hidden`` into ``out``, which may be it.
        backward: ``backward(gradient, hidden)`` turns a gradient of the activation into one of
            ``hidden``, in place.
    """

    module: type[nn.Module]
    into: Callable[[Tensor, Tensor], None]
    backward: Callable[[Tensor, Tensor], None]


_aten = torch.ops.aten

ACTIVATIONS: dict[ActivationName, Activation] = {
    "silu": Activation(
        nn.SiLU,
        lambda hidden, out: _aten.silu.out(hidden, out=out),
        lambda gradient, hidden: _aten.silu_backward.grad_input(
            gradient, hidden, grad_input=gradient
        ),
    ),
    "relu": Activation(
        nn.ReLU,
        lambda hidden, out: _aten.relu.out(hidden, out=out),
        lambda gradient, hidden: _aten.threshold_backward.grad_input(
            gradient, hidden, 0, grad_input=gradient
        ),
    ),
    "gelu": Activation(
        nn.GELU,
        lambda hidden, out: _aten.gelu.out(hidden, out=out),
        lambda gradient, hidden: _aten.gelu_backward.grad_input(
            gradient, hidden, grad_input=gradient
        ),
    ),
}


def activation(name: ActivationName) -> Activation:
    """An activation by its name.

    Raises:
        ValueError: there is none of the name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r} is unknown; choose {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def hidden_layer(name: ActivationName, dropout: float) -> list[nn.Module]:
    """What follows the linear map of a hidden layer.

    Raises:
        ValueError: no such activation, or a dropout outside [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must be in [0, 1)")
    return [activation(name).module(), nn.Dropout(dropout)]


def backbone(
    inputs: int,
    outputs: int,
    width: int,
    layers: int,
    name: ActivationName,
    dropout: float,
) -> nn.Sequential:
    """``layers`` hidden layers of ``width`` units with dropout after each, and a linear head.

    Raises:
        ValueError: no such activation, or a size or a dropout out of range.
    """
    check_sizes(width=width)
    check_sizes(0, layers=layers)
    modules: list[nn.Module] = []
    size = inputs
    for _ in range(layers):
        modules += [nn.Linear(size, width), *hidden_layer(name, dropout)]
        size = width
    return nn.Sequential(*modules, nn.Linear(size, outputs))
