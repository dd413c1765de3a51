"""Products of the zero, nonnegative and second-order cones, for batches of vectors.

A second-order cone is ``{(t, u): |u| <= t}``. Everything an interior point and the derivative of a
cone program need from it is a symmetric operator with three eigenvalues: one on ``(1, a)``, one on
``(1, -a)`` with a unit vector a, and one on the tails orthogonal to a. That holds for the
Nesterov-Todd scaling and for the derivative of the projection, so both are a
:class:`SpectralOperator`.

Vectors here are the conic rows only, ``(B, l + q)``: l nonnegative rows, then the second-order
cones one after the other. Rows of the zero cone are equalities and need no algebra.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """``(B, m, n), (B, n) -> (B, m)``."""
    return torch.matmul(matrix, vector.unsqueeze(2)).squeeze(2)


def transpose_times(matrix: Tensor, vector: Tensor) -> Tensor:
    """``(B, m, n), (B, m) -> (B, n)``."""
    return torch.matmul(vector.unsqueeze(1), matrix).squeeze(1)


@dataclass(frozen=True)
class Cones:
    """Sizes of the cones in the order of the rows: zero, nonnegative, second-order."""

    zero: int
    nonnegative: int
    second_order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.zero, self.nonnegative, *(self.second_order or (1,))) < 0:
            raise ValueError(f"cone sizes must be >= 0: {self}")
        if 0 in self.second_order:
            raise ValueError(f"a second-order cone has at least one row: {self}")

    @property
    def rows(self) -> int:
        """Number of rows of the constraint matrix."""
        return self.zero + self.nonnegative + sum(self.second_order)


class ConeAlgebra:
    """Index tensors of a :class:`Cones` on a device, and the Jordan algebra they define.

    Args:
        cones: the sizes.
        like: tensor whose dtype and device the indices take.
    """

    def __init__(self, cones: Cones, like: Tensor) -> None:
        sizes = torch.tensor(cones.second_order, dtype=torch.long, device=like.device)
        count = len(cones.second_order)
        self.cones = cones
        self.linear = cones.nonnegative
        #: Index of the cone of every second-order row, and of every cone's first row.
        self.owner = torch.repeat_interleave(torch.arange(count, device=like.device), sizes)
        self.heads = sizes.cumsum(0) - sizes
        self.member = like.new_zeros(count, len(self.owner))
        self.member[self.owner, torch.arange(len(self.owner), device=like.device)] = 1.0
        self.tail = like.new_ones(len(self.owner))
        self.tail[self.heads] = 0.0
        #: Unit of the algebra: 1 on nonnegative rows and heads, 0 on tails.
        self.unit = torch.cat([like.new_ones(self.linear), 1.0 - self.tail])
        #: Barrier parameter: nonnegative rows plus second-order cones.
        self.degree = self.linear + count

    def split(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Nonnegative rows ``(B, l)`` and second-order rows ``(B, q)``."""
        return vector[:, : self.linear], vector[:, self.linear :]

    def sums(self, rows: Tensor) -> Tensor:
        """Sum over the rows of each second-order cone: ``(B, q) -> (B, K)``."""
        return rows @ self.member.T

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Heads ``(B, K)``, lengths of the tails ``(B, K)`` and tails ``(B, q)``, 0 at heads."""
        tail = rows * self.tail
        # Scaled by the largest entry, so that squares neither overflow nor vanish.
        largest = tail.abs().amax(1, keepdim=True) if rows.shape[1] else tail.new_ones(1, 1)
        largest = torch.where(largest > 0, largest, 1.0)
        return rows[:, self.heads], self.sums((tail / largest) ** 2).sqrt() * largest, tail

    def margin(self, vector: Tensor) -> Tensor:
        """Smallest eigenvalue, positive inside the cone: ``(B,)``; inf without conic rows."""
        linear, rows = self.split(vector)
        head, length, _ = self.parts(rows)
        every = [linear, head - length, vector.new_full((len(vector), 1), torch.inf)]
        return torch.cat(every, dim=1).amin(1)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Jordan product: entrywise, and ``(u'v, u_0 v_1 + v_0 u_1)`` in a second-order cone."""
        linear_left, rows_left = self.split(left)
        linear_right, rows_right = self.split(right)
        inner = self.sums(rows_left * rows_right)[:, self.owner]
        head_left = rows_left[:, self.heads][:, self.owner]
        head_right = rows_right[:, self.heads][:, self.owner]
        tails = (head_left * rows_right + head_right * rows_left) * self.tail
        rows = torch.where(self.tail > 0, tails, inner)
        return torch.cat([linear_left * linear_right, rows], dim=1)

    def divide(self, divisor: Tensor, vector: Tensor) -> Tensor:
        """The x with ``product(divisor, x) = vector``, divisor inside the cone."""
        linear_divisor, rows_divisor = self.split(divisor)
        linear, rows = self.split(vector)
        head, length, tail = self.parts(rows_divisor)
        determinant = (head - length) * (head + length)
        inner = self.sums(tail * rows)
        first = (head * rows[:, self.heads] - inner) / determinant
        rest = (rows - first[:, self.owner] * tail) / head[:, self.owner]
        quotient = torch.where(self.tail > 0, rest, first[:, self.owner])
        return torch.cat([linear / linear_divisor, quotient], dim=1)

    def longest_step(self, point: Tensor, direction: Tensor) -> Tensor:
        """Largest alpha with ``point + alpha direction`` in the cone, point inside: ``(B,)``."""
        linear, rows = self.split(point)
        linear_step, rows_step = self.split(direction)
        inf = torch.full_like(linear, torch.inf)
        ratios = torch.where(linear_step < 0, linear / -linear_step, inf)
        head, length, tail = self.parts(rows)
        head_step, length_step, tail_step = self.parts(rows_step)
        # Roots of a alpha^2 + 2 b alpha + c, the Lorentz norm along the ray; c > 0 at the point.
        a = (head_step - length_step) * (head_step + length_step)
        b = head * head_step - self.sums(tail * tail_step)
        c = (head - length) * (head + length)
        root = (b * b - a * c).clamp_min(0).sqrt()
        # The smallest positive root is c / (root - b), written without cancellation.
        meets = (a < 0) | ((b < 0) & (b * b >= a * c))
        first = c / torch.where(meets, root - b, 1.0)
        first = torch.where(meets & (first > 0), first, torch.inf)
        # A ray through the apex is a double root, which rounding may lose.
        apex = torch.where(head_step < 0, head / -head_step, torch.inf)
        none = point.new_full((len(point), 1), torch.inf)
        return torch.cat([ratios, first, apex, none], dim=1).amin(1)

    def scaling(self, slack: Tensor, dual: Tensor) -> "SpectralOperator":
        """Nesterov-Todd scaling W with ``W dual = W^-1 slack``, both inside the cone."""
        linear_slack, rows_slack = self.split(slack)
        linear_dual, rows_dual = self.split(dual)
        head_s, length_s, tail_s = self.parts(rows_slack)
        head_z, length_z, tail_z = self.parts(rows_dual)
        norm_s = ((head_s - length_s) * (head_s + length_s)).sqrt()
        norm_z = ((head_z - length_z) * (head_z + length_z)).sqrt()
        inner = (head_s / norm_s) * (head_z / norm_z) + self.sums(tail_s * tail_z) / norm_s / norm_z
        gamma = ((1.0 + inner) / 2).clamp_min(1e-300).sqrt()
        point = tail_s / norm_s[:, self.owner] - tail_z / norm_z[:, self.owner]
        point = point / (2 * gamma)[:, self.owner]
        _, length, _ = self.parts(point)
        # The scaling point has Lorentz norm 1, so its eigenvalues are large and 1 / large.
        large = (1.0 + length**2).sqrt() + length
        eta = (norm_s / norm_z).sqrt()
        return SpectralOperator(
            self,
            linear=(linear_slack / linear_dual).sqrt(),
            along=eta * large,
            against=eta / large,
            across=eta,
            axis=self._direction(point, length),
        )

    def project(self, vector: Tensor) -> Tensor:
        """Euclidean projection onto the cone: ``(B, l + q) -> (B, l + q)``."""
        linear, rows = self.split(vector)
        head, length, tail = self.parts(rows)
        # Eigenvalues head + length on (1, a) / 2 and head - length on (1, -a) / 2, cut at 0.
        upper, lower = (head + length).clamp_min(0), (head - length).clamp_min(0)
        first, along = (upper + lower) / 2, (upper - lower) / 2
        tails = along[:, self.owner] * self._direction(tail, length)
        rows = torch.where(self.tail > 0, tails, first[:, self.owner])
        return torch.cat([linear.clamp_min(0), rows], dim=1)

    def projection_derivative(self, vector: Tensor, weak: float = 0.0) -> "SpectralOperator":
        """Derivative of the Euclidean projection onto the cone, at ``vector``.

        The projection has a kink between two regimes. There the derivative from inside the cone
        is taken: the identity, as of a slack constraint.

        Args:
            vector: ``(B, l + q)``.
            weak: what is out of the cone by no more than this counts as inside.
        """
        linear, rows = self.split(vector)
        head, length, tail = self.parts(rows)
        inside = head - length >= -weak
        polar = (head < -length) & ~inside
        safe = torch.where(length > 0, length, 1.0)
        across = torch.where(inside, 1.0, torch.where(polar, 0.0, 0.5 * (1.0 + head / safe)))
        return SpectralOperator(
            self,
            linear=(linear >= -weak).to(vector.dtype),
            along=(~polar).to(vector.dtype),
            against=inside.to(vector.dtype),
            across=across,
            axis=self._direction(tail, length),
        )

    def _direction(self, tail: Tensor, length: Tensor) -> Tensor:
        # A vanishing tail has no direction: 0, where all three eigenvalues are the same.
        safe = torch.where(length > 0, length, 1.0)
        return tail / safe[:, self.owner]


@dataclass(frozen=True)
class SpectralOperator:
    """Symmetric operator on the conic rows, with three eigenvalues a second-order cone.

    Attributes:
        algebra: the cones.
        linear: diagonal on the nonnegative rows, ``(B, l)``.
        along, against, across: eigenvalues on ``(1, a)``, ``(1, -a)`` and on tails orthogonal
            to a, ``(B, K)``.
        axis: the unit tails a, ``(B, q)``, 0 at heads; 0 where the eigenvalues agree.
    """

    algebra: ConeAlgebra
    linear: Tensor
    along: Tensor
    against: Tensor
    across: Tensor
    axis: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "SpectralOperator":
        """The operator with ``function`` applied to its eigenvalues."""
        return SpectralOperator(
            self.algebra,
            function(self.linear),
            function(self.along),
            function(self.against),
            function(self.across),
            self.axis,
        )

    def apply(self, vector: Tensor) -> Tensor:
        """``(B, l + q) -> (B, l + q)``."""
        algebra = self.algebra
        linear, rows = algebra.split(vector)
        if not len(algebra.heads):
            return self.linear * linear
        head = rows[:, algebra.heads]
        inner = algebra.sums(self.axis * rows)
        # Components on (1, a) and (1, -a), each times its eigenvalue.
        plus, minus = self.along * (head + inner) / 2, self.against * (head - inner) / 2
        first = plus + minus
        on_axis = plus - minus - self.across * inner
        owner = algebra.owner
        tails = self.across[:, owner] * rows + on_axis[:, owner] * self.axis
        rows = torch.where(algebra.tail > 0, tails, first[:, owner])
        return torch.cat([self.linear * linear, rows], dim=1)

    def gram(self, matrix: Tensor) -> Tensor:
        """``A' V A`` for a positive semidefinite V: ``(B, l + q, n) -> (B, n, n)``."""
        algebra = self.algebra
        top = matrix[:, : algebra.linear]
        if not len(algebra.heads):
            return top.transpose(1, 2) @ (self.linear.unsqueeze(2) * top)
        rows = matrix[:, algebra.linear :]
        owner = algebra.owner
        # Half powers of each component, so that the product is symmetric and has no cancellation.
        head = rows[:, algebra.heads]
        inner = algebra.member @ (self.axis.unsqueeze(2) * rows)
        plus = (self.along / 2).sqrt().unsqueeze(2) * (head + inner)
        minus = (self.against / 2).sqrt().unsqueeze(2) * (head - inner)
        tails = (rows - self.axis.unsqueeze(2) * inner[:, owner]) * algebra.tail.unsqueeze(1)
        tails = self.across.sqrt()[:, owner].unsqueeze(2) * tails
        factor = torch.cat([self.linear.sqrt().unsqueeze(2) * top, plus, minus, tails], dim=1)
        return factor.transpose(1, 2) @ factor
