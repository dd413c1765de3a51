"""Random stochastic programs whose truth is known by construction, tiny and huge numbers mixed.

    min_w  |R w|^2 / 2 + sum_m omega_m (c_m' w + sum_k p_k (E_k w - y_mk)_+)
    s.t.   G w <= h,  lower <= w <= upper,  A w = b

in numbers of size 1, but for the factors ``10^U(-orders, orders)`` that every price p, the curvature
and the room between a feasible decision and every limit have. It is stated in ``z = D w``, with every
row, equality, hinge and the cost multiplied by a factor of its own, as wide apart as those of D.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.random import Generator

from diffusion_dfl.programs import Hinge, TorchProgram
from diffusion_dfl.solvers import Solution, Status, solve

Array = np.ndarray[Any, Any]


class Truth(Enum):
    """What is true of an instance: the status that says so."""

    SOLVABLE = Status.SOLVED
    INFEASIBLE = Status.INFEASIBLE
    UNBOUNDED = Status.UNBOUNDED


@dataclass(frozen=True)
class Family:
    """A batch of programs with common matrices.

    Attributes:
        root: R, ``(r, n)``.
        slopes: c, ``(B, M, n)``.
        price, arguments, targets: p ``(K,)``, E ``(K, n)``, y ``(B, M, K)``.
        weights: omega, ``(B, M)``.
        matrix, limit: ``(m, n)``, ``(B, m)``.
        lower, upper: ``(B, n)``, each coordinate's infinite in all instances or in none.
        equality_matrix, equality_value: ``(p, n)``, ``(B, p)``.
        size: what a coordinate is measured in, ``(n,)``.
        inside: a feasible decision of the solvable instances, ``(B, n)``.
        truth: one an instance.
    """

    root: Array
    slopes: Array
    price: Array
    arguments: Array
    targets: Array
    weights: Array
    matrix: Array
    limit: Array
    lower: Array
    upper: Array
    equality_matrix: Array
    equality_value: Array
    size: Array
    inside: Array
    truth: list[Truth]

    def solve(self) -> Solution:
        """What the library says of the family, stated as a user would."""
        n, m = len(self.size), len(self.matrix)
        root, arguments = torch.as_tensor(self.root), torch.as_tensor(self.arguments)
        # A context is finite; which bounds there are is the family's.
        low, high = (torch.as_tensor(np.isfinite(x[0])) for x in (self.lower, self.upper))
        context = np.concatenate([self.lower, self.upper, self.limit, self.equality_value], axis=1)
        parts: dict[str, Any] = {}
        if m:
            parts |= {"matrix": self.matrix, "limit": lambda x: x[2 * n : 2 * n + m]}
        if len(self.equality_matrix):
            parts |= {"equality_matrix": self.equality_matrix}
            parts |= {"equality_value": lambda x: x[2 * n + m :]}
        if len(self.price):
            parts |= {"hinges": Hinge(self.price, lambda y, z: arguments @ z - y[n:])}
        program = TorchProgram(
            n,
            n + len(self.price),
            smooth=lambda y, z: 0.5 * ((root @ z) ** 2).sum() + y[:n] @ z,
            lower=lambda x: torch.where(low, x[:n], -torch.inf),
            upper=lambda x: torch.where(high, x[n : 2 * n], torch.inf),
            **parts,
        )
        return solve(
            program,
            np.concatenate([self.slopes, self.targets], axis=2),
            self.weights,
            context=np.where(np.isfinite(context), context, 0.0),
        )

    @property
    def slope(self) -> Array:
        """Mean of the scenarios' c: ``(B, n)``."""
        return np.einsum("bm,bmn->bn", self.weights, self.slopes)

    def excess(self, z: Array) -> Array:
        """Arguments of the hinges at ``z (B, n)``: ``(B, M, K)``."""
        return (z @ self.arguments.T)[:, None] - self.targets

    def objective(self, z: Array) -> tuple[Array, Array]:
        """The cost of decisions ``(B, n)``, and the sum of the sizes of its terms: ``(B,)`` each."""
        square = 0.5 * ((z @ self.root.T) ** 2).sum(1)
        excess = self.excess(z)
        hinged = np.einsum("bm,k,bmk->b", self.weights, self.price, np.maximum(excess, 0.0))
        sizes = np.abs(excess) + np.abs(self.targets)
        terms = np.einsum("bm,k,bmk->b", self.weights, self.price, sizes)
        terms = terms + square + np.abs(self.slope * z).sum(1)
        return square + (self.slope * z).sum(1) + hinged, terms

    def violation(self, z: Array) -> Array:
        """Largest excess of a constraint at ``z (B, n)``, beside its own terms: ``(B,)``."""
        reach = np.abs(z) + self.size
        ratios = [np.maximum(self.lower - z, 0.0) / reach, np.maximum(z - self.upper, 0.0) / reach]
        for matrix, limit, least in (
            (self.matrix, self.limit, 0.0),
            (self.equality_matrix, self.equality_value, -np.inf),
        ):
            # A row of zeros has no terms.
            terms = np.maximum(np.abs(limit) + reach @ np.abs(matrix).T, 1e-300)
            ratios.append(np.abs(np.maximum(z @ matrix.T - limit, least)) / terms)
        return np.concatenate(ratios, axis=1).max(1)

    def gap(self, solution: Solution) -> Array:
        """How far the cost may be above the optimum, by the multipliers alone, beside its terms.

        The Lagrangian is convex, and at z its gradient r: it falls by no more than ``|r|' |z - z'|``
        on the way to any z', here as far as z is from 0 and from a decision inside. ``(B,)``,
        infinite where a multiplier has the wrong sign.
        """
        z, nu = solution.decision.numpy(), solution.equality_duals.numpy()
        m, n = self.matrix.shape
        duals, low, high = np.split(solution.duals.numpy(), [m, m + n], axis=1)
        excess = self.excess(z)
        shares = np.zeros_like(excess) if solution.shares is None else solution.shares.numpy()
        cost = self.weights[:, :, None] * self.price
        rest = (z @ self.root.T) @ self.root + self.slope - low + high
        rest = rest + np.einsum("bmk,kn->bn", cost * shares, self.arguments)
        rest = rest + duals @ self.matrix + nu @ self.equality_matrix
        gap = (np.abs(rest) * (np.abs(z) + np.abs(self.inside) + self.size)).sum(1)
        unused = (1 - shares) * np.maximum(excess, 0.0) + shares * np.maximum(-excess, 0.0)
        gap = gap + (cost * unused).sum((1, 2))
        for multiplier, value in (
            (duals, z @ self.matrix.T - self.limit),
            (low, np.where(low > 0, self.lower - z, 0.0)),
            (high, np.where(high > 0, z - self.upper, 0.0)),
            (nu, z @ self.equality_matrix.T - self.equality_value),
        ):
            gap = gap + np.abs(multiplier * value).sum(1)
        wrong = (solution.duals < 0).any(1).numpy()
        wrong = wrong | (shares < 0).any((1, 2)) | (shares > 1).any((1, 2))
        terms = self.objective(z)[1] + (duals * np.abs(self.limit)).sum(1)
        return np.where(wrong, np.inf, gap / terms)

    def in_own_units(self) -> "Family":
        """The family in w, each row and the cost divided by its largest number."""
        rows, equalities, units = (
            1 / np.where(matrix.any(1), np.abs(matrix * self.size).max(1, initial=0.0), 1.0)
            for matrix in (self.matrix, self.equality_matrix, self.arguments)
        )
        cost = 1 / np.abs(self.slope * self.size).max()
        return _restated(self, 1 / self.size, rows, equalities, cost, units)


def family(seed: int, batch: int, orders: float) -> Family:
    """The family of a seed: 1 to 6 decisions, 1 to 20 scenarios; flawed instances beside solvable."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    flaw = [Truth.SOLVABLE, Truth.INFEASIBLE, Truth.UNBOUNDED][rng.choice(3, p=[0.6, 0.2, 0.2])]
    ray = np.zeros(n)
    if flaw is Truth.UNBOUNDED:
        axis = rng.random() < 0.5
        ray = rng.choice([-1.0, 1.0]) * np.eye(n)[rng.integers(n)] if axis else rng.normal(size=n)
    found = _solvable(rng, batch, orders, ray)
    flawed = rng.random(batch) < 0.5
    if flaw is Truth.INFEASIBLE:
        found = _contradicted(rng, orders, found, flawed)
    if flaw is Truth.UNBOUNDED:
        found = _falling(rng, found, flawed, ray)
    counts = len(found.matrix), len(found.equality_matrix)
    rows, equalities = (_factors(rng, orders, count) for count in counts)
    units, size = _factors(rng, orders, len(found.price)), _factors(rng, orders, n)
    return _restated(found, size, rows, equalities, float(_factors(rng, orders)), units)


def _factors(rng: Generator, orders: float, *shape: int) -> Array:
    """``10^U(-orders, orders)``."""
    return np.asarray(10.0 ** rng.uniform(-orders, orders, shape))


def _solvable(rng: Generator, batch: int, orders: float, ray: Array) -> Family:
    """Programs with a strictly feasible decision and strictly feasible multipliers.

    Nothing hinders a decision on its way along a ``ray (n,)`` that is not 0, but its cost.
    """
    n = len(ray)
    root, rows, equalities, arguments = (
        rng.normal(size=(int(rng.integers(0, most)), n)) for most in (n + 1, 6, (n + 3) // 2, 4)
    )
    equalities = equalities[: n - 1]
    # Few coordinates in a row, or all.
    rows, arguments = (
        x * (rng.random(x.shape) < rng.choice([0.5, 1.0])) for x in (rows, arguments)
    )
    low, high = rng.random((2, n)) < rng.choice([0.0, 0.5, 1.0])
    open_low, open_high = ray < 0, ray > 0
    if ray.any():
        root, equalities = (x - np.outer(x @ ray, ray) / (ray @ ray) for x in (root, equalities))
        rows = rows - np.outer(np.maximum(rows @ ray, 0.0), ray) / (ray @ ray)
        if n == 1:
            root, equalities = root[:0], equalities[:0]
        low, high = low & ~open_low, high & ~open_high
    spanning = np.concatenate([root, rows, equalities, np.eye(n)[low | high], arguments])
    if not len(spanning) or np.linalg.matrix_rank(spanning, tol=0.1) < n:
        # In a direction without curvature or limit rounding would decide whether there is an optimum.
        low, high = ~open_low, ~open_high
    inside = rng.normal(size=(batch, n))
    row_room, low_room, high_room = (_factors(rng, orders, batch, k) for k in (len(rows), n, n))
    if rng.random() < 0.3:
        # As many limits without room as leave directions into the set.
        touched = rng.permutation(len(rows) + n)[: n - len(equalities)]
        row_room[:, touched[touched < len(rows)]] = 0.0
        low_room[:, touched[touched >= len(rows)] - len(rows)] = 0.0
    curvature, price = float(_factors(rng, orders)), _factors(rng, orders, len(arguments))
    # Stationarity at some decision, with multipliers inside of their intervals, gives the slope.
    slope = -curvature * (rng.normal(size=(batch, n)) @ root.T) @ root
    slope = slope - (rng.uniform(0.1, 0.9, (batch, len(price))) * price) @ arguments
    slope = slope - _factors(rng, 1.0, batch, len(rows)) @ rows
    slope = slope - rng.normal(size=(batch, len(equalities))) @ equalities
    slope = slope + _factors(rng, 1.0, batch, n) * low - _factors(rng, 1.0, batch, n) * high
    weights = rng.random((batch, int(rng.integers(1, 21)))) + 0.01
    weights = weights / weights.sum(1, keepdims=True)
    noise = rng.normal(size=(*weights.shape, n)) * rng.choice([0.0, 1.0])
    noise = noise - np.einsum("bm,bmn->bn", weights, noise)[:, None]
    return Family(
        root=np.sqrt(curvature) * root,
        slopes=slope[:, None] + noise,
        price=price,
        arguments=arguments,
        targets=rng.normal(size=(*weights.shape, len(price))),
        weights=weights,
        matrix=rows,
        limit=inside @ rows.T + row_room,
        lower=np.where(low, inside - low_room, -np.inf),
        upper=np.where(high, inside + high_room, np.inf),
        equality_matrix=equalities,
        equality_value=inside @ equalities.T,
        size=np.ones(n),
        inside=inside,
        truth=[Truth.SOLVABLE] * batch,
    )


def _contradicted(rng: Generator, orders: float, given: Family, flawed: Array) -> Family:
    """With one row more, which contradicts a sum of the others in the instances ``flawed (B,)``."""
    n, chosen = len(given.size), []
    for count in (len(given.matrix), n, n, len(given.equality_matrix)):
        chosen.append(rng.uniform(0.5, 2.0, count) * (rng.random(count) < 0.7))
    rows, low, high, equalities = chosen
    lower, upper = (np.nan_to_num(x, posinf=0.0, neginf=0.0) for x in (given.lower, given.upper))
    low, high = low * np.isfinite(given.lower[0]), high * np.isfinite(given.upper[0])
    if not any(part.any() for part in (rows, low, high, equalities)):
        return given
    matrix = rows @ given.matrix - low + high + equalities @ given.equality_matrix
    sides = [rows * given.limit, equalities * given.equality_value, -low * lower, high * upper]
    side = np.concatenate(sides, axis=1)
    apart = 10.0 ** rng.uniform(-4, 0, len(flawed)) * np.abs(side).max(1, initial=1e-2)
    room = _factors(rng, orders, len(flawed))
    limit = np.where(flawed, -side.sum(1) - apart, room - given.inside @ matrix)
    return replace(
        given,
        matrix=np.concatenate([given.matrix, -matrix[None]]),
        limit=np.concatenate([given.limit, limit[:, None]], axis=1),
        truth=[Truth.INFEASIBLE if flaw else Truth.SOLVABLE for flaw in flawed],
    )


def _falling(rng: Generator, given: Family, flawed: Array, ray: Array) -> Family:
    """With a cost that falls along a ``ray (n,)`` for ever in the instances ``flawed (B,)``."""
    rise = given.price @ np.maximum(given.arguments @ ray, 0.0)
    fall = rise + given.slope @ ray + 10.0 ** rng.uniform(-2, 0, len(flawed))
    falling = given.slopes - (np.outer(fall, ray) / (ray @ ray))[:, None]
    return replace(
        given,
        slopes=np.where(flawed[:, None, None], falling, given.slopes),
        truth=[Truth.UNBOUNDED if flaw else Truth.SOLVABLE for flaw in flawed],
    )


def _restated(
    given: Family, size: Array, rows: Array, equalities: Array, cost: float, units: Array
) -> Family:
    """The same programs, of decisions times ``size (n,)``, with factors for all else."""
    return replace(
        given,
        root=np.sqrt(cost) * given.root / size,
        slopes=cost * given.slopes / size,
        price=cost * given.price / units,
        arguments=given.arguments / size * units[:, None],
        targets=given.targets * units,
        matrix=given.matrix / size * rows[:, None],
        limit=given.limit * rows,
        lower=given.lower * size,
        upper=given.upper * size,
        equality_matrix=given.equality_matrix / size * equalities[:, None],
        equality_value=given.equality_value * equalities,
        size=given.size * size,
        inside=given.inside * size,
    )
