"""Arguments of costs and objectives, refused by name where they do not fit each other."""

import torch
from torch import Tensor

from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.numbers import Numbers, as_tensor
from diffusion_dfl.programs.program import Program

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


def pair(program: Program, outcome: Numbers, decision: Numbers) -> tuple[Tensor, Tensor]:
    """Outcomes ``(..., d_y)`` and decisions ``(..., n)`` of a program's cost; raises as :func:`vectors`."""
    sizes = program.num_outcomes, program.num_decisions
    (y, z), _ = vectors(outcome=(outcome, sizes[0]), decision=(decision, sizes[1]))
    return y, z


def fit_batch(program: Program, instances: Instances, z: Tensor) -> None:
    """Raise ``ValueError`` unless scenarios and z are the program's, ``(B, M, d_y)`` and ``(B, n)``."""
    shape = tuple(instances.scenarios.shape)
    if shape[2] != program.num_outcomes:
        raise ValueError(f"scenarios have shape {shape}; expected (B, M, {program.num_outcomes})")
    expected = (shape[0], program.num_decisions)
    if z.shape != expected:
        raise ValueError(f"z has shape {tuple(z.shape)}; expected {expected}")
