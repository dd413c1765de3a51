"""vmap for batches of any size, the empty one included; and what torch.func is about to differentiate."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.func import vmap


def over_batch(function: Callable[..., Tensor], *parts: Tensor, chunk: int | None = None) -> Tensor:
    """``vmap(function)(*parts)``, ``chunk`` rows at a time; vmap itself refuses an empty batch.

    Args:
        function: of one row each of ``parts``.
        parts: tensors with the same leading dimension.
        chunk: rows that are in memory together; all if None.
    """
    rows = parts[0].shape[0]
    if rows == 0:
        # One row of zeros finds the shape.
        return vmap(function)(*(part.new_zeros(1, *part.shape[1:]) for part in parts))[:0]
    if chunk is None or chunk >= rows:
        return _together(function, parts)
    pieces = zip(*(part.split(chunk) for part in parts), strict=True)
    return torch.cat([_together(function, piece) for piece in pieces])


def _together(function: Callable[..., Tensor], parts: tuple[Tensor, ...]) -> Tensor:
    """All rows in one call; NaN for those of a singular matrix, of which torch says no more than that there
    is one."""
    try:
        return vmap(function)(*parts)
    except torch.linalg.LinAlgError:
        if len(parts[0]) == 1:
            return torch.full_like(vmap(function)(*map(_regular, parts)), torch.nan)
    singles = zip(*(part.split(1) for part in parts), strict=True)
    return torch.cat([_together(function, single) for single in singles])


def _regular(like: Tensor) -> Tensor:
    """Numbers of no pattern, of which no matrix is singular."""
    count = torch.arange(1, like.numel() + 1, dtype=like.dtype, device=like.device)
    return (count * count).cos().view_as(like)


def is_differentiated(value: Tensor | None) -> bool:
    """Whether autograd, or a transform of torch.func at any level, differentiates in a tensor."""
    functorch = torch._C._functorch
    while value is not None:
        # Whatever an operation returns is wrapped, whether it is followed or not.
        if value.requires_grad or unpack_dual(value).tangent is not None:
            return True
        wrapped = functorch.is_functorch_wrapped_tensor(value)
        value = functorch.get_unwrapped(value) if wrapped else None
    return False
