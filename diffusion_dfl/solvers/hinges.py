"""Exact hinges in units of their gradients, two of opposite arguments as one."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import transpose_apply
from diffusion_dfl.solvers.rows import gram, take

# Relative size of an argument whose sign is rounding's.
_AMBIGUOUS = 1e-12

#: Of hinges, by their columns.
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Sides:
    """Of a sum of hinges, which of them are the other side of another.

    Attributes:
        pull: ``-sum_m d_m grad a``, of the part ``-d a`` that joins F: ``(B, n)``.
        column: ``(K,)``, where each of the hinges as they were is now.
        flipped: ``(K,)`` bool: of the opposite argument there.
    """

    pull: Tensor
    column: Tensor
    flipped: Tensor

    def select(self, rows: Tensor) -> "Sides":
        return Sides(self.pull[rows], self.column, self.flipped)


@dataclass(frozen=True)
class ScaledHinges:
    """Hinges ``weight (a)_+`` with ``a = offset + jacobian' z`` of unit gradient.

    ``weight (B, M, K)`` holds omega_m, ``offset (B, M, K)``, ``jacobian (B|1, M|1, K, n)``. ``plain`` are
    hinges like ``(y - z)_+``, whose argument has no rounding error at its kink. ``sides`` is what those
    of opposite arguments became one by, or None.
    """

    weight: Tensor
    offset: Tensor
    jacobian: Tensor
    plain: bool
    sides: "Sides | None" = None

    def select(self, rows: Tensor) -> "ScaledHinges":
        return ScaledHinges(
            self.weight[rows],
            self.offset[rows],
            take(self.jacobian, rows),
            self.plain,
            None if self.sides is None else self.sides.select(rows),
        )

    def opposites(self) -> Pairs:
        """Which hinges ``(first, second)`` have opposite arguments in every scenario, each once.

        The first costs more: :meth:`one_sided` takes off what the second costs.
        """
        if self.jacobian.shape[:2] != (1, 1):
            return ()
        gradient = self.jacobian[0, 0]
        contrary = (gradient.unsqueeze(0) == -gradient.unsqueeze(1)).all(2)
        found: dict[int, int] = {}
        for first, second in torch.nonzero(contrary.triu(1)).tolist():
            taken = {first, second} & {*found, *found.values()}
            if not taken and torch.equal(self.offset[..., first], -self.offset[..., second]):
                found[first] = second
        cost = self.weight.sum((0, 1)).tolist() if found else []
        return tuple((a, b) if cost[a] >= cost[b] else (b, a) for a, b in found.items())

    def one_sided(self, pairs: Pairs) -> "ScaledHinges":
        """The same sum with one hinge for two of opposite arguments: half of a newsvendor's.

        ``c (a)_+ + d (-a)_+ = (c + d) (a)_+ - d a``, whose last part joins F: see :class:`Sides`.
        """
        if not pairs:
            return self
        gradient = self.jacobian[0, 0]
        of = {second: first for first, second in pairs}
        kept = [k for k in range(len(gradient)) if k not in of]
        place = {k: column for column, k in enumerate(kept)}
        source = [place[of.get(k, k)] for k in range(len(gradient))]
        # Not lists: as indices those would be tensors of the CPU.
        chosen = torch.tensor(kept, device=gradient.device)
        column = torch.tensor(source, device=gradient.device)
        flipped = torch.tensor([k in of for k in range(len(gradient))], device=gradient.device)
        weight = torch.zeros_like(self.weight[..., : len(kept)]).index_add(2, column, self.weight)
        pull = torch.where(flipped, self.weight, 0.0).sum(1) @ gradient
        return ScaledHinges(
            weight,
            self.offset.index_select(2, chosen),
            self.jacobian.index_select(2, chosen),
            self.plain,
            Sides(pull, column, flipped),
        )

    def given_shares(self, shares: Tensor) -> Tensor:
        """Shares of slopes ``(B, M, K)`` of the hinges as they were: those of two sides add to 1."""
        if self.sides is None:
            return shares
        found = shares[..., self.sides.column]
        return torch.where(self.sides.flipped, 1 - found, found)

    def given_marks(self, marks: Tensor) -> Tensor:
        """Marks ``(B, M, K)`` bool of the hinges as they were: two sides have the same."""
        return marks if self.sides is None else marks[..., self.sides.column]

    @cached_property
    def whole(self) -> bool:
        """Whether all have weight."""
        return bool((self.weight > 0).all())

    def real(self, values: Tensor) -> Tensor:
        """Values ``(B, M, K)``, 0 for hinges without weight."""
        return values if self.whole else values * (self.weight > 0)

    @cached_property
    def count(self) -> Tensor:
        """How many have weight, ``(B,)``."""
        return (self.weight > 0).sum((1, 2))

    def arguments(self, z: Tensor) -> Tensor:
        """``(B, n) -> (B, M, K)``."""
        return self.offset + self.push(z)

    def near(self, z: Tensor) -> bool:
        """Whether an argument is so close to 0 that its sign is rounding's."""
        if self.plain:
            return False
        reach = _AMBIGUOUS * (self.offset.abs().amax(2) + z.abs().amax(1, keepdim=True))
        close = self.arguments(z).abs() <= reach.unsqueeze(2)
        return bool((close & (self.weight > 0)).any())

    @cached_property
    def _flat(self) -> Tensor:
        """Gradients as the rows of a matrix: ``(B|1, M K | K, n)``."""
        return self.jacobian.flatten(1, 2)

    @cached_property
    def single_kinks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Which hinges are of one coordinate, ``(B|1, M|1, K)`` bool, which one, and its value at the kink,
        ``(B, M, K)``; empty ones where there is none."""
        single = (self.jacobian != 0).sum(3) == 1
        if not bool(single.any()):
            none = self.offset[:0]
            return single[:0], none.long(), none
        size, column = self.jacobian.abs().max(3)
        signed = self.jacobian.gather(3, column.unsqueeze(3)).squeeze(3)
        return single, column, -self.offset / torch.where(single, signed, size.clamp_min(1.0))

    def push(self, direction: Tensor) -> Tensor:
        """``jacobian' d``: ``(B, n) -> (B, M|1, K)``."""
        if self.jacobian.shape[0] == 1:
            return (direction @ self._flat[0].T).view(len(direction), *self.jacobian.shape[1:3])
        return torch.einsum("bmkn,bn->bmk", self.jacobian, direction)

    def force(self, slopes: Tensor) -> Tensor:
        """``sum_mk slope_mk jacobian_mk``: ``(B, M, K) -> (B, n)``."""
        if self.jacobian.shape[1] == 1:
            slopes = slopes.sum(1, keepdim=True)
        return transpose_apply(self._flat, slopes.flatten(1))

    def gram(self, weight: Tensor) -> Tensor:
        """``sum_mk weight_mk jacobian_mk jacobian_mk'``: ``(B, M, K) -> (B, n, n)``."""
        if self.jacobian.shape[1] == 1:
            weight = weight.sum(1, keepdim=True)
        return gram(self._flat, weight.flatten(1))
