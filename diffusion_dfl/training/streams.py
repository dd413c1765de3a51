"""Random streams: everything random in a run comes from its seed, each purpose by its own stream.

Streams are children of one ``numpy.random.SeedSequence``, so they are independent, and a change in
how one purpose draws leaves the others as they were.
"""

from typing import Literal, get_args

import numpy as np
import torch

Stream = Literal[
    "split", "initialisation", "fit", "training", "validation", "test", "foundation", "folds"
]

_STREAMS: tuple[str, ...] = get_args(Stream)


def stream_seed(seed: int, stream: Stream) -> int:
    """A 63-bit seed of one purpose of one run."""
    sequence = np.random.SeedSequence([seed, _STREAMS.index(stream)])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_stream(seed: int, stream: Stream, device: torch.device) -> torch.Generator:
    """A fresh generator on ``device``."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, stream))


def numpy_stream(seed: int, stream: Stream) -> np.random.Generator:
    """A fresh numpy generator."""
    return np.random.default_rng(stream_seed(seed, stream))
