"""Orders of a restaurant's seven ingredients, on real demand (:mod:`diffusion_dfl.data.restaurant`).

The cost of a day is the mean over the items of the newsvendor's, 10 s a unit short and 10 (1 - s) a unit
left over for the service level s, so that the best order of an item is its s-quantile:

    f(y, z) = 1/7 sum_i 10 s (y_i - z_i)_+ + 10 (1 - s) (z_i - y_i)_+
    s.t.      0 <= z <= z_max,   sum_i z_i <= storage

The expectation is a sum over the items too: with a storage limit or without, decisions depend on the
marginal laws alone.
"""

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_dfl.data import Dataset, restaurant_dataset
from diffusion_dfl.data.dataset import require
from diffusion_dfl.data.restaurant import ITEMS, YAZ_URL, Features
from diffusion_dfl.programs import Newsvendor
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks.neighbours import neighbour_decisions
from diffusion_dfl.tasks.task import Judgement, Task, plan_level

#: What a unit short and a unit left over cost together.
COST = 10.0


def restaurant_task(
    source: str,
    rng: np.random.Generator,
    *,
    service_level: float = 0.9,
    storage: float | None = None,
    z_max: float = 500.0,
    features: Features = "special",
    published_lags: bool = False,
    validation_fraction: float = 0.2,
    block_weeks: int = 2,
    gap_days: int = 1,
    root: str | None = None,
    url: str | None = None,
    directory: str = "data",
) -> "RestaurantTask":
    """Program and data of ``task=restaurant``.

    Args:
        source: ``real``.
        rng: stream of the train/validation split.
        service_level: s in (0, 1): a unit short costs 10 s, one left over 10 (1 - s).
        storage: largest sum of all orders of a day; null for none.
        z_max: largest order of an item; the largest demand of all is 93.
        features: calendar, lag (and calendar) or special (holidays, closed days and weather too).
        published_lags: true lets lag features know the demand of the target day, as the published study's do.
        validation_fraction: share of the days before the test used for validation.
        block_weeks: length of a validation block.
        gap_days: days left out of training on either side of a block.
        root: folder that has the files in its subfolder yaz, or None for the environment variable or a
            download.
        url: where the files are downloaded from; None for their pinned address.
        directory: where downloads are kept.

    Raises:
        DataError: a value out of range, naming the key.
    """
    inside = 0.0 < service_level < 1.0
    require(inside, "task.service_level", service_level, "it must be in (0, 1), e.g. 0.9")
    limited = storage is None or 0.0 < storage < math.inf
    require(
        limited, "task.storage", storage, "it must be a finite number above 0, or null for none"
    )
    require(0.0 < z_max < math.inf, "task.z_max", z_max, "it must be above 0, e.g. 500")
    dataset = restaurant_dataset(
        source,
        rng,
        features=features,
        published_lags=published_lags,
        validation_fraction=validation_fraction,
        block_weeks=block_weeks,
        gap_days=gap_days,
        root=root,
        url=url or YAZ_URL,
        directory=Path(directory),
    )
    unit = COST / len(ITEMS)
    program = Newsvendor(
        c0=0.0,
        q0=0.0,
        cb=service_level * unit,
        rb=0.0,
        ch=(1.0 - service_level) * unit,
        rh=0.0,
        z_max=z_max,
        num_decisions=len(ITEMS),
        limit=storage,
    )
    return RestaurantTask(dataset, program)


class RestaurantTask(Task):
    """Orders judged by their cost with the demand that came.

    The headline number is the cost of a day, the mean over the seven items. ``items`` has the mean cost
    of each item over the days that have a decision, None if none has; ``plan_level`` is the share of
    demands at or below the order.
    """

    name = "restaurant"
    program: Newsvendor

    def __init__(self, dataset: Dataset, program: Newsvendor) -> None:
        self.dataset, self.program = dataset, program

    @property
    def decision_names(self) -> tuple[str, ...]:
        return ITEMS

    def judge(self, rows: NDArray[np.int64], decisions: NDArray[np.float64]) -> Judgement:
        demand = self.dataset.outcomes[rows]
        short, left = np.maximum(demand - decisions, 0.0), np.maximum(decisions - demand, 0.0)
        items = len(ITEMS) * (self.program.cb * short + self.program.ch * left)
        made = items[~np.isnan(items).any(1)]
        mean = made.mean(0).tolist() if len(made) else None
        return Judgement(
            items.mean(1), {"items": mean, "plan_level": plan_level(demand, decisions)}
        )

    def baselines(self) -> dict[str, NDArray[np.float64]]:
        """From all days before the test. ``saa``: the same orders every day. ``knn_saa``: one set a day,
        from the demands of the most similar contexts (:mod:`.neighbours`)."""
        data = self.dataset
        return {
            "saa": np.repeat(self._solved(data.outcomes[data.known][None]), len(data.test), axis=0),
            "knn_saa": neighbour_decisions(
                data,
                self._solved,
                lambda demand, orders: self.program.cost(
                    torch.as_tensor(demand), torch.as_tensor(orders)
                ).numpy(),
            ),
        }

    def _solved(self, demand: NDArray[np.float64]) -> NDArray[np.float64]:
        """Orders ``(B, 7)`` for demands ``(B, M, 7)``."""
        orders: NDArray[np.float64] = solve(self.program, torch.as_tensor(demand)).decision.numpy()
        return orders
