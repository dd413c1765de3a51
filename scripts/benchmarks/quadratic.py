"""Cases as quadratic programs, for peers that take matrices.

    min_x  x' P x / 2 + q' x    s.t.  A x = b,  G x <= h,     decision = first n of x

The statements are the leanest there are, not transcriptions of the formulas: constants and hinges
that merge are merged. What depends on the scenarios is a differentiable function of them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_dfl.programs import MeanVariancePortfolio, PowerProgram, Program


@dataclass(frozen=True)
class SparseRows:
    """Matrices with one sparsity pattern, in row-major order of their entries.

    Attributes:
        rows, columns: ``(nnz,)`` int64.
        values: ``(B, nnz)``, or ``(1, nnz)`` where the instances share them.
        shape: rows, columns.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, int]

    @staticmethod
    def of(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> "SparseRows":
        """From entries in any order, each place at most once."""
        order = torch.argsort(rows * shape[1] + columns)
        return SparseRows(rows[order], columns[order], values[:, order], shape)

    @staticmethod
    def dense_block(values: Tensor, column: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Entries of ``values (B, r, c)`` as rows 0.. and columns ``column``..: for :meth:`of`."""
        height, width = values.shape[1:]
        rows = torch.arange(height).repeat_interleave(width)
        return rows, torch.arange(width).repeat(height) + column, values.flatten(1)

    @property
    def offsets(self) -> Tensor:
        """CSR row offsets, ``(rows + 1,)``."""
        counts = torch.bincount(self.rows, minlength=self.shape[0])
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def dense(self) -> Tensor:
        """``(B | 1, rows, columns)``."""
        out = self.values.new_zeros(len(self.values), *self.shape)
        return out.index_put((slice_of(out), self.rows, self.columns), self.values)


def slice_of(values: Tensor) -> Tensor:
    """Row numbers ``(B, 1)`` that broadcast against a pattern."""
    return torch.arange(len(values)).unsqueeze(1)


@dataclass(frozen=True)
class QuadraticProgram:
    """A batch of quadratic programs; right-hand sides are ``(B, .)``."""

    cost: SparseRows
    linear: Tensor
    equality: SparseRows
    equality_value: Tensor
    inequality: SparseRows
    limit: Tensor

    @property
    def size(self) -> int:
        return self.linear.shape[1]


def quadratic_program(program: Program, scenarios: Tensor) -> QuadraticProgram | None:
    """The case as a quadratic program, or None if its cost is not quadratic."""
    if isinstance(program, PowerProgram):
        return _power(program, scenarios)
    if isinstance(program, MeanVariancePortfolio):
        return _portfolio(program, scenarios)
    return None


def _power(program: PowerProgram, scenarios: Tensor) -> QuadraticProgram:
    """x = (z, t), t_mh >= (y_mh - z_h)_+:  |z|^2/2 + (ge - mean y)' z + (gs + ge)/M 1't."""
    batch, num, n = scenarios.shape
    size, hinges = n + num * n, num * n
    each, hinge = torch.arange(n), torch.arange(hinges)
    one = scenarios.new_ones(1, 1)
    cost = SparseRows.of(each, each, one.expand(1, n), (size, size))
    price = program.hinge_slope / num
    slope = program.excess - scenarios.mean(1)
    linear = torch.cat([slope, scenarios.new_full((batch, hinges), price)], dim=1)
    step = torch.arange(n - 1)
    rise, fall = 2 * hinges + step, 2 * hinges + n - 1 + step
    rows = torch.cat([hinge, hinge, hinges + hinge, rise, rise, fall, fall])
    columns = torch.cat([hinge % n, n + hinge, n + hinge, step + 1, step, step, step + 1])
    signs = torch.cat([-torch.ones(3 * hinges), *(s * torch.ones(n - 1) for s in (1, -1, 1, -1))])
    num_rows = 2 * hinges + 2 * (n - 1)
    inequality = SparseRows.of(rows, columns, signs.double().unsqueeze(0), (num_rows, size))
    rest = torch.cat([torch.zeros(hinges), torch.full((2 * (n - 1),), program.ramp)]).double()
    limit = torch.cat([-scenarios.flatten(1), rest.expand(batch, -1)], dim=1)
    none = torch.zeros(0, dtype=torch.int64)
    equality = SparseRows(none, none, one[:, :0], (0, size))
    return QuadraticProgram(cost, linear, equality, limit[:, :0], inequality, limit)


def _portfolio(program: MeanVariancePortfolio, scenarios: Tensor) -> QuadraticProgram:
    """In z with the second moment, or in (z, Y z / sqrt M) where that is smaller (n > M)."""
    batch, num, n = scenarios.shape
    mean = scenarios.mean(1)
    simplex = (torch.zeros(n, dtype=torch.int64), torch.arange(n), scenarios.new_ones(batch, n))
    each = torch.arange(n)
    if n <= num:
        moment = program.risk_aversion / num * scenarios.mT @ scenarios
        moment = moment + program.ridge * torch.eye(n).double()
        cost = SparseRows.of(*SparseRows.dense_block(moment), (n, n))
        size, linear = n, -mean
        equality = SparseRows.of(*simplex, (1, size))
        value = scenarios.new_ones(batch, 1)
    else:
        size, factor = n + num, torch.arange(num)
        curvature = torch.cat([mean.new_full((n,), program.ridge), mean.new_ones(num)])
        curvature[n:] *= program.risk_aversion
        every = torch.arange(size)
        cost = SparseRows.of(every, every, curvature.unsqueeze(0), (size, size))
        linear = torch.cat([-mean, mean.new_zeros(batch, num)], dim=1)
        block = SparseRows.dense_block(scenarios / num**0.5)
        parts = zip(
            block,
            (factor, n + factor, -scenarios.new_ones(batch, num)),
            (simplex[0] + num, *simplex[1:]),
            strict=True,
        )
        rows, columns, values = (torch.cat(part, dim=-1) for part in parts)
        equality = SparseRows.of(rows, columns, values, (num + 1, size))
        value = torch.cat([mean.new_zeros(batch, num), mean.new_ones(batch, 1)], dim=1)
    bounds = SparseRows.of(each, each, -scenarios.new_ones(1, n), (n, size))
    return QuadraticProgram(cost, linear, equality, value, bounds, mean.new_zeros(batch, n))
