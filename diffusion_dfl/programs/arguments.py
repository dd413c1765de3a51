"""Arguments of costs and objectives, refused by name where they do not fit each other."""

import torch
from torch import Tensor

from diffusion_dfl.programs.numbers import Numbers, as_tensor

_MANY = "decision.unsqueeze(-2) holds a decision against many outcomes"


def vectors(**given: tuple[Numbers, int | None]) -> tuple[list[Tensor], torch.Size]:
    """Arguments ``name=(value (..., size), size)`` as floating tensors, and their common leading shape.

    A size of None is any.

    Raises:
        TypeError: what is no numbers, or on another device than the first.
        ValueError: shapes that do not fit.
    """
    found = {}
    for name, (value, size) in given.items():
        part = as_tensor(name, value)
        if part.dim() < 1 or (size is not None and part.shape[-1] != size):
            wanted = "(..., d_x)" if size is None else f"(..., {size})"
            raise ValueError(f"{name} has shape {tuple(part.shape)}; expected {wanted}")
        found[name] = part if part.is_floating_point() else part.double()
    (first, other), *rest = found.items()
    for name, part in rest:
        if part.device != other.device:
            raise TypeError(
                f"{name} is on {part.device}; the {first} is on {other.device}: move one of them"
            )
    try:
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in found.values()))
    except RuntimeError:
        shapes = " and ".join(f"{name} has shape {tuple(p.shape)}" for name, p in found.items())
        raise ValueError(f"{shapes}: their leading dimensions do not broadcast; {_MANY}") from None
    return list(found.values()), lead


def fit_batch(
    num_outcomes: int, num_decisions: int, scenarios: Tensor, weights: Tensor | None, z: Tensor
) -> None:
    """Raise ``ValueError`` unless they are ``(B, M, d_y)``, ``(B, M)`` and ``(B, n)``."""
    if scenarios.dim() != 3 or scenarios.shape[2] != num_outcomes:
        raise ValueError(
            f"scenarios have shape {tuple(scenarios.shape)}; expected (B, M, {num_outcomes})"
        )
    batch = len(scenarios)
    if weights is not None and weights.shape != scenarios.shape[:2]:
        expected = tuple(scenarios.shape[:2])
        raise ValueError(f"weights have shape {tuple(weights.shape)}; expected {expected}")
    if z.shape != (batch, num_decisions):
        raise ValueError(f"z has shape {tuple(z.shape)}; expected ({batch}, {num_decisions})")
