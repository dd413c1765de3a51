"""`task=inventory`: orders are judged by their exact expected cost given the context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from diffusion_dfl.errors import UserError
from diffusion_dfl.tasks.inventory import QUANTILES, InventoryTask, inventory_task
from diffusion_dfl.tasks.neighbours import neighbours

CONFIG = Path(__file__).parents[2] / "conf/task/inventory.yaml"
SMALL = {"num_train": 100, "num_validation": 30, "num_test": 40}


def task(seed: int = 0, **values: Any) -> InventoryTask:
    return inventory_task(np.random.default_rng(seed), **values)


def printed_cost(made: InventoryTask, y: float, z: float) -> float:
    """The cost as A.12 prints it."""
    p = made.program
    short, left = max(y - z, 0.0), max(z - y, 0.0)
    order = p.c0 * z + p.q0 / 2 * z**2
    return order + p.cb * short + p.rb / 3 * short**3 + p.ch * left + p.rh / 3 * left**3


def by_quadrature(made: InventoryTask, row: int, z: float) -> float:
    context = made.dataset.contexts[[row]]
    means, width = made.mixture.means, 9 * made.mixture.deviation
    low, high = means[0] - width, means[-1] + width
    breaks = sorted({*means.tolist(), *([z] if low < z < high else [])})
    return quad(
        lambda y: (
            printed_cost(made, y, z) * float(made.mixture.density(np.array([y]), context)[0, 0])
        ),
        low,
        high,
        points=breaks,
        limit=400,
        epsabs=1e-9,
        epsrel=1e-11,
    )[0]


def test_program_and_data_fit_together() -> None:
    made = task(cb=20.0, z_max=4.0, **SMALL)
    assert (made.program.cb, made.program.z_max) == (20.0, 4.0)
    assert made.dataset.outcomes.shape == (170, made.program.num_outcomes) == (170, 1)
    assert (made.name, made.higher_is_better, made.pooled) == ("inventory", False, False)


@pytest.mark.parametrize("num_components", [1, 3, 5])
def test_expected_cost_is_the_integral_of_the_printed_cost(num_components: int) -> None:
    made = task(num_components=num_components, **SMALL)
    rng = np.random.default_rng(1)
    rows = rng.choice(170, 6, replace=False)
    orders = np.concatenate([rng.uniform(0, 5, 4), made.mixture.means[:1], [0.0]])
    exact = made.expected_cost(rows, orders)
    integral = [by_quadrature(made, row, z) for row, z in zip(rows, orders, strict=True)]
    np.testing.assert_allclose(exact, integral, rtol=1e-8)


@pytest.mark.parametrize("values", [{}, {"num_components": 5}, {"z_max": 1.5}, {"c0": 500.0}])
def test_optimum_is_the_best_order_of_its_context(values: dict[str, Any]) -> None:
    made = task(**SMALL, **values)
    rows = np.arange(0, 170, 17)
    grid = np.linspace(0.0, made.program.z_max, 501)
    for row in rows:
        costs = made.expected_cost(np.full(len(grid), row), grid)
        assert made.optimal_cost[row] <= costs.min() + 1e-9
        found = minimize_scalar(
            lambda z, row=row: made.expected_cost(np.array([row]), np.array([z]))[0],
            bounds=(0.0, made.program.z_max),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert made.optimum[row] == pytest.approx(found.x, abs=1e-5)


def test_optimal_orders_regret_nothing_and_win() -> None:
    made = task()
    rows = made.dataset.test
    judged = made.judge(rows, made.optimum[rows][:, None])
    assert judged.metrics["regret"] == 0.0
    assert judged.task == judged.metrics["optimal_cost"]
    assert judged.metrics["win_rate_saa"] == 1.0
    assert judged.metrics["decision_quantiles"] == judged.metrics["optimum_quantiles"]
    assert len(judged.metrics["regret_quantiles"]) == len(QUANTILES)
    error = 4 * 60 / len(rows) ** 0.5
    assert judged.metrics["realised_cost"] == pytest.approx(judged.task, abs=error)


def test_expected_and_realised_cost_agree_on_many_rows() -> None:
    made = task(num_test=60_000)
    rows = made.dataset.test
    orders = np.random.default_rng(1).uniform(0, 5, (len(rows), 1))
    judged = made.judge(rows, orders)
    y = torch.as_tensor(made.dataset.outcomes[rows])
    spread = float(made.program.cost(y, torch.as_tensor(orders)).std())
    error = 4 * spread / len(rows) ** 0.5
    assert judged.metrics["realised_cost"] == pytest.approx(judged.task, abs=error)
    assert judged.metrics["regret"] > 0 and judged.metrics["win_rate_saa"] < 0.6


def test_a_decision_that_was_not_made_counts_in_no_number() -> None:
    made = task(**SMALL)
    rows = made.dataset.test[:3]
    orders = np.array([[1.0], [np.nan], [3.0]])
    judged, without = made.judge(rows, orders), made.judge(rows[[0, 2]], orders[[0, 2]])
    assert np.isnan(judged.per_row).tolist() == [False, True, False]
    assert judged.task == without.task and judged.metrics == without.metrics
    none = made.judge(rows, np.full((3, 1), np.nan))
    assert np.isnan(none.per_row).all() and none.metrics == {}


def test_saa_is_the_best_constant_on_the_demand_before_the_test() -> None:
    made = task()
    demand = torch.as_tensor(made.dataset.outcomes[made.dataset.known])
    grid = torch.linspace(0, 5, 1001, dtype=torch.float64)

    def cost(z: torch.Tensor) -> float:
        return float(made.program.cost(demand, z.reshape(1)).mean())

    assert cost(torch.tensor(made.saa)) <= min(cost(z) for z in grid)
    assert abs(made.saa - float(min(grid, key=cost))) <= 0.005
    decisions = made.baselines()["saa"]
    assert np.unique(decisions).tolist() == [made.saa]
    judged = made.judge(made.dataset.test, decisions)
    assert judged.metrics["win_rate_saa"] == 0.0


def test_neighbours_beat_one_order_for_all_where_the_context_tells() -> None:
    for seed in range(3):
        made = task(seed)
        costs = {
            name: made.judge(made.dataset.test, decisions)
            for name, decisions in made.baselines().items()
        }
        assert costs["knn_saa"].metrics["regret"] < 0.85 * costs["saa"].metrics["regret"]
        assert costs["knn_saa"].metrics["win_rate_saa"] > 0.5


def test_baselines_do_not_see_the_test_rows() -> None:
    one, other = task(1, **SMALL), task(1, **SMALL)
    other.dataset.outcomes[other.dataset.test] = 9.0
    for name, decisions in one.baselines().items():
        np.testing.assert_array_equal(decisions, other.baselines()[name])
        assert decisions.shape == (40, 1)


def test_all_neighbours_give_the_sample_average_order() -> None:
    made = task(**SMALL)
    known = made.dataset.known
    demand = neighbours(made.dataset, made.dataset.test, len(known), known)
    np.testing.assert_allclose(made._solved(torch.as_tensor(demand)), made.saa, rtol=1e-9)


@pytest.mark.parametrize("part", ["train", "known"])
def test_neighbours_are_those_nearest_in_deviations_of_the_rows_that_are_known(part: str) -> None:
    data = task(**SMALL).dataset
    rows = getattr(data, part)
    known = data.contexts[rows]
    distance = ((data.contexts[data.test][:, None] - known) / known.std(0)) ** 2
    nearest = np.argsort(distance.sum(2), axis=1)[:, :7]
    found = neighbours(data, data.test, 7, rows)
    np.testing.assert_allclose(
        np.sort(found[:, :, 0]), np.sort(data.outcomes[rows][nearest][:, :, 0])
    )
    if part == "train":
        np.testing.assert_array_equal(neighbours(data, data.test, 7), found)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"c0": float("nan")}, r"task\.c0=nan: "),
        ({"rb": -1.0}, r"task\.rb=-1\.0: "),
        ({"z_max": 0.0}, r"task\.z_max=0\.0: "),
        ({"num_components": 0}, r"task\.num_components=0: "),
        ({"weights": [0.5, 0.5, 0.5]}, r"task\.weights=.* sum to 1\.5;"),
        ({"deviation": -0.2}, r"task\.deviation=-0\.2: "),
        ({"num_train": 0}, r"task\.num_train=0: "),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task(**values)
