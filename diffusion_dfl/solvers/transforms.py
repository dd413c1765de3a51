"""Where torch.func transforms meet a solve.

A solver branches on its data, which vmap cannot: a vectorised dimension is merged into the batch instead,
solved together, and taken apart again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def is_transformed() -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp, ...) is at work."""
    # Nothing public tells.
    return torch._C._functorch.peek_interpreter_stack() is not None


def over_merged_batch(
    function: Callable[..., tuple[Tensor, ...]],
    size: int,
    in_dims: tuple[int | None, ...],
    arguments: tuple[Any, ...],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The rule of vmap of a function of batches ``(B, ...)``: ``(V, B, ...)`` goes in as ``(V * B, ...)``.

    Args:
        function: of tensors whose first dimension is the batch, and of other things.
        size: V.
        in_dims, arguments: as vmap hands them over; what has no dimension is the same for all.
    """

    def merged(value: Any, dim: int | None) -> Any:
        if not isinstance(value, Tensor):
            return value
        every = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
        return every.flatten(0, 1)

    parts = [merged(value, dim) for value, dim in zip(arguments, in_dims, strict=True)]
    found = function(*parts)
    return tuple(part.unflatten(0, (size, -1)) for part in found), (0,) * len(found)
