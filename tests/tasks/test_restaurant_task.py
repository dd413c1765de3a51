"""`task=restaurant`: its costs are the published study's, and its sample average costs what theirs does."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_dfl.data.dataset import DataError
from diffusion_dfl.data.download import ENVIRONMENT_VARIABLE
from diffusion_dfl.data.restaurant import ITEMS
from diffusion_dfl.predictors import ForestWeights
from diffusion_dfl.programs import Newsvendor
from diffusion_dfl.solvers import solve
from diffusion_dfl.suite.reporting.published import COSTS, LEVELS, SAMPLE_AVERAGE, published
from diffusion_dfl.tasks.restaurant import RestaurantTask, restaurant_task

real = pytest.mark.skipif(ENVIRONMENT_VARIABLE not in os.environ, reason="real data only")


def task(**values: Any) -> RestaurantTask:
    return restaurant_task("real", np.random.default_rng(0), **values)


@real
@pytest.mark.parametrize(("level", "cost"), list(zip(LEVELS, SAMPLE_AVERAGE, strict=True)))
def test_the_sample_average_costs_what_was_published(level: float, cost: float) -> None:
    made = task(service_level=level, features="calendar")
    orders = made.baselines()["saa"]
    assert round(made.judge(made.dataset.test, orders).task, 3) == cost


@real
def test_a_day_costs_the_mean_over_the_items() -> None:
    made = task(service_level=0.75, features="calendar")
    rows = made.dataset.test[:3]
    demand = made.dataset.outcomes[rows]
    orders = demand + np.array([[4.0, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    orders[2] = np.nan
    judged = made.judge(rows, orders)
    # 2.5 a unit left over, 7.5 a unit short.
    np.testing.assert_allclose(judged.per_row, [25 / 7, 25 / 7, np.nan])
    np.testing.assert_allclose(judged.metrics["items"], [10, 15, 0, 0, 0, 0, 0])
    assert judged.metrics["plan_level"] == pytest.approx(6 / 7)
    program = made.program.cost(torch.as_tensor(demand[:2]), torch.as_tensor(orders[:2]))
    np.testing.assert_allclose(program, judged.per_row[:2])
    assert made.judge(rows, np.full_like(orders, np.nan)).metrics["items"] is None
    assert made.decision_names == ITEMS


@real
def test_a_storage_holds_all_orders_of_a_day_together() -> None:
    free, stored = task(features="calendar"), task(features="calendar", storage=100.0)
    assert free.program.separable and not stored.program.separable
    for name, orders in stored.baselines().items():
        assert orders.min() >= 0 and orders.sum(1).max() <= 100 + 1e-9
        assert free.baselines()[name].sum(1).max() > 100


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"service_level": 1.0},
            r"task\.service_level=1\.0: it must be in \(0, 1\), e\.g\. 0\.9\.",
        ),
        ({"storage": 0.0}, r"task\.storage=0\.0: it must be a finite number above 0, or null"),
        ({"z_max": -1.0}, r"task\.z_max=-1\.0: it must be above 0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(values: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        task(**values)


def test_published_costs_stand_beside_the_studys_own_problem_alone() -> None:
    config = {"task.service_level": 0.9, "task.storage": None}
    found = published("restaurant", config)
    assert found["Published, sample average"] == 14.457
    assert found["Published, all features†: random-forest weights"] == 9.447
    assert len(found) == 13
    assert published("restaurant", {**config, "task.service_level": 0.8}) == {}
    assert published("restaurant", {**config, "task.storage": 100.0}) == {}
    assert published("inventory", config) == {}


def forest_costs(published_lags: bool) -> list[float]:
    """Costs at the five levels of a forest an item, with the item's own lags: the study's protocol, its
    hyperparameters left at their defaults."""
    made = task(published_lags=published_lags)
    data, costs = made.dataset, np.zeros(len(LEVELS))
    others = {
        name: item for item in ITEMS for name in data.feature_names if name.startswith(f"{item}_")
    }
    for number, item in enumerate(ITEMS):
        own = [k for k, name in enumerate(data.feature_names) if others.get(name, item) == item]
        contexts = torch.as_tensor(data.contexts[:, own])
        demand = torch.as_tensor(data.outcomes[:, [number]])
        forest = ForestWeights(len(own), 1, trees=100, leaf_rows=1, feature_share=1.0)
        forest.fit_rows(contexts[data.known], demand[data.known])
        weights = forest.row_weights(contexts[data.test])
        for place, level in enumerate(LEVELS):
            program = Newsvendor(
                c0=0, q0=0, cb=10 * level, rb=0, ch=10 * (1 - level), rh=0, z_max=500
            )
            orders = solve(program, demand[data.known].expand(len(weights), -1, -1), weights)
            costs[place] += float(program.cost(demand[data.test], orders.decision).mean()) / 7
    return costs.tolist()


@real
@pytest.mark.slow
def test_a_forest_an_item_costs_what_was_published_only_if_it_knows_the_demand() -> None:
    """Its lags contain the demand of the day, as the study's do; with those of the days before it is
    scarcely better than the sample average."""
    theirs = COSTS["special", "forest"]
    np.testing.assert_allclose(forest_costs(True), theirs, rtol=0.02)
    honest = np.array(forest_costs(False))
    assert (honest > 1.15 * np.array(theirs)).all()
    assert (honest < SAMPLE_AVERAGE).all()
