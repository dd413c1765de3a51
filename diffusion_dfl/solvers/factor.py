"""Factors of symmetric systems, with equalities beside them, and what they say of curvature."""

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import apply, transpose_apply
from diffusion_dfl.solvers.rows import largest

# Below this share of its typical entry, a system's diagonal is as good as 0.
_RIDGE = 1e-12
# A diagonal system whose entries are above this share of their scale is solved by division.
_FIRM = 1e-8
# A negative eigenvalue this small beside the largest entry is that of data rounded to float32.
_INDEFINITE = 1e-6


class Factor:
    """Factors of ``[K A'; A 0]``, once for several right sides.

    The penalty ``rho A'A`` makes K definite where it is singular but A is not, and leaves the
    solution as it is; a ridge keeps redundant equalities and flat directions apart from 0.

    Args:
        system: K ``(B, n, n)``, or its diagonal ``(B, n)`` if it is one.
        equality: A ``(B|1, p, n)``.
        scale: of K's entries, ``(B,)``.
    """

    def __init__(self, system: Tensor, equality: Tensor, scale: Tensor):
        self._equality = equality
        scale = scale.unsqueeze(1)
        self._root: Tensor | None = None
        if system.dim() == 2:
            if bool((system > _FIRM * scale).all()):
                self._factor_diagonal(system)
                return
            system = torch.diag_embed(system)
        self._rho = scale
        self._system = penalised = with_diagonal(system, _RIDGE * scale)
        if equality.shape[1]:
            square = (equality.transpose(1, 2) @ equality).expand_as(system)
            penalised = torch.addcmul(penalised, scale.unsqueeze(2), square)
        self._cholesky = cholesky(penalised)
        if equality.shape[1]:
            columns = equality.transpose(1, 2).expand(len(system), -1, -1)
            self._columns = torch.linalg.solve_triangular(self._cholesky, columns, upper=False)
            self._factor_schur()

    def _factor_diagonal(self, diagonal: Tensor) -> None:
        self._system = diagonal
        self._root = diagonal.rsqrt()
        self._columns = self._equality.transpose(1, 2) * self._root.unsqueeze(2)
        if self._equality.shape[1]:
            self._factor_schur()

    def _factor_schur(self) -> None:
        schur = self._columns.transpose(1, 2) @ self._columns
        typical = schur.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-300).unsqueeze(1)
        # Rows of zeros stand for equalities that other instances have.
        self._schur = cholesky(with_diagonal(schur, 1e-13 * typical))

    def solve(self, right: Tensor, equality_right: Tensor) -> tuple[Tensor, Tensor]:
        """``K d + A' e = right``, ``A d = equality_right``: ``(B, n), (B, p)``, refined once."""
        if not self._equality.shape[1]:
            if self._root is not None:
                return right / self._system, equality_right
            step = torch.cholesky_solve(right.unsqueeze(-1), self._cholesky).squeeze(-1)
            return step, equality_right
        step, dual = self._solve(right, equality_right)
        rest = right - self._times(step) - transpose_apply(self._equality, dual)
        more, more_dual = self._solve(rest, equality_right - apply(self._equality, step))
        return step + more, dual + more_dual

    def _times(self, step: Tensor) -> Tensor:
        if self._root is not None:
            return self._system * step
        return apply(self._system, step)

    def _solve(self, right: Tensor, equality_right: Tensor) -> tuple[Tensor, Tensor]:
        if self._root is None:
            right = right + self._rho * transpose_apply(self._equality, equality_right)
        half = self._halved(right.unsqueeze(-1), forth=True)
        gap = self._columns.transpose(1, 2) @ half - equality_right.unsqueeze(-1)
        dual = torch.cholesky_solve(gap, self._schur)
        step = self._halved(half - self._columns @ dual, forth=False)
        return step.squeeze(-1), dual.squeeze(-1)

    def _halved(self, right: Tensor, forth: bool) -> Tensor:
        """``L^-1 right``, or ``L'^-1 right`` on the way back, with ``K = L L'``: ``(B, n, 1)``."""
        if self._root is not None:
            return self._root.unsqueeze(2) * right
        factor = self._cholesky if forth else self._cholesky.transpose(1, 2)
        return torch.linalg.solve_triangular(factor, right, upper=not forth)


def with_diagonal(matrix: Tensor, diagonal: Tensor) -> Tensor:
    """``matrix + diag(diagonal)``: ``(B, n, n), (B, n|1) -> (B, n, n)``."""
    total = matrix.clone()
    total.diagonal(dim1=1, dim2=2).add_(diagonal)
    return total


def cholesky(system: Tensor) -> Tensor:
    """Cholesky factors; a system that rounding made indefinite gets a growing ridge."""
    factor, info = torch.linalg.cholesky_ex(system)
    ridge = 1e-14
    while ridge < 1.0 and bool((info > 0).any()):
        top = system.diagonal(dim1=1, dim2=2).abs().amax(1).clamp_min(1e-300) * ridge
        again, info_again = torch.linalg.cholesky_ex(with_diagonal(system, top.unsqueeze(1)))
        failed = info > 0
        factor = torch.where(failed.view(-1, 1, 1), again, factor)
        info = torch.where(failed, info_again, info)
        ridge *= 100
    return factor


def has_negative_curvature(hessian: Tensor, noise: Tensor) -> Tensor:
    """Whether a symmetric matrix has an eigenvalue below ``-1e-6`` of its largest entry: ``(B,)``.

    That much is left of a covariance that went through float32. ``noise (B,)`` is an eigenvalue that
    rounding can make. One Cholesky factorisation decides; a matrix that is not finite says nothing.
    """
    shift = (_INDEFINITE * largest(hessian) + noise).clamp_min(1e-300)
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    info = torch.linalg.cholesky_ex(with_diagonal(hessian, shift.unsqueeze(1)))[1]
    negative = (info > 0) | (diagonal.amin(1) < -shift)
    return negative & hessian.isfinite().flatten(1).all(1)
