"""Cone programs, their solutions, and how both solving and differentiating prepare the data.

First *definitions* are substituted: equalities with a variable that no other row has, such as the
``t = Y z`` that cvxpy writes for ``|Y z|^2``. They are most of what a modelling tool adds, and what
is left has the size the user wrote down. Then rows, columns, b and the objective are scaled to 1.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffusion_dfl.cones.algebra import ConeAlgebra, Cones, times, transpose_times
from diffusion_dfl.solvers.solution import Status

_EQUILIBRATIONS = 4
# A definition's own coefficient may be this much smaller than the row's others.
_PIVOT = 1e-2
_ROUNDING = 1e-14


@dataclass(frozen=True)
class ConeProblem:
    """A batch of cone programs that share their cones.

    Attributes:
        quadratic: P, ``(B, n, n)``, symmetric positive semidefinite.
        linear: q, ``(B, n)``.
        matrix: A, ``(B, m, n)``; rows in the order zero, nonnegative, second-order.
        limit: b, ``(B, m)``.
        cones: sizes of the cones.
    """

    quadratic: Tensor
    linear: Tensor
    matrix: Tensor
    limit: Tensor
    cones: Cones

    def __post_init__(self) -> None:
        batch, rows, size = self.matrix.shape
        expected = {
            "quadratic": (batch, size, size),
            "linear": (batch, size),
            "limit": (batch, rows),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {shape}")
        if rows != self.cones.rows:
            raise ValueError(f"the matrix has {rows} rows; {self.cones} has {self.cones.rows}")
        for name in ("quadratic", "linear", "matrix", "limit"):
            if getattr(self, name).dtype != torch.float64:
                raise TypeError(f"{name} is {getattr(self, name).dtype}; solves need torch.float64")

    @cached_property
    def reduction(self) -> "Reduction":
        """The program without its definitions."""
        return Reduction.of(self)

    @cached_property
    def equilibrated(self) -> "Equilibrated":
        """The program in scaled units."""
        return Equilibrated.of(self)

    @cached_property
    def algebra(self) -> ConeAlgebra:
        """The conic rows' algebra on the data's device."""
        return ConeAlgebra(self.cones, self.matrix)

    def select(self, rows: Tensor) -> "ConeProblem":
        """The instances ``rows`` of the batch."""
        return ConeProblem(
            self.quadratic[rows],
            self.linear[rows],
            self.matrix[rows],
            self.limit[rows],
            self.cones,
        )


@dataclass(frozen=True)
class ConeSolution:
    """Solutions of a :class:`ConeProblem`, one row an instance.

    Attributes:
        x: ``(B, n)``; NaN where not solved.
        slack: s, ``(B, m)``, 0 on equality rows; NaN where not solved.
        dual: z, ``(B, m)``; NaN where not solved.
        status: ``(B,)`` int64 of :class:`~diffusion_dfl.solvers.solution.Status`.
        iterations: ``(B,)`` int64.
        residuals: ``(B, 3)``: stationarity, primal feasibility and duality gap, relative to the
            largest of the terms they are made of, after equilibration.
    """

    x: Tensor
    slack: Tensor
    dual: Tensor
    status: Tensor
    iterations: Tensor
    residuals: Tensor

    @property
    def solved(self) -> Tensor:
        """``(B,)`` bool."""
        return self.status == Status.SOLVED


@dataclass(frozen=True)
class Reduction:
    """A program with its definitions ``pivot t + R w = b`` substituted.

    Attributes:
        problem: the program in the kept variables w; the original one if it has no definitions.
        original: the program it came from.
        rows, variables: the definitions and the variables t they define, ``(d,)`` each.
        kept_rows, kept_variables: the others.
        pivot: coefficients of t, ``(B, d)``.
        definition: ``R / pivot``, ``(B, d, n - d)``.
    """

    problem: ConeProblem
    original: ConeProblem
    rows: Tensor
    variables: Tensor
    kept_rows: Tensor
    kept_variables: Tensor
    pivot: Tensor
    definition: Tensor

    @staticmethod
    def of(problem: ConeProblem) -> "Reduction":
        """Substitute what is a definition in every instance of the batch."""
        matrix, quadratic, zero = problem.matrix, problem.quadratic, problem.cones.zero
        equality = matrix[:, :zero].abs()
        size = equality.amax(0)
        used = (matrix[:, zero:] != 0).any(0).any(0)
        usable = (equality.amin(0) > _PIVOT * largest(size, 1).unsqueeze(1)) & ~used
        usable &= (size > 0).sum(0) == 1
        # One variable a row, the first that can be.
        usable &= usable.to(torch.long).cumsum(1) == 1
        rows, variables = torch.nonzero(usable, as_tuple=True)
        kept = torch.nonzero(~usable.any(0)).flatten()
        left = torch.nonzero(~usable.any(1)).flatten()
        every = torch.arange(zero, len(matrix[0]), device=matrix.device)
        kept_rows = torch.cat([left, every])
        pivot = matrix[:, rows, variables]
        definition = matrix[:, rows][:, :, kept] / pivot.unsqueeze(2)
        found = Reduction(problem, problem, rows, variables, kept_rows, kept, pivot, definition)
        if not len(rows):
            return found
        cross = quadratic[:, kept][:, :, variables] @ definition
        inner = definition.transpose(1, 2) @ (quadratic[:, variables][:, :, variables] @ definition)
        linear, limit = found.right(-problem.linear, problem.limit)
        # What cancels in the substitution leaves rounding, which is no cost.
        terms = problem.linear.abs() + times(quadratic.abs(), found._base(problem.limit).abs())
        size = terms[:, kept] + transpose_times(definition.abs(), terms[:, variables])
        linear = torch.where(linear.abs() > _ROUNDING * size, linear, 0.0)
        cones = Cones(len(left), problem.cones.nonnegative, problem.cones.second_order)
        reduced = ConeProblem(
            quadratic[:, kept][:, :, kept] - cross - cross.transpose(1, 2) + inner,
            -linear,
            matrix[:, kept_rows][:, :, kept],
            limit,
            cones,
        )
        return Reduction(reduced, problem, rows, variables, kept_rows, kept, pivot, definition)

    def right(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Right-hand sides of ``P x + A' y = first, A x + .. = second`` in the kept variables."""
        if not len(self.rows):
            return first, second
        rest = first - times(self.original.quadratic, self._base(second))
        pulled = transpose_times(self.definition, rest[:, self.variables])
        return rest[:, self.kept_variables] - pulled, second[:, self.kept_rows]

    def solution(
        self, x: Tensor, y: Tensor, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x and y of the original system from those of the reduced one."""
        if not len(self.rows):
            return x, y
        whole = self._base(second)
        whole[:, self.kept_variables] = x
        whole[:, self.variables] -= times(self.definition, x)
        multiplier = torch.zeros_like(second)
        multiplier[:, self.kept_rows] = y
        rest = first - times(self.original.quadratic, whole)
        multiplier[:, self.rows] = rest[:, self.variables] / self.pivot
        return whole, multiplier

    def _base(self, second: Tensor) -> Tensor:
        """The defined variables where all others are 0."""
        base = torch.zeros_like(self.original.linear)
        base[:, self.variables] = second[:, self.rows] / self.pivot
        return base


@dataclass(frozen=True)
class Equilibrated:
    """Equilibrated data: ``x = columns beta x^``, ``s = beta s^ / rows``, ``z = rows gamma z^``."""

    problem: ConeProblem
    rows: Tensor
    columns: Tensor
    beta: Tensor
    gamma: Tensor

    @staticmethod
    def of(problem: ConeProblem) -> "Equilibrated":
        """Ruiz scaling of ``[P A'; A 0]``, then of b and of the objective."""
        algebra = problem.algebra
        matrix = problem.matrix
        # Units of the objective and of x do not decide between P and A.
        width = largest(problem.quadratic.abs().flatten(1), 1)
        height = _unit(largest(matrix.abs().flatten(1), 1))
        quadratic = problem.quadratic * (height / _unit(width)).view(-1, 1, 1)
        rows = torch.ones_like(problem.limit)
        columns = torch.ones_like(problem.linear)
        zero = problem.cones.zero + problem.cones.nonnegative
        for _ in range(_EQUILIBRATIONS):
            size = largest(matrix.abs(), 2)
            if len(algebra.heads):
                # One factor a second-order cone, or it would no longer be one.
                squares = algebra.sums(size[:, zero:] ** 2) / algebra.member.sum(1)
                size = torch.cat([size[:, :zero], squares.sqrt()[:, algebra.owner]], dim=1)
            width = torch.maximum(largest(matrix.abs(), 1), largest(quadratic.abs(), 1))
            row, column = _unit(size).rsqrt(), _unit(width).rsqrt()
            rows, columns = rows * row, columns * column
            matrix = matrix * row.unsqueeze(2) * column.unsqueeze(1)
            quadratic = quadratic * column.unsqueeze(2) * column.unsqueeze(1)
        quadratic = problem.quadratic * columns.unsqueeze(2) * columns.unsqueeze(1)
        linear, limit = problem.linear * columns, problem.limit * rows
        slope, curvature = largest(linear.abs(), 1), largest(quadratic.abs().flatten(1), 1)
        # Without limits the size of x is that of the free minimum.
        free = torch.where(curvature > 0, slope / _unit(curvature), 0.0)
        beta = largest(limit.abs(), 1)
        beta = _unit(torch.where(beta > 0, beta, free))
        gamma = _unit(torch.maximum(slope, beta * curvature))
        scaled = ConeProblem(
            quadratic * (beta / gamma).view(-1, 1, 1),
            linear / gamma.unsqueeze(1),
            matrix,
            limit / beta.unsqueeze(1),
            problem.cones,
        )
        return Equilibrated(scaled, rows, columns, beta, gamma)


def largest(value: Tensor, dim: int) -> Tensor:
    return value.amax(dim) if value.shape[dim] else value.sum(dim)


def _unit(value: Tensor) -> Tensor:
    """Scales with 0 replaced by 1."""
    return torch.where(value > 0, value, 1.0)
