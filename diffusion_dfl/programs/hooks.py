"""Hooks on saved tensors, out of the way of torch.func.

A counter of memory (:mod:`diffusion_dfl.training.memory`) or an offloading context of the user's sets
hooks on whatever autograd saves. torch.func refuses to differentiate under them, and programs stated by
torch functions are differentiated by it in every solve. What a solve computes is no part of the graph,
so the hooks have nothing to see there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_saved_tensor_hooks() -> Iterator[None]:
    """Run the block with no hooks on saved tensors, and put them back."""
    autograd = torch._C._autograd
    popped: list[Any] = []
    # The argument: hooks that only trace do not count; there are none outside of torch.compile.
    while (hooks := autograd._top_saved_tensors_default_hooks(True)) is not None:
        popped.append(hooks)
        autograd._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pack, unpack in reversed(popped):
            autograd._push_saved_tensors_default_hooks(pack, unpack)
