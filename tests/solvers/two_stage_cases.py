"""Two-stage programs with their statements in cvxpy, exact and one for all scenarios."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.programs import Hinge, Recourse, TwoStageProgram

D = {"dtype": torch.float64}


@dataclass(frozen=True)
class Case:
    """A program and ``statement(outcomes (M, d_y), context) -> (cost of all scenarios, z, constraints)``."""

    program: TwoStageProgram
    statement: Callable[[Any, Any], tuple[Any, cp.Variable, list[Any]]]
    outcomes: Tensor
    context: Tensor | None = None


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, **D, generator=torch.Generator().manual_seed(seed))


def rows(count: int, value: Any) -> Any:
    return np.ones((count, 1)) @ cp.reshape(value, (1, value.size), order="C")


def substitution() -> Case:
    """Two products that may stand in for each other; capacity from the context."""
    gain = torch.tensor([5.0, 4.0, 3.0, 6.0], **D)
    made = TwoStageProgram(
        2,
        2,
        Recourse(
            4,
            smooth=lambda y, z, u: 0.01 * (u @ u) - gain @ u,
            inequality=lambda y, z, u: torch.stack(
                [u[0] + u[1] - y[0], u[2] + u[3] - y[1], u[0] + u[2] - z[0], u[1] + u[3] - z[1]]
            ),
            lower=0.0,
        ),
        smooth=lambda y, z: z[0] + 1.5 * z[1] + 0.05 * (z @ z),
        hinges=Hinge(0.3, lambda y, z: y - z - 0.5),
        lower=0.0,
        matrix=[[1.0, 1.0]],
        limit=lambda x: x,
    )

    def statement(y: Any, x: Any) -> tuple[Any, cp.Variable, list[Any]]:
        z, u = cp.Variable(2), cp.Variable((len(y), 4))
        cost = cp.sum(0.01 * cp.square(u) - cp.multiply(u, np.tile(gain, (len(y), 1))), axis=1)
        cost = cost + 0.3 * cp.sum(cp.pos(y - rows(len(y), z) - 0.5), axis=1)
        cost = cost + z[0] + 1.5 * z[1] + 0.05 * cp.sum_squares(z)
        limits = [z >= 0, u >= 0, cp.sum(z) <= x]
        limits += [u[:, 0] + u[:, 1] <= y[:, 0], u[:, 2] + u[:, 3] <= y[:, 1]]
        limits += [u[:, 0] + u[:, 2] <= z[0], u[:, 1] + u[:, 3] <= z[1]]
        return cost, z, limits

    return Case(made, statement, 4 * uniform(6, 15, 2), 3 + 3 * uniform(6, 1, seed=1))


def balancing(hours: int = 6) -> Case:
    """Storage planned a day ahead, balanced hour by hour at prices that are then known."""
    loss = 0.9
    low = torch.tril(torch.ones(hours, hours, **D))

    def level(z: Tensor, u: Tensor) -> Tensor:
        flow = loss * (z[:hours] + u[:hours]) - (z[hours:] + u[hours : 2 * hours]) / loss
        return 0.5 + low @ flow

    made = TwoStageProgram(
        2 * hours,
        hours,
        Recourse(
            3 * hours,
            smooth=lambda y, z, u: (
                y @ (u[:hours] - u[hours : 2 * hours]) + 0.1 * (u[: 2 * hours] ** 2).sum()
            ),
            equality=lambda y, z, u: u[2 * hours :] - level(z, u),
            inequality=lambda y, z, u: torch.cat([-z - u[: 2 * hours], z + u[: 2 * hours] - 0.5]),
            lower=torch.cat([torch.full((2 * hours,), -torch.inf, **D), torch.zeros(hours, **D)]),
            upper=torch.cat([torch.full((2 * hours,), torch.inf, **D), torch.ones(hours, **D)]),
        ),
        smooth=lambda y, z: 1.0 * (z[:hours] - z[hours:]).sum() + 5e-3 * (z @ z),
        lower=0.0,
        upper=0.5,
    )

    def statement(y: Any, x: Any) -> tuple[Any, cp.Variable, list[Any]]:
        z, u = cp.Variable(2 * hours), cp.Variable((len(y), 2 * hours))
        actual = rows(len(y), z) + u
        held = 0.5 + (loss * actual[:, :hours] - actual[:, hours:] / loss) @ low.numpy().T
        cost = cp.sum(cp.multiply(y, u[:, :hours] - u[:, hours:]) + 0, axis=1)
        cost = cost + 0.1 * cp.sum(cp.square(u), axis=1) + 5e-3 * cp.sum_squares(z)
        cost = cost + cp.sum(z[:hours] - z[hours:])
        return cost, z, [z >= 0, z <= 0.5, held >= 0, held <= 1, actual >= 0, actual <= 0.5]

    return Case(made, statement, 0.7 + 0.6 * uniform(4, 12, hours))


def curved() -> Case:
    """A second stage with a curved cost and a curved limit, an equality and a pinned decision."""
    made = TwoStageProgram(
        2,
        2,
        Recourse(
            3,
            smooth=lambda y, z, u: torch.exp(u[:2] - y).sum() + 0.5 * ((u[:2] + z - y) ** 2).sum(),
            inequality=lambda y, z, u: (u[:2] @ u[:2] + z @ z - 2.0).reshape(1),
            equality=lambda y, z, u: (u[0] - u[1] - 0.2 * z[0] + u[2]).reshape(1),
            lower=[-5.0, -5.0, 0.1],
            upper=[5.0, 5.0, 0.1],
        ),
        smooth=lambda y, z: 0.1 * (z**2).sum(),
        equality_matrix=[[1.0, 1.0]],
        equality_value=1.2,
    )

    def statement(y: Any, x: Any) -> tuple[Any, cp.Variable, list[Any]]:
        z, u = cp.Variable(2), cp.Variable((len(y), 2))
        cost = cp.sum(cp.exp(u - y) + 0.5 * cp.square(u + rows(len(y), z) - y), axis=1)
        limits = [cp.sum(z) == 1.2, u[:, 0] - u[:, 1] - 0.2 * z[0] + 0.1 == 0]
        limits.append(cp.sum(cp.square(u), axis=1) + cp.sum_squares(z) <= 2.0)
        return cost + 0.1 * cp.sum_squares(z), z, limits

    return Case(made, statement, 2 * uniform(4, 8, 2))


def in_units(given: TwoStageProgram, of_z: Any, of_u: Any) -> TwoStageProgram:
    """The same program of ``z * of_z`` and ``u * of_u``."""
    of_z, of_u = (torch.as_tensor(part, **D) for part in (of_z, of_u))
    recourse, feasible = given.recourse, given.feasible_set

    def second(function: Any) -> Any:
        return None if function is None else lambda y, z, u: function(y, z / of_z, u / of_u)

    def argument(function: Any) -> Any:
        return lambda y, z: function(y, z / of_z)

    def bound(value: Any, sizes: Tensor) -> Any:
        return None if value is None else value * sizes

    def rows(matrix: Any) -> Any:
        return None if matrix is None else matrix / of_z

    assert given.smooth is not None
    return TwoStageProgram(
        given.num_decisions,
        given.num_outcomes,
        Recourse(
            recourse.num_decisions,
            second(recourse.smooth),
            second(recourse.inequality),
            second(recourse.equality),
            bound(recourse.lower, of_u),
            bound(recourse.upper, of_u),
        ),
        smooth=argument(given.smooth),
        hinges=[replace(term, argument=argument(term.argument)) for term in given.terms],
        matrix=rows(feasible.matrix),
        limit=feasible.limit,
        lower=bound(feasible.lower, of_z),
        upper=bound(feasible.upper, of_z),
        equality_matrix=rows(feasible.equality_matrix),
        equality_value=feasible.equality_value,
    )


def apart(size: int, orders: float, seed: int = 0) -> Tensor:
    """Sizes of coordinates, spread over so many orders of magnitude."""
    found = 10 ** (orders * (uniform(size, seed=seed) - 0.5))
    return found if size == 1 else found * 10 ** (orders * (torch.arange(size) % 2 - 0.5) / 2)


CASES: dict[str, Callable[[], Case]] = {
    "substitution": substitution,
    "balancing": balancing,
    "curved": curved,
}
