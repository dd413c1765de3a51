"""Problems such as users bring, each stated for our layers and in cvxpy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.programs import Hinge, Recourse, TorchProgram, TwoStageProgram

D: dict[str, Any] = {"dtype": torch.float64}
#: Problems with recourse are large: one of so many instances of the batch is enough.
LARGE = 8


@dataclass(frozen=True)
class Problem:
    """A program, the same in cvxpy, and its data.

    Attributes:
        statement: ``(outcomes (M, d_y), context or None) -> (problem, z, parameters)``; both may be
            arrays or parameters of cvxpy.
        outcomes: ``(B, M, d_y)``.
        context: ``(B, d_x)`` or None.
    """

    name: str
    program: TorchProgram
    statement: Callable[[Any, Any], tuple[cp.Problem, cp.Variable]]
    outcomes: Tensor
    context: Tensor | None = None


def _rows(count: int, z: Any, size: int) -> Any:
    return np.ones((count, 1)) @ cp.reshape(z, (1, size), order="C")


def problems(batch: int, scenarios: int) -> list[Problem]:
    """All of them, on synthetic outcomes of a fixed seed."""
    rng = np.random.default_rng(2027)
    share = 1.0 / scenarios
    made = []

    def tensor(values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values, dtype=float))

    tail = 1 / (1 - 0.93)
    # Value at risk of one item's shortage (5) and excess (1), which exclude each other.
    one = TorchProgram(
        2,
        1,
        smooth=lambda y, z: z[1] + 1e-3 * z[0] ** 2,
        hinges=[
            Hinge(tail, lambda y, z: 5 * (y - z[:1]) - z[1:]),
            Hinge(tail, lambda y, z: z[:1] - y - z[1:]),
        ],
        lower=0.0,
        upper=[8.0, np.inf],
    )

    def one_stated(y: Any, x: Any) -> tuple[cp.Problem, cp.Variable]:
        z = cp.Variable(2)
        y = cp.reshape(y, (scenarios,), order="C") if isinstance(y, cp.Parameter) else y[:, 0]
        loss = cp.maximum(5 * (y - z[0]), z[0] - y)
        cost = z[1] + 1e-3 * cp.square(z[0]) + tail * share * cp.sum(cp.pos(loss - z[1]))
        return cp.Problem(cp.Minimize(cost), [z >= 0, z[0] <= 8]), z

    made.append(
        Problem("cvar", one, one_stated, tensor(np.abs(rng.normal(5, 2, (batch, scenarios, 1)))))
    )

    n = 4
    every = TorchProgram(
        2 * n,
        n,
        smooth=lambda y, z: z[n:].sum() + 1e-3 * (z[:n] ** 2).sum(),
        hinges=[
            Hinge(tail, lambda y, z: 5 * (y - z[:n]) - z[n:]),
            Hinge(tail, lambda y, z: z[:n] - y - z[n:]),
        ],
        lower=0.0,
        matrix=np.r_[np.ones(n), np.zeros(n)][None],
        limit=18.0,
    )

    def every_stated(y: Any, x: Any) -> tuple[cp.Problem, cp.Variable]:
        z = cp.Variable(2 * n)
        stock, risk = _rows(scenarios, z[:n], n), _rows(scenarios, z[n:], n)
        loss = cp.pos(cp.maximum(5 * (y - stock), stock - y) - risk)
        cost = cp.sum(z[n:]) + 1e-3 * cp.sum_squares(z[:n]) + tail * share * cp.sum(loss)
        return cp.Problem(cp.Minimize(cost), [z >= 0, cp.sum(z[:n]) <= 18]), z

    demand = np.abs(rng.normal(5, 2, (batch, scenarios, n)))
    made.append(Problem("cvar an item", every, every_stated, tensor(demand)))

    hours, loss = 24, 0.9
    level = np.zeros((hours, 3 * hours))
    level[:, 2 * hours :] = np.eye(hours) - np.eye(hours, k=-1)
    level[:, :hours], level[:, hours : 2 * hours] = -loss * np.eye(hours), np.eye(hours) / loss
    first = np.r_[0.5, np.zeros(hours - 1)]
    top = np.r_[0.5 * np.ones(2 * hours), np.ones(hours)]
    storage = TorchProgram(
        3 * hours,
        hours,
        smooth=lambda y, z: (
            y @ (z[:hours] - z[hours : 2 * hours])
            + 5e-3 * (z[: 2 * hours] ** 2).sum()
            + 1e-4 * ((z[2 * hours :] - 0.5) ** 2).sum()
        ),
        lower=0.0,
        upper=top,
        equality_matrix=level,
        equality_value=first,
    )

    def storage_stated(y: Any, x: Any) -> tuple[cp.Problem, cp.Variable]:
        z = cp.Variable(3 * hours)
        cost = (np.full(scenarios, share) @ y) @ (z[:hours] - z[hours : 2 * hours])
        cost += 5e-3 * cp.sum_squares(z[: 2 * hours]) + 1e-4 * cp.sum_squares(z[2 * hours :] - 0.5)
        return cp.Problem(cp.Minimize(cost), [z >= 0, z <= top, level @ z == first]), z

    price = 1 + 0.5 * np.sin(np.arange(hours) * np.pi / 6)
    price = price + 0.3 * rng.normal(size=(batch, 1, hours))
    price = price + 0.3 * rng.normal(size=(batch, scenarios, hours))
    made.append(Problem("storage", storage, storage_stated, tensor(price)))

    held = rng.dirichlet(np.ones(10))
    now = tensor(held)
    traded = TorchProgram(
        10,
        10,
        smooth=lambda y, z: 2.5 * (y @ z) ** 2 - y @ z + 1e-3 * (z @ z),
        hinges=[Hinge(2e-3, lambda y, z: z - now), Hinge(2e-3, lambda y, z: now - z)],
        lower=0.0,
        equality_matrix=np.ones((1, 10)),
        equality_value=1.0,
    )

    def traded_stated(y: Any, x: Any) -> tuple[cp.Problem, cp.Variable]:
        z = cp.Variable(10)
        cost = 2.5 * share * cp.sum_squares(y @ z) - np.full(scenarios, share) @ (y @ z)
        cost += 1e-3 * cp.sum_squares(z) + 2e-3 * cp.norm(z - held, 1)
        return cp.Problem(cp.Minimize(cost), [z >= 0, cp.sum(z) == 1]), z

    returns = 0.01 * rng.normal(size=(batch, 1, 10)) + 0.05 * rng.normal(
        size=(batch, scenarios, 10)
    )
    made.append(Problem("l1 cost", traded, traded_stated, tensor(returns)))

    root = np.linalg.cholesky(np.eye(8) + 0.3)
    shape = tensor(root)
    near = TorchProgram(
        8,
        8,
        smooth=lambda y, z: 0.05 * ((z - y) ** 2).sum(),
        hinges=[Hinge(4.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y)],
        inequality=lambda x, z: ((shape.T @ (z - 2.0)).square().sum() - 2.25).reshape(1),
        num_inequalities=1,
    )

    def near_stated(y: Any, x: Any) -> tuple[cp.Problem, cp.Variable]:
        z = cp.Variable(8)
        apart = y - _rows(scenarios, z, 8)
        cost = 0.05 * cp.sum_squares(apart) + 4 * cp.sum(cp.pos(apart)) + cp.sum(cp.pos(-apart))
        return cp.Problem(cp.Minimize(share * cost), [cp.norm(root.T @ (z - 2.0)) <= 1.5]), z

    supply = 2 + 0.5 * rng.normal(size=(batch, 1, 8)) + rng.normal(size=(batch, scenarios, 8))
    made.append(Problem("ball", near, near_stated, tensor(supply)))

    uses = rng.uniform(0.5, 1.5, (2, 6))
    limited = TorchProgram(
        6,
        6,
        smooth=lambda y, z: 0.05 * (z**2).sum(),
        hinges=[Hinge(8.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y)],
        lower=0.0,
        matrix=uses,
        limit=lambda x: x,
    )

    def limited_stated(y: Any, x: Any) -> tuple[cp.Problem, cp.Variable]:
        z = cp.Variable(6)
        apart = y - _rows(scenarios, z, 6)
        cost = share * (8 * cp.sum(cp.pos(apart)) + cp.sum(cp.pos(-apart)))
        cost += 0.05 * cp.sum_squares(z)
        return cp.Problem(cp.Minimize(cost), [z >= 0, uses @ z <= x]), z

    calls = np.abs(5 + rng.normal(size=(batch, 1, 6)) + 2 * rng.normal(size=(batch, scenarios, 6)))
    capacity = rng.uniform(25, 45, (batch, 2))
    made.append(Problem("two resources", limited, limited_stated, tensor(calls), tensor(capacity)))
    made.append(_balancing(max(1, batch // LARGE), scenarios, rng))
    return made


def _balancing(batch: int, scenarios: int, rng: np.random.Generator) -> Problem:
    """Storage planned a day ahead and balanced in every scenario, at prices that are then known."""
    hours, loss = 24, 0.9
    planned = 1 + 0.5 * np.sin(np.arange(hours) * np.pi / 6)
    low, price = np.tril(np.ones((hours, hours))), torch.as_tensor(planned)
    sums = torch.as_tensor(low)

    def level(z: Tensor, u: Tensor) -> Tensor:
        actual = z + u
        return 0.5 + sums @ (loss * actual[:hours] - actual[hours:] / loss)

    def limits(y: Tensor, z: Tensor, u: Tensor) -> Tensor:
        held = level(z, u)
        return torch.cat([-held, held - 1.0, -z - u, z + u - 0.5])

    program = TwoStageProgram(
        2 * hours,
        hours,
        Recourse(
            2 * hours,
            smooth=lambda y, z, u: y @ (u[:hours] - u[hours:]) + 0.1 * (u @ u),
            inequality=limits,
        ),
        smooth=lambda y, z: price @ (z[:hours] - z[hours:]) + 5e-3 * (z @ z),
        lower=0.0,
        upper=0.5,
    )

    def statement(y: Any, x: Any) -> tuple[cp.Problem, cp.Variable]:
        z, u = cp.Variable(2 * hours), cp.Variable((scenarios, 2 * hours))
        actual = _rows(scenarios, z, 2 * hours) + u
        held = 0.5 + (loss * actual[:, :hours] - actual[:, hours:] / loss) @ low.T
        cost = cp.sum(cp.multiply(y, u[:, :hours] - u[:, hours:])) + 0.1 * cp.sum_squares(u)
        cost = cost / scenarios + planned @ (z[:hours] - z[hours:]) + 5e-3 * cp.sum_squares(z)
        stated = [z >= 0, z <= 0.5, held >= 0, held <= 1, actual >= 0, actual <= 0.5]
        return cp.Problem(cp.Minimize(cost), stated), z

    noise = rng.normal(size=(batch, 1, hours)) + rng.normal(size=(batch, scenarios, hours))
    return Problem("balancing", program, statement, torch.as_tensor(planned + 0.3 * noise))
