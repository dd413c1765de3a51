"""Two-stage programs as one problem in arrow form: its data, its points and their residuals."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffusion_dfl.programs.constraints import Constraints, apply, transpose_apply
from diffusion_dfl.solvers.rows import Rows, largest
from diffusion_dfl.solvers.scenarios import Scenarios, pull, push


@dataclass(frozen=True)
class Arrow:
    """A batch of two-stage programs with unit gradients of their rows.

    ``first`` are the constraints of z, ``weights (B, M)``; ``length`` and ``slope (B,)`` are magnitudes
    of decisions and of the cost.
    """

    scenarios: Scenarios
    first: Rows
    weights: Tensor
    length: Tensor
    slope: Tensor

    def select(self, rows: Tensor) -> "Arrow":
        return Arrow(
            self.scenarios.select(rows),
            self.first.select(rows),
            self.weights[rows],
            self.length[rows],
            self.slope[rows],
        )

    @property
    def constraints(self) -> Constraints:
        return self.first.constraints

    def joined(self, z: Tensor, w: Tensor) -> Tensor:
        """``(B, n), (B, M, r) -> (B, M, N)``."""
        return torch.cat([z.unsqueeze(1).expand(-1, w.shape[1], -1), w], dim=2)

    def first_values(self, z: Tensor) -> Tensor:
        """Inequalities of the first stage in their units, -1 where there is none: ``(B, q)``."""
        values = self.constraints.inequality_values(z)
        count = self.constraints.counts.smooth
        if count:
            smooth = values[:, -count:] / self.first.unit[:, -count:]
            values = torch.cat([values[:, :-count], smooth], dim=1)
        return torch.where(self.first.present, values, -1.0)

    def first_slopes(self, z: Tensor) -> Tensor | None:
        """Of the smooth constraints in their units, ``(B, q, n)``."""
        smooth = self.constraints.smooth
        if smooth is None:
            return None
        return smooth.jacobian(z) / self.first.unit[:, -smooth.size :].unsqueeze(-1)

    def first_push(self, slopes: Tensor | None, dz: Tensor) -> Tensor:
        """Change of :meth:`first_values` along a direction."""
        rows = self.constraints
        parts = [apply(rows.matrix, dz)]
        if rows.lower is not None:
            parts.append(-dz)
        if rows.upper is not None:
            parts.append(dz)
        if slopes is not None:
            parts.append(apply(slopes, dz))
        return torch.where(self.first.present, torch.cat(parts, dim=1), 0.0)

    def first_pull(self, slopes: Tensor | None, duals: Tensor) -> Tensor:
        """``J' duals``: ``(B, q) -> (B, n)``."""
        rows = self.constraints
        affine, lower, upper, smooth = duals.split(list(rows.counts), dim=1)
        total = transpose_apply(rows.matrix, affine)
        if rows.lower is not None:
            total = total - lower
        if rows.upper is not None:
            total = total + upper
        return total if slopes is None else total + transpose_apply(slopes, smooth)

    def first_gram(self, slopes: Tensor | None, weight: Tensor) -> Tensor:
        """``J' diag(weight) J``: ``(B, q) -> (B, n, n)``."""
        rows = self.constraints
        affine, lower, upper, smooth = weight.split(list(rows.counts), dim=1)
        total = rows.matrix.transpose(1, 2) @ (rows.matrix * affine.unsqueeze(-1))
        for bound, part in ((rows.lower, lower), (rows.upper, upper)):
            if bound is not None:
                total = total + torch.diag_embed(part)
        if slopes is not None:
            total = total + slopes.transpose(1, 2) @ (slopes * smooth.unsqueeze(-1))
        return total


@dataclass
class Point:
    """Decisions with slacks and multipliers, or a direction of them.

    z ``(B, n)``, ``first_*`` of its constraints ``(B, q)``, ``(B, p)``; w ``(B, M, r)``, ``slack`` and
    ``dual`` of the scenarios' rows and bounds ``(B, M, k + b)``, ``nu`` of their equalities.
    """

    z: Tensor
    first_slack: Tensor
    first_dual: Tensor
    first_nu: Tensor
    w: Tensor
    slack: Tensor
    dual: Tensor
    nu: Tensor

    def select(self, rows: Tensor) -> "Point":
        return Point(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def write(self, rows: Tensor, other: "Point") -> None:
        """Put another one in the instances ``rows``, in place."""
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(other, f.name)

    def replaced(self, rows: Tensor, other: "Point") -> "Point":
        """This one with the instances ``rows`` taken from another."""
        made = Point(**{f.name: getattr(self, f.name).clone() for f in fields(self)})
        made.write(rows, other)
        return made

    def moved(self, direction: "Point", length: Tensor) -> "Point":
        return Point(
            **{
                f.name: (
                    value + length.view(-1, *[1] * (value.dim() - 1)) * getattr(direction, f.name)
                )
                for f in fields(self)
                for value in [getattr(self, f.name)]
            }
        )


def residual(arrow: Arrow, point: Point) -> tuple[Tensor, ...]:
    """Stationarity in z and w, and values with slacks: of the first stage, its equalities, the
    scenarios' rows and bounds, and their equalities."""
    scenarios = arrow.scenarios
    v = arrow.joined(point.z, point.w)
    count, n = scenarios.num_rows, point.z.shape[1]
    in_v = scenarios.gradient(v) + pull(scenarios.row_slopes(v), point.dual[..., :count])
    in_v = in_v + pull(scenarios.equalities.slope, point.nu)
    in_w = in_v[..., n:] + scenarios.bound_pull(point.dual[..., count:])
    in_z = torch.einsum("bm,bmn->bn", arrow.weights, in_v[..., :n])
    in_z = in_z + arrow.first_pull(arrow.first_slopes(point.z), point.first_dual)
    in_z = in_z + transpose_apply(arrow.constraints.equality_matrix, point.first_nu)
    first = torch.where(arrow.first.present, arrow.first_values(point.z) + point.first_slack, 0.0)
    values = torch.cat([scenarios.row_values(v), scenarios.bounds(point.w)], dim=2)
    return (
        in_z,
        in_w,
        first,
        arrow.constraints.equality_residual(point.z),
        values + point.slack,
        scenarios.equalities.at(v),
    )


def stationarity_terms(arrow: Arrow, point: Point) -> tuple[Tensor, Tensor]:
    """What the gradients of the Lagrangian in z and w are sums of, without signs."""
    scenarios, v = arrow.scenarios, arrow.joined(point.z, point.w).abs()
    count, n = scenarios.num_rows, point.z.shape[1]
    if scenarios.slopes is not None:
        terms = scenarios.slopes.offset.abs() + push(scenarios.slopes.slope.abs(), v)
    else:
        terms = scenarios.gradient(arrow.joined(point.z, point.w)).abs()
        terms = terms + arrow.slope.view(-1, 1, 1)
    slopes = scenarios.row_slopes(arrow.joined(point.z, point.w)).abs()
    terms = terms + pull(slopes, point.dual[..., :count])
    terms = terms + pull(scenarios.equalities.slope.abs(), point.nu.abs())
    in_w = terms[..., n:] + scenarios.bound_pull(point.dual[..., count:], signed=False)
    in_z = torch.einsum("bm,bmn->bn", arrow.weights, terms[..., :n])
    rows = arrow.constraints
    affine, lower, upper, smooth = point.first_dual.split(list(rows.counts), dim=1)
    in_z = in_z + transpose_apply(rows.matrix.abs(), affine)
    in_z = in_z + transpose_apply(rows.equality_matrix.abs(), point.first_nu.abs())
    for bound, part in ((rows.lower, lower), (rows.upper, upper)):
        if bound is not None:
            in_z = in_z + part
    first = arrow.first_slopes(point.z)
    if first is not None:
        in_z = in_z + transpose_apply(first.abs(), smooth)
    return in_z, in_w


def size_of(parts: tuple[Tensor, ...]) -> Tensor:
    """Largest entry of several tensors, ``(B,)``."""
    return torch.stack([largest(part) for part in parts]).amax(0)


def present(arrow: Arrow) -> Tensor:
    return arrow.first.present.expand(len(arrow.weights), -1)


def pull_both(rows: Tensor, equalities: Tensor, dual: Tensor, nu: Tensor) -> Tensor:
    """``rows' dual + equalities' nu``, ``(B, M, N)``."""
    return pull(rows, dual) + pull(equalities, nu)
