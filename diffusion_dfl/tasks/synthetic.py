"""Product allocation on simulated margins (section 6.1, appendix A.9), sound protocol.

Every seed draws its own data set, and a decision is judged by its expected cost in closed form
(:mod:`diffusion_dfl.data.mixture`), not by its cost on the test rows: the cost is so heavy-tailed
that 200 test rows say little (standard deviation 0.08 at the optimum, while z = C, whose expected
cost is about 5500, was seen to cost 2).
"""

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_dfl.data import Dataset
from diffusion_dfl.data.dataset import require
from diffusion_dfl.data.mixture import MIXTURES, MarginMixture, margin_dataset
from diffusion_dfl.programs import ProductAllocation
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks.task import Judgement, Task


def synthetic_task(
    rng: np.random.Generator,
    *,
    mixture: str = "released",
    p: float | None = None,
    a: float | None = None,
    b: float | None = None,
    sigma: float | None = None,
    outcome_scale: float | None = None,
    num_products: int = 10,
    capacity: float = 2.0,
    context_size: int = 0,
    num_train: int = 640,
    num_validation: int = 160,
    num_test: int = 200,
) -> "SyntheticTask":
    """Program and data of ``task=synthetic``; see :func:`diffusion_dfl.data.mixture.margin_dataset`.

    Args:
        rng: stream of the data set.
        mixture: released (p 0.9, margins halved) or paper (p 0.8), both a 1, b 3, sigma 0.15.
        p: probability of a gain; null: the mixture's, as are the four below.
        a: mean gain.
        b: mean loss.
        sigma: standard deviation around either.
        outcome_scale: factor of all margins (released 0.5, paper 1).
        num_products: d; 1 for Figure 1.
        capacity: C, the most that can be made of a product.
        context_size: 0: no context, one pooled decision; 20: noise features, as the release.
        num_train: rows to train on.
        num_validation: rows to choose with.
        num_test: rows of the realised cost; the expected cost needs none.

    Raises:
        DataError: a value out of range, naming the key.
    """
    known = " or ".join(MIXTURES)
    require(mixture in MIXTURES, "task.mixture", mixture, f"there is no such one; use {known}")
    require(0 < capacity < math.inf, "task.capacity", capacity, "it must be above 0, e.g. 2")
    given = {"p": p, "a": a, "b": b, "sigma": sigma, "outcome_scale": outcome_scale}
    changes = {name: value for name, value in given.items() if value is not None}
    margins = dataclasses.replace(MIXTURES[mixture], **changes)
    dataset = margin_dataset(
        rng,
        margins,
        num_products=num_products,
        context_size=context_size,
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
    )
    return SyntheticTask(dataset, ProductAllocation(num_products, capacity), margins, context_size)


class SyntheticTask(Task):
    """Allocations judged by their expected cost ``E exp(-y' z)`` under the true mixture.

    The margins do not depend on the context, so one allocation ``optimum`` is best for all rows.

    Attributes:
        margins: the distribution of a margin.
        optimum: z*, ``(d,)``.
        optimal_cost: its expected cost.
    """

    name = "synthetic"
    program: ProductAllocation

    def __init__(
        self,
        dataset: Dataset,
        program: ProductAllocation,
        margins: MarginMixture,
        context_size: int = 0,
    ) -> None:
        self.dataset, self.program, self.margins = dataset, program, margins
        self.pooled = context_size == 0
        best = margins.best_order(program.capacity)
        self.optimum = np.full(program.num_decisions, best)
        self.optimal_cost = float(margins.expected_cost(self.optimum))

    def judge(self, rows: NDArray[np.int64], decisions: NDArray[np.float64]) -> Judgement:
        """Expected cost a row; inf for a decision whose expected cost is above 1e308.

        Metrics: ``regret`` to ``optimal_cost``, ``log_cost`` (mean logarithm of the expected cost,
        finite always) and ``realised_cost``, the mean cost on the margins of the rows themselves.
        """
        made = ~np.isnan(decisions).any(1)
        cost = np.full(len(rows), np.nan)
        if not made.any():
            return Judgement(cost)
        rows, decisions = rows[made], decisions[made]
        cost[made] = expected = self.margins.expected_cost(decisions)
        with np.errstate(over="ignore"):
            realised = np.exp(-(self.dataset.outcomes[rows] * decisions).sum(1))
        return Judgement(
            cost,
            {
                "regret": float((expected - self.optimal_cost).mean()),
                "optimal_cost": self.optimal_cost,
                "log_cost": float(self.margins.log_cost(decisions).mean()),
                "realised_cost": float(realised.mean()),
            },
        )

    def baselines(self) -> dict[str, NDArray[np.float64]]:
        """One allocation each, from margins before the test.

        ``saa``: sample average approximation of the training rows; ``saa_all`` of the validation
        rows too. ``independent_marginals``: the training margins of each product taken as
        independent of the others', so that every product is a sample average approximation of its
        own. ``gaussian_plug_in``: the best allocation were margins independent Gaussians of the
        training mean and variance, ``mean / variance`` cut to the capacity.
        """
        data, capacity = self.dataset, self.program.capacity
        training = data.outcomes[data.train]
        every = data.outcomes[np.concatenate([data.train, data.validation])]
        single = ProductAllocation(1, capacity)
        moments = training.mean(0), training.var(0)
        decisions = {
            "saa": _solved(self.program, training[None])[0],
            "saa_all": _solved(self.program, every[None])[0],
            "independent_marginals": _solved(single, training.T[:, :, None])[:, 0],
            "gaussian_plug_in": np.clip(moments[0] / moments[1], 0.0, capacity),
        }
        return {name: np.tile(z, (len(data.test), 1)) for name, z in decisions.items()}


def _solved(program: ProductAllocation, margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Optimal allocations ``(B, d)`` of margins ``(B, M, d)``."""
    solution = solve(program, torch.as_tensor(np.ascontiguousarray(margins)))
    if not bool(solution.solved.all()):
        raise RuntimeError(f"a baseline of task=synthetic was not solved: {solution.report()}")
    return solution.decision.numpy()
