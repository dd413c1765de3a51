"""`task=synthetic`: decisions are judged by their true expected cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusion_dfl.data.mixture import MIXTURES, released_margins
from diffusion_dfl.errors import UserError
from diffusion_dfl.programs import ProductAllocation
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks.synthetic import SyntheticTask, synthetic_task

CONFIG = Path(__file__).parents[2] / "conf/task/synthetic.yaml"


def task(seed: int = 0, **values: Any) -> SyntheticTask:
    return synthetic_task(np.random.default_rng(seed), **values)


def test_program_and_data_fit_together() -> None:
    made = task(num_products=4, capacity=1.5)
    assert (made.program.num_decisions, made.program.capacity) == (4, 1.5)
    assert made.dataset.outcomes.shape == (1000, 4)
    assert (made.name, made.higher_is_better, made.pooled) == ("synthetic", False, True)
    assert not task(context_size=20).pooled


def test_a_mixture_is_named_and_its_numbers_can_be_changed_one_by_one() -> None:
    assert task().margins == MIXTURES["released"]
    assert task(mixture="paper").margins == MIXTURES["paper"]
    changed = task(mixture="paper", p=0.7).margins
    assert (changed.p, changed.outcome_scale) == (0.7, 1.0)


@pytest.mark.parametrize(
    ("values", "cost"),
    [({}, 0.40056), ({"mixture": "paper"}, 0.92938), ({"num_products": 1}, 0.91257)],
)
def test_optimum_is_judged_to_cost_its_golden_number_and_to_regret_nothing(
    values: dict[str, Any], cost: float
) -> None:
    made = task(**values)
    rows = made.dataset.test
    judged = made.judge(rows, np.tile(made.optimum, (len(rows), 1)))
    assert judged.task == pytest.approx(cost, abs=5e-6)
    assert judged.metrics["regret"] == pytest.approx(0.0, abs=1e-14)
    assert judged.metrics["optimal_cost"] == pytest.approx(cost, abs=5e-6)


def test_everything_at_capacity_is_judged_by_its_expectation_not_by_the_lucky_test_rows() -> None:
    made = task()
    rows = made.dataset.test
    judged = made.judge(rows, np.full((len(rows), 10), 2.0))
    assert judged.task == pytest.approx(5.5e3, rel=1e-4)
    profit = made.dataset.outcomes[rows].sum(1)
    assert judged.metrics["realised_cost"] == pytest.approx(np.exp(-2 * profit).mean(), rel=1e-12)


def test_no_decision_beats_the_optimum() -> None:
    made = task()
    draws = np.random.default_rng(1).uniform(0, 2, (200, 10))
    near = np.clip(made.optimum + 1e-3 * np.random.default_rng(2).standard_normal((200, 10)), 0, 2)
    for decisions in (draws, near):
        assert (made.judge(made.dataset.test, decisions).per_row > made.optimal_cost).all()


def test_a_decision_that_was_not_made_counts_in_no_number() -> None:
    made = task()
    rows = made.dataset.test[:3]
    decisions = np.array([[0.5] * 10, [np.nan] * 10, [0.7] * 10])
    judged, without = made.judge(rows, decisions), made.judge(rows[[0, 2]], decisions[[0, 2]])
    assert np.isnan(judged.per_row).tolist() == [False, True, False]
    assert judged.task == without.task
    assert judged.metrics == without.metrics
    none = made.judge(rows, np.full((3, 10), np.nan))
    assert np.isnan(none.per_row).all() and none.metrics == {}


def test_a_cost_beyond_float64_is_infinite_and_its_logarithm_is_not() -> None:
    made = task(mixture="paper", num_products=200)
    judged = made.judge(made.dataset.test[:2], np.full((2, 200), 2.0))
    assert judged.task == np.inf and 8e2 < judged.metrics["log_cost"] < 1e3


def test_baselines_are_optimal_for_what_they_assume() -> None:
    made = task()
    data, plain = made.dataset, made.baselines()
    assert all(z.shape == (200, 10) and np.ptp(z, axis=0).max() == 0 for z in plain.values())
    training = data.outcomes[data.train]

    def sample_cost(z: np.ndarray) -> float:
        return float(np.exp(-training @ z).mean())

    def product_cost(z: np.ndarray) -> float:
        return float(np.exp(-training * z).mean(0).prod())

    rng = np.random.default_rng(5)
    for name, cost in (("saa", sample_cost), ("independent_marginals", product_cost)):
        best = plain[name][0]
        for step in (1e-1, 1e-2, 1e-3):
            for move in rng.standard_normal((20, 10)):
                assert cost(np.clip(best + step * move, 0, 2)) >= cost(best)
    expected = np.clip(training.mean(0) / training.var(0), 0, 2)
    np.testing.assert_allclose(plain["gaussian_plug_in"][0], expected)


def test_baselines_do_not_see_the_test_rows() -> None:
    one, other = task(1), task(1)
    other.dataset.outcomes[other.dataset.test] = 7.0
    for name, decisions in one.baselines().items():
        np.testing.assert_array_equal(decisions, other.baselines()[name])


def test_released_training_points_give_the_golden_sample_average_decision() -> None:
    margins = released_margins()[1]
    train, test = margins[:800], margins[800:]

    def cost_of_best(points: np.ndarray) -> float:
        solution = solve(ProductAllocation(10, 2.0), torch.as_tensor(points)[None])
        return float(np.exp(-test @ solution.decision[0].numpy()).mean())

    assert cost_of_best(train) == pytest.approx(0.39095, abs=5e-6)
    assert cost_of_best(test) == pytest.approx(0.24462, abs=5e-6)


def test_independence_is_worth_more_than_a_sample_average_over_ten_seeds() -> None:
    costs: dict[str, list[float]] = {}
    for seed in range(10):
        made = task(seed)
        for name, decisions in made.baselines().items():
            costs.setdefault(name, []).append(made.judge(made.dataset.test, decisions).task)
    mean = {name: np.mean(values) for name, values in costs.items()}
    assert 0.44 < mean["saa_all"] < mean["saa"] < 0.50
    assert 0.4006 < mean["independent_marginals"] < 0.412
    assert all(np.array(costs["independent_marginals"]) < np.array(costs["saa"]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixture": "printed"}, r"task\.mixture=printed: .*released or paper"),
        ({"p": 0.0}, r"task\.p=0\.0: "),
        ({"sigma": -0.15}, r"task\.sigma=-0\.15: "),
        ({"capacity": 0.0}, r"task\.capacity=0\.0: "),
        ({"capacity": float("inf")}, r"task\.capacity=inf: "),
        ({"num_products": 0}, r"task\.num_products=0: "),
        ({"num_test": 0}, r"task\.num_test=0: "),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task(**values)
