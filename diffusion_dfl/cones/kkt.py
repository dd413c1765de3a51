"""The linear systems of cone programs, for a batch: ``[P A'; A -V] [x; y] = [r; t]``.

V is 0 on equality rows and a positive semidefinite :class:`SpectralOperator` on conic rows. Interior
point steps (V the squared scaling) and the adjoint (V from the derivative of the projection) both
end here.

Conic rows are eliminated into ``H = P + A_c' V^-1 A_c``, and ``[H A_e'; A_e 0]`` is factorised.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_dfl.cones.algebra import SpectralOperator, times, transpose_times
from diffusion_dfl.cones.problem import ConeProblem, largest

# Keeps rank-deficient systems solvable; data are equilibrated, and refinement removes its effect.
_REGULARISATION = 1e-11
_ROUNDING = 4e-15
# Stands for the eigenvalue 0 of a binding constraint, which has no finite weight.
_ACTIVE = 1e-9


@dataclass(frozen=True)
class KKTSystem:
    """What no iteration changes: P ``(B, n, n)`` and A's equality and conic rows."""

    quadratic: Tensor
    equality: Tensor
    conic: Tensor

    @staticmethod
    def of(problem: ConeProblem) -> "KKTSystem":
        """The system of a cone program."""
        zero = problem.cones.zero
        return KKTSystem(problem.quadratic, problem.matrix[:, :zero], problem.matrix[:, zero:])

    def select(self, rows: Tensor) -> "KKTSystem":
        """The instances ``rows`` of the batch."""
        return KKTSystem(self.quadratic[rows], self.equality[rows], self.conic[rows])

    def factor(self, inverse: SpectralOperator) -> "KKTFactor":
        """Factorise for V given by its inverse, positive semidefinite and finite."""
        hessian = self.quadratic + inverse.gram(self.conic)
        size, count = hessian.shape[1], self.equality.shape[1]
        matrix = hessian.new_zeros(len(hessian), size + count, size + count)
        matrix[:, :size, :size] = hessian
        matrix[:, :size, size:] = self.equality.transpose(1, 2)
        matrix[:, size:, :size] = self.equality
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        diagonal[:, :size] += _REGULARISATION
        diagonal[:, size:] -= _REGULARISATION
        # Unit diagonal: a few rows of H are larger than the others by many orders.
        scale = matrix[:, :size, :size].diagonal(dim1=1, dim2=2).rsqrt()
        scale = torch.cat([scale, scale.new_ones(len(scale), count)], dim=1)
        matrix = matrix * scale.unsqueeze(1) * scale.unsqueeze(2)
        if count:
            rows = largest(matrix[:, size:, :size].abs(), 2)
            rows = torch.where(rows > 0, rows, 1.0)
            matrix[:, size:] /= rows.unsqueeze(2)
            matrix[:, :, size:] /= rows.unsqueeze(1)
            scale = torch.cat([scale[:, :size], scale[:, size:] / rows], dim=1)
        # Rounding can leave an exact 0 where the rows of H are parallel.
        matrix.diagonal(dim1=1, dim2=2)[:, :size] += _ROUNDING
        lu, pivots, info = torch.linalg.lu_factor_ex(matrix)
        return KKTFactor(self, inverse, lu, pivots, scale, info == 0)


@dataclass(frozen=True)
class KKTFactor:
    """A factorised system. ``usable (B,)`` is false where the matrix was singular."""

    system: KKTSystem
    inverse: SpectralOperator
    lu: Tensor
    pivots: Tensor
    scale: Tensor
    usable: Tensor

    def solve(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """x and y for right-hand sides ``(B, n)`` and ``(B, m)``, without refinement."""
        system, size = self.system, first.shape[1]
        count = system.equality.shape[1]
        pull = self.inverse.apply(second[:, count:])
        right = torch.cat([first + transpose_times(system.conic, pull), second[:, :count]], dim=1)
        right = (right * self.scale).unsqueeze(2)
        solved = torch.linalg.lu_solve(self.lu, self.pivots, right).squeeze(2) * self.scale
        x, multiplier = solved[:, :size], solved[:, size:]
        conic = self.inverse.apply(times(system.conic, x)) - pull
        return x, torch.cat([multiplier, conic], dim=1)


def solve_projected(
    system: KKTSystem,
    derivative: SpectralOperator,
    first: Tensor,
    second: Tensor,
    refinements: int = 3,
) -> tuple[Tensor, Tensor, Tensor]:
    """The system of a solution whose slack and dual are projections of one vector.

        P x + A' y = first,   A_e x = second_e,   A_c x + D w = second_c,   y_c = -(I - D) w

    with D the derivative of the projection, eigenvalues in [0, 1]. Unlike the scaled systems of
    an interior point it does not become ill-conditioned at a solution. Of a singular system an
    approximate solution is returned.

    Args:
        system: P and A.
        derivative: D.
        first, second: ``(B, n)``, ``(B, m)``.
        refinements: steps of iterative refinement; the best iterate an instance is kept.

    Returns:
        x ``(B, n)``, y ``(B, m)`` and w ``(B, c)``.
    """
    count = system.equality.shape[1]
    inverse = derivative.map(lambda value: (1.0 - value) / value.clamp_min(_ACTIVE))
    rest = derivative.map(lambda value: 1.0 - value)
    factor = system.factor(inverse)
    x, y = torch.zeros_like(first), torch.zeros_like(second)
    w = torch.zeros_like(second[:, count:])
    best = [x, y, w]
    error = first.new_full((len(first), 1), torch.inf)
    left, right = first, second
    for _ in range(refinements + 1):
        more_x, more_y = factor.solve(left, right)
        more_w = right[:, count:] - times(system.conic, more_x) - more_y[:, count:]
        x, w = x + more_x, w + more_w
        y = torch.cat([y[:, :count] + more_y[:, :count], -rest.apply(w)], dim=1)
        left = first - times(system.quadratic, x) - transpose_times(system.equality, y[:, :count])
        left = left - transpose_times(system.conic, y[:, count:])
        slack = second[:, count:] - times(system.conic, x) - derivative.apply(w)
        right = torch.cat([second[:, :count] - times(system.equality, x), slack], dim=1)
        size = largest(torch.cat([left, right], dim=1).abs(), 1).unsqueeze(1)
        better = size < error
        found = zip((x, y, w), best, strict=True)
        best = [torch.where(better, new, old) for new, old in found]
        error = torch.where(better, size, error)
    return best[0], best[1], best[2]
