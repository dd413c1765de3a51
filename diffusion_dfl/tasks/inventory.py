"""Inventory on simulated demand (appendix A.12), sound protocol.

The paper prints no parameters. The costs are those of the inventory experiment of Donti et al.
(2017), c0 = 10, q0 = 2, cb = 30, ch = 10, and its weights of the squared penalties, 14 and 2, serve
for the cubed ones; demand is scaled to about 0 to 5 (:mod:`diffusion_dfl.data.demand`), since cubes
of its 20 would leave nothing else to see.

With demand ``sum_k pi_k(x) N(mu_k, s^2)`` the expected cost of an order is

    E f(y, z) = sum_k pi_k(x) E f(mu_k + s xi, z),        xi ~ N(0, 1),

which is the program's own convolved sample objective with the K means as scenarios, pi(x) as their
weights and s as bandwidth. So the cost and the optimum z*(x) are exact, without quadrature.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_dfl.data import Dataset
from diffusion_dfl.data.dataset import require
from diffusion_dfl.data.demand import DemandMixture, demand_dataset
from diffusion_dfl.programs import Instances, Newsvendor
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks.neighbours import neighbour_decisions
from diffusion_dfl.tasks.task import Judgement, Task, plan_level

# Levels of the quantiles that stand for the distribution of decisions in a record.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def inventory_task(
    rng: np.random.Generator,
    *,
    c0: float = 10.0,
    q0: float = 2.0,
    cb: float = 30.0,
    rb: float = 14.0,
    ch: float = 10.0,
    rh: float = 2.0,
    z_max: float = 5.0,
    num_components: int = 3,
    weights: Sequence[float] | None = None,
    demand_max: float = 5.0,
    deviation: float = 0.2,
    context_size: int = 20,
    logit_scale: float = 0.3,
    num_train: int = 1600,
    num_validation: int = 400,
    num_test: int = 1000,
) -> "InventoryTask":
    """Program and data of ``task=inventory``.

    Args:
        rng: stream of the data set, of the dependence on the context too.
        c0: cost of a unit ordered.
        q0: curvature of the ordering cost.
        cb: cost of a unit of unmet demand.
        rb: weight of the cubed unmet demand.
        ch: cost of a unit left over.
        rh: weight of the cubed left over.
        z_max: largest order.
        num_components: K, modes of the demand.
        weights: their K weights where the context is 0, with sum 1; null: equal.
        demand_max: the modes are the middles of K equal parts of [0, demand_max].
        deviation: standard deviation of a mode: apart for K up to 5.
        context_size: standard Gaussian features.
        logit_scale: dependence of the weights on the context; 0 for none.
        num_train: rows to train on.
        num_validation: rows to choose with.
        num_test: rows to report.

    Raises:
        DataError: a value out of range, naming the key.
    """
    require(math.isfinite(c0), "task.c0", c0, "it must be a finite number, e.g. 10")
    for name, value in {"q0": q0, "cb": cb, "rb": rb, "ch": ch, "rh": rh}.items():
        mend = "it must be a finite number of at least 0"
        require(0.0 <= value < math.inf, f"task.{name}", value, mend)
    require(0.0 < z_max < math.inf, "task.z_max", z_max, "it must be above 0, e.g. 5")
    mixture = DemandMixture.draw(
        rng,
        num_components=num_components,
        weights=weights,
        demand_max=demand_max,
        deviation=deviation,
        context_size=context_size,
        logit_scale=logit_scale,
    )
    dataset = demand_dataset(
        rng, mixture, num_train=num_train, num_validation=num_validation, num_test=num_test
    )
    program = Newsvendor(c0=c0, q0=q0, cb=cb, rb=rb, ch=ch, rh=rh, z_max=z_max)
    return InventoryTask(dataset, program, mixture)


class InventoryTask(Task):
    """Orders judged by their expected cost given the context, under the true demand.

    Attributes:
        mixture: the distribution of the demand.
        optimum: z*(x) of every row of the data set, ``(N,)``.
        optimal_cost: its expected cost, ``(N,)``.
        saa: the order of the ``saa`` baseline, against which ``win_rate_saa`` is counted.
    """

    name = "inventory"
    program: Newsvendor

    def __init__(self, dataset: Dataset, program: Newsvendor, mixture: DemandMixture) -> None:
        self.dataset, self.program, self.mixture = dataset, program, mixture
        self._weights = mixture.weights(dataset.contexts)
        every = np.arange(len(dataset.contexts))
        self.optimum = self._solved(*self._components(every))
        self.optimal_cost = self.expected_cost(every, self.optimum)
        demand = torch.as_tensor(dataset.outcomes[dataset.known])
        self.saa = float(self._solved(demand.unsqueeze(0))[0])
        self._saa_cost = self.expected_cost(every, np.full(len(every), self.saa))

    def expected_cost(
        self, rows: NDArray[np.int64], orders: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """``E f(y, z)`` given the context of each row, exact: ``(N,), (N,) -> (N,)``."""
        means, weights, deviation = self._components(rows)
        order = torch.as_tensor(orders, dtype=torch.float64).unsqueeze(1)
        instances = Instances(means, weights, deviation)
        return self.program.objective(instances, order).numpy()

    def judge(self, rows: NDArray[np.int64], decisions: NDArray[np.float64]) -> Judgement:
        """Expected cost a row, given its context.

        Metrics: ``optimal_cost`` and ``regret``, means; ``realised_cost``, mean cost with the
        demand that came; ``win_rate_saa``, share of the rows in which the decision costs less in
        expectation than the ``saa`` baseline; ``plan_level``, share of demands at or below the order;
        ``decision_quantiles``, ``optimum_quantiles`` and
        ``regret_quantiles`` over the rows, at the levels ``QUANTILES``.
        """
        made = ~np.isnan(decisions[:, 0])
        cost = np.full(len(rows), np.nan)
        if not made.any():
            return Judgement(cost)
        rows, orders = rows[made], decisions[made, 0]
        cost[made] = expected = self.expected_cost(rows, orders)
        regret = expected - self.optimal_cost[rows]
        outcomes = torch.as_tensor(self.dataset.outcomes[rows])
        realised = self.program.cost(outcomes, torch.as_tensor(decisions[made]))
        return Judgement(
            cost,
            {
                "optimal_cost": float(self.optimal_cost[rows].mean()),
                "regret": float(regret.mean()),
                "realised_cost": float(realised.mean()),
                "win_rate_saa": float((expected < self._saa_cost[rows]).mean()),
                "plan_level": plan_level(self.dataset.outcomes[rows], decisions[made]),
                "decision_quantiles": np.quantile(orders, QUANTILES).tolist(),
                "optimum_quantiles": np.quantile(self.optimum[rows], QUANTILES).tolist(),
                "regret_quantiles": np.quantile(regret, QUANTILES).tolist(),
            },
        )

    def baselines(self) -> dict[str, NDArray[np.float64]]:
        """From all rows before the test. ``saa``: one order for all. ``knn_saa``: one a context, from
        the demands of the most similar contexts (:mod:`.neighbours`)."""
        return {
            "saa": np.full((len(self.dataset.test), 1), self.saa),
            "knn_saa": neighbour_decisions(
                self.dataset,
                lambda demand: self._solved(torch.as_tensor(demand))[:, None],
                lambda demand, orders: self.program.cost(
                    torch.as_tensor(demand), torch.as_tensor(orders)
                ).numpy(),
            ),
        }

    def _components(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """The true demand as scenarios ``(N, K, 1)``, weights ``(N, K)``, bandwidth ``(N, 1)``."""
        means = torch.as_tensor(self.mixture.means).view(1, -1, 1).expand(len(rows), -1, 1)
        deviation = torch.full((len(rows), 1), self.mixture.deviation, dtype=torch.float64)
        return means, torch.as_tensor(self._weights[rows]), deviation

    def _solved(
        self, demand: Tensor, weights: Tensor | None = None, bandwidth: Tensor | None = None
    ) -> NDArray[np.float64]:
        """Optimal orders ``(B,)`` for demands ``(B, M, 1)``."""
        solution = solve(self.program, demand, weights, bandwidth)
        if not bool(solution.solved.all()):
            raise RuntimeError(f"task=inventory: an order was not found: {solution.report()}")
        return solution.decision[:, 0].numpy()
