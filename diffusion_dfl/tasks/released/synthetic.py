"""Product allocation as the paper's released code runs it (section 6.1, appendix A.9).

One data set of 1,000 rows serves all runs; the last 200 are the test, and the mean cost on them is
the number reported. Its margins gain with probability 0.9, not the paper's 0.8, and are halved,
which neither text nor figure says. Making C of every product costs about 5500 in expectation and
1.987 on these 200 points: that is the number of both deterministic rows of Table 1.

Left out: the release pools the scenarios of all contexts of a batch into one decision. Its
contexts are noise, so ``context_size=0`` has the same scenarios and pools likewise, without them.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from diffusion_dfl.data import Dataset
from diffusion_dfl.data.dataset import require
from diffusion_dfl.data.mixture import MIXTURES, MarginMixture, margin_dataset, released_margins
from diffusion_dfl.programs import ProductAllocation
from diffusion_dfl.tasks.synthetic import SyntheticTask
from diffusion_dfl.tasks.task import Judgement

NUM_PRODUCTS = 10
_TRAIN, _VALIDATION, _TEST = 640, 160, 200
_CONTEXTS = 20


def released_synthetic_task(
    rng: np.random.Generator,
    *,
    fixed_data: bool = True,
    fixed_test_points: bool = True,
    p: float = 0.9,
    outcome_scale: float = 0.5,
    context_size: int = 20,
    capacity: float = 2.0,
) -> "ReleasedSyntheticTask":
    """Program and data of ``task=synthetic_released``; the defaults are the release.

    Args:
        rng: stream of the split of the first 800 rows, and of the data where they are not fixed.
        fixed_data: one data set for all seeds; false: the seed draws its own.
        fixed_test_points: judged by its 200 test points; false: by the expected cost.
        p: probability of a gain; the paper has 0.8.
        outcome_scale: factor of all margins; the paper has 1.
        context_size: noise features, at most 20; 0: none, and one decision for all rows.
        capacity: C, the most that can be made of a product.

    Raises:
        DataError: a value out of range, naming the key.
    """
    require(0 < capacity < math.inf, "task.capacity", capacity, "it must be above 0, e.g. 2")
    within = 0 <= context_size <= _CONTEXTS
    require(within, "task.context_size", context_size, f"the release has {_CONTEXTS}; take 0..20")
    margins = dataclasses.replace(MIXTURES["released"], p=p, outcome_scale=outcome_scale)
    if fixed_data:
        dataset = _fixed_dataset(rng, margins, context_size)
    else:
        dataset = margin_dataset(
            rng,
            margins,
            num_products=NUM_PRODUCTS,
            context_size=context_size,
            num_train=_TRAIN,
            num_validation=_VALIDATION,
            num_test=_TEST,
        )
    program = ProductAllocation(NUM_PRODUCTS, capacity)
    return ReleasedSyntheticTask(dataset, program, margins, context_size, fixed_test_points)


class ReleasedSyntheticTask(SyntheticTask):
    """Allocations judged by their mean cost on the test rows, as the release does.

    ``expected_cost`` is reported beside it. With ``fixed_test_points=False`` it is the headline.
    """

    name = "synthetic_released"

    def __init__(
        self,
        dataset: Dataset,
        program: ProductAllocation,
        margins: MarginMixture,
        context_size: int = 0,
        fixed_test_points: bool = True,
    ) -> None:
        super().__init__(dataset, program, margins, context_size)
        self.fixed_test_points = fixed_test_points

    def judge(self, rows: NDArray[np.int64], decisions: NDArray[np.float64]) -> Judgement:
        """Cost ``exp(-y' z)`` a row on the row's own margins, or its expectation."""
        expected = super().judge(rows, decisions)
        metrics = {**expected.metrics, "expected_cost": expected.task}
        if not self.fixed_test_points:
            return Judgement(expected.per_row, metrics)
        with np.errstate(over="ignore"):
            realised = np.exp(-(self.dataset.outcomes[rows] * decisions).sum(1))
        return Judgement(realised, metrics)

    def baselines(self) -> dict[str, NDArray[np.float64]]:
        """Those of ``task=synthetic``, and ``capacity``: C of every product, the decision of both
        deterministic rows of Table 1."""
        most = np.full((len(self.dataset.test), NUM_PRODUCTS), self.program.capacity)
        return {**super().baselines(), "capacity": most}


def _fixed_dataset(rng: np.random.Generator, margins: MarginMixture, context_size: int) -> Dataset:
    """The release's rows; ``rng`` draws which of the first 800 are for validation."""
    contexts, outcomes = released_margins(p=margins.p)
    # Halving and doubling are exact in binary: the release's own rows at its own scale.
    outcomes = outcomes * (margins.outcome_scale / MIXTURES["released"].outcome_scale)
    order = rng.permutation(_TRAIN + _VALIDATION)
    names = tuple(f"noise_{column}" for column in range(context_size))
    return Dataset(
        name="synthetic_released",
        source="simulated",
        contexts=contexts[:, :context_size] if context_size else np.ones((len(outcomes), 1)),
        outcomes=outcomes,
        dates=None,
        feature_names=names or ("constant",),
        train=np.sort(order[:_TRAIN]),
        validation=np.sort(order[_TRAIN:]),
        test=np.arange(_TRAIN + _VALIDATION, len(outcomes)),
    )
