"""Constraints with unit gradients, those without interior stated as equalities.

Rows and equalities are divided by the norm of their gradient, so that slacks are lengths and
multipliers are slopes of the cost. Two opposite rows with opposite limits, and equal bounds, have
no interior between them, which an interior point needs: they become equalities.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import Constraints, QuadraticConstraints, apply


def take(value: Tensor, rows: Tensor) -> Tensor:
    """The instances ``rows`` of a tensor whose leading dimension is B, or 1 if they share it."""
    return value if value.shape[0] == 1 else value[rows]


# A value this small beside how far a set bends is that of its edge.
_AT_EDGE = 1e-3


def largest(values: Tensor) -> Tensor:
    """Largest absolute entry of each instance, 0 where there is none: ``(B, ...) -> (B,)``."""
    flat = values.flatten(1)
    return flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(len(flat))


def gram(matrix: Tensor, weight: Tensor) -> Tensor:
    """``matrix' diag(weight) matrix``: ``(B|1, q, n), (B, q) -> (B, n, n)``."""
    weighted = matrix * weight.unsqueeze(-1)
    return matrix.transpose(1, 2) @ weighted


def gather_true(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the true entries, padded to the longest row: indices and a mask, ``(B, k)``."""
    width = int(mask.sum(1).amax()) if mask.numel() else 0
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    return order, mask.gather(1, order)


@dataclass(frozen=True)
class Rows:
    """Constraints with unit gradients.

    Attributes:
        constraints: scaled rows of G, bounds and equalities; smooth ones are in their own units.
        unit: ``(B|1, q)``, norm by which each inequality is divided.
        present: ``(B|1, q)``, false for infinite limits and for rows stated as equalities.
        equality_unit: ``(B|1, p)``.
        sizes: ``(B|1, q)``, of the limits, 0 for infinite ones; of smooth constraints that of their
            values at the decision they were scaled at, or of the set.
        curved: size of the smallest curved set at whose edge the decision is, ``(B|1,)``, ``inf`` for none;
            None without smooth constraints.
        bending: largest second derivative of a smooth constraint over its unit, ``(B|1,)`` or None.
        twins: ``(2, r)`` int64, indices of inequalities that became the equalities p, p+1, ...:
            the first of a pair holds the positive part of the equality's multiplier.
    """

    constraints: Constraints
    unit: Tensor
    present: Tensor
    equality_unit: Tensor
    sizes: Tensor
    twins: Tensor
    curved: Tensor | None
    bending: Tensor | None

    def reach(self, z: Tensor) -> Tensor:
        """Size of decisions ``(B, n)``, as far as curved sets far from 0 leave room for it: ``(B,)``."""
        size = largest(z)
        return size if self.curved is None else torch.minimum(size, self.curved)

    def terms(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Sizes of what inequalities ``(B, q)`` and equalities ``(B, p)`` are made of at ``z (B, n)``.

        A row says nothing of coordinates that it does not read, however large they are.
        """
        rows, sizes = self.constraints, z.abs()
        parts = [apply(rows.matrix.abs(), sizes)]
        parts += [sizes for bound in (rows.lower, rows.upper) if bound is not None]
        if rows.smooth is not None:
            parts.append(largest(z).unsqueeze(1).expand(-1, rows.smooth.size))
        of_equalities = rows.equality_value.abs() + apply(rows.equality_matrix.abs(), sizes)
        return self.sizes + torch.cat(parts, dim=1), of_equalities

    @cached_property
    def whole(self) -> bool:
        """Whether all are present."""
        return bool(self.present.all())

    def real(self, values: Tensor, other: float = 0.0) -> Tensor:
        """Values ``(B, q)``, and another one of rows that are not present."""
        return values if self.whole else torch.where(self.present, values, other)

    def select(self, rows: Tensor) -> "Rows":
        return Rows(
            self.constraints.select(rows),
            take(self.unit, rows),
            take(self.present, rows),
            take(self.equality_unit, rows),
            take(self.sizes, rows),
            self.twins,
            None if self.curved is None else take(self.curved, rows),
            None if self.bending is None else take(self.bending, rows),
        )

    @staticmethod
    def of(given: Constraints, z: Tensor, near: bool = True) -> "Rows":
        """Scale constraints; smooth ones by their gradients at z ``(B, n)``, ``near`` their edge."""
        size = given.matrix.shape[2]
        if given.smooth is not None:
            given = replace(given, smooth=QuadraticConstraints.of(given.smooth, z))
        norm = _safe_norm(given.matrix)
        matrix, limit = given.matrix / norm.unsqueeze(-1), given.limit / norm
        equality_unit = _safe_norm(given.equality_matrix)
        equalities = given.equality_matrix / equality_unit.unsqueeze(-1)
        equality_value = given.equality_value / equality_unit
        units, present, sizes = [norm], [limit.isfinite()], [limit.abs()]
        curved = bending = None
        for bound in (given.lower, given.upper):
            if bound is not None:
                units.append(torch.ones_like(bound))
                present.append(bound.isfinite())
                sizes.append(bound.abs())
        if given.smooth is not None:
            slope = given.smooth.jacobian(z).norm(dim=2)
            # A ball has gradient 0 at its centre: its value and its curvature make a slope too.
            values = given.smooth.values(z)
            bend = given.smooth.bends(z)
            steep = torch.maximum(slope, (values.abs() * bend).sqrt())
            if not bool((steep > 0).all()):
                # Flat to the second order, as a sum of fourth powers is at 0: a slope from beside it.
                index = torch.arange(1, size + 1, dtype=z.dtype, device=z.device)
                aside = z + torch.where(z.abs().amax(1, keepdim=True) > 0, z, 1.0) * index.cos()
                steep = torch.where(steep > 0, steep, given.smooth.jacobian(aside).norm(dim=2))
            units.append(steep.clamp_min(1e-300))
            present.append(torch.ones_like(slope, dtype=torch.bool))
            depth = values.abs() / units[-1]
            # Of a set far from 0 its own size: how it bends at its edge.
            radius = units[-1] / bend.clamp_min(1e-300)
            edge = (depth <= _AT_EDGE * radius) & (depth <= largest(z).unsqueeze(1)) & near
            curved = torch.where(edge, radius, torch.inf).amin(1)
            bending = radius.reciprocal().amax(1)
            sizes.append(torch.where(edge, torch.minimum(radius, largest(z).unsqueeze(1)), depth))
        unit, present_rows = _joined(units), _joined(present)
        first, second, mask = _opposite_rows(matrix, limit)
        chosen = matrix[:, first] * mask.unsqueeze(-1).to(matrix.dtype)
        target = torch.where(mask, limit[:, first], 0.0)
        if given.lower is not None and given.upper is not None:
            pinned = (given.lower == given.upper) & given.lower.isfinite()
            columns = torch.nonzero(pinned.any(0)).flatten()
            eye = torch.eye(size, dtype=matrix.dtype, device=matrix.device)[columns]
            held = pinned[:, columns]
            chosen = _joined([chosen, eye * held.unsqueeze(-1).to(matrix.dtype)])
            target = _joined([target, torch.where(held, given.upper[:, columns], 0.0)])
            mask = _joined([mask, held])
            low = matrix.shape[1] + columns
            first = torch.cat([first, low + size])
            second = torch.cat([second, low])
        if mask.shape[1]:
            gone = torch.zeros(mask.shape[0], unit.shape[1], dtype=torch.int64, device=z.device)
            gone = gone.index_add(1, first, mask.long()).index_add(1, second, mask.long())
            present_rows = present_rows & (gone == 0)
        scaled = Constraints(
            matrix=matrix,
            limit=limit,
            lower=given.lower,
            upper=given.upper,
            equality_matrix=_joined([equalities, chosen]),
            equality_value=_joined([equality_value, target]),
            smooth=given.smooth,
        )
        size_of = _joined(sizes)
        size_of = torch.where(size_of.isfinite(), size_of, 0.0)
        twins = torch.stack([first, second])
        return Rows(scaled, unit, present_rows, equality_unit, size_of, twins, curved, bending)

    def original_duals(self, dual: Tensor, nu: Tensor) -> tuple[Tensor, Tensor]:
        """Multipliers of the constraints as they were given: ``(B, q), (B, p)``."""
        count = self.equality_unit.shape[1]
        first, second = self.twins
        net = nu[:, count:]
        dual = dual.index_add(1, first, net.clamp_min(0)).index_add(1, second, (-net).clamp_min(0))
        return dual / self.unit, nu[:, :count] / self.equality_unit


def _safe_norm(matrix: Tensor) -> Tensor:
    norm = matrix.norm(dim=-1)
    return torch.where(norm > 0, norm, 1.0)


def _joined(parts: list[Tensor]) -> Tensor:
    """``torch.cat`` along dimension 1 of tensors whose leading dimension is B or 1."""
    batch = next((len(part) for part in parts if len(part) != 1), 1)
    return torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], dim=1)


def _opposite_rows(matrix: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs ``g z <= h, -g z <= -h``: indices ``(r,), (r,)`` and whether they are, ``(B|1, r)``."""
    opposite = (matrix @ matrix.transpose(1, 2)) < -1 + 1e-12
    total = limit.unsqueeze(2) + limit.unsqueeze(1)
    size = limit.abs().unsqueeze(2) + limit.abs().unsqueeze(1)
    opposite = (opposite & (total.abs() <= 1e-14 * size) & size.isfinite()).triu(1)
    first, second = torch.nonzero(opposite.any(0)).T
    return first, second, opposite[:, first, second]
