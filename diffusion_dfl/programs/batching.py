"""vmap for batches of any size, the empty one included."""

from collections.abc import Callable

import torch
from torch import Tensor
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
        return vmap(function)(*parts)
    pieces = zip(*(part.split(chunk) for part in parts), strict=True)
    return torch.cat([vmap(function)(*piece) for piece in pieces])
