"""`task=synthetic_released`: the numbers of the release, and what each of its switches moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffusion_dfl.data.mixture import released_margins
from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.runs.compile import make_task
from diffusion_dfl.tasks import ReleasedSyntheticTask, released_synthetic_task
from tests.configs import composed


def configured(*overrides: str) -> ReleasedSyntheticTask:
    """The task as `python train.py task=synthetic_released ...` makes it."""
    task = make_task(composed(["task=synthetic_released", *overrides]))
    assert isinstance(task, ReleasedSyntheticTask)
    return task


def cost(task: ReleasedSyntheticTask, order: float) -> float:
    """Headline number of ordering as much of every product."""
    rows = task.dataset.test
    return task.judge(rows, np.full((len(rows), 10), order)).task


def test_capacity_of_everything_costs_what_both_deterministic_rows_of_table_1_print() -> None:
    task = configured()
    assert cost(task, 2.0) == pytest.approx(1.98709, abs=5e-6)
    judged = task.judge(task.dataset.test, task.baselines()["capacity"])
    assert judged.task == pytest.approx(1.98709, abs=5e-6)
    assert judged.metrics["expected_cost"] == pytest.approx(5.5e3, rel=1e-3)


def test_best_allocation_and_the_release_s_own_training_rows_cost_their_golden_numbers() -> None:
    task = configured()
    assert task.optimum[0] == pytest.approx(0.5452, abs=5e-5)
    assert task.optimal_cost == pytest.approx(0.40056, abs=5e-6)
    assert cost(task, task.optimum[0]) == pytest.approx(0.34646, abs=5e-6)
    saa = task.judge(task.dataset.test, task.baselines()["saa_all"])
    assert saa.task == pytest.approx(0.39095, abs=5e-6)


def test_split_is_640_160_200_and_the_last_200_rows_are_the_test() -> None:
    data = configured().dataset
    assert (len(data.train), len(data.validation)) == (640, 160)
    assert data.test.tolist() == list(range(800, 1000))
    contexts, margins = released_margins()
    np.testing.assert_array_equal(data.contexts, contexts)
    np.testing.assert_array_equal(data.outcomes, margins)


def test_seeds_share_the_data_and_the_test_points_and_differ_in_validation() -> None:
    one, two = configured("seed=1").dataset, configured("seed=2").dataset
    np.testing.assert_array_equal(one.outcomes, two.outcomes)
    assert not np.array_equal(one.validation, two.validation)


# Each switch alone


def test_new_data_a_seed_moves_the_cost_of_the_capacity() -> None:
    costs = [cost(configured("task.fixed_data=false", f"seed={seed}"), 2.0) for seed in range(3)]
    assert len({round(value, 3) for value in costs}) == 3
    assert all(abs(value - 1.98709) > 0.1 for value in costs)


def test_expectation_in_place_of_the_200_points_moves_it_from_2_to_5500() -> None:
    expected = configured("task.fixed_test_points=false")
    assert cost(expected, 2.0) == pytest.approx(5.5e3, rel=1e-3)
    assert cost(expected, expected.optimum[0]) == pytest.approx(0.40056, abs=5e-6)


def test_margins_as_the_paper_scales_them_move_it_from_2_to_448() -> None:
    whole = configured("task.outcome_scale=1.0")
    assert cost(whole, 2.0) == pytest.approx(447.5649, abs=1e-3)
    # The same orders at half the size: only the capacity feels the scale.
    assert cost(whole, whole.optimum[0]) == pytest.approx(0.34646, abs=5e-6)


def test_the_papers_probability_of_a_gain_moves_it_beyond_all_numbers_of_the_table() -> None:
    rarer = configured("task.p=0.8")
    assert cost(rarer, 2.0) > 100 * cost(configured(), 2.0)
    gains, same = rarer.dataset.outcomes > 0, configured().dataset.outcomes > 0
    assert not (gains & ~same).any() and 0.78 < gains.mean() < 0.82


def test_without_contexts_one_decision_serves_all_rows() -> None:
    assert not configured().pooled
    bare = configured("task.context_size=0")
    assert bare.pooled and bare.dataset.contexts.shape == (1000, 1)
    assert configured("task.context_size=3").dataset.contexts.shape == (1000, 3)
    assert cost(bare, 2.0) == pytest.approx(1.98709, abs=5e-6)


def test_decisions_that_were_not_made_count_in_no_number() -> None:
    task = configured()
    rows = task.dataset.test
    orders = np.full((200, 10), 0.5)
    orders[0] = np.nan
    judged = task.judge(rows, orders)
    assert np.isnan(judged.per_row[0])
    assert judged.task == pytest.approx(task.judge(rows[1:], orders[1:]).task)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"capacity": 0.0}, r"task\.capacity=0\.0: "),
        ({"context_size": 21}, r"task\.context_size=21: "),
        ({"p": 1.2}, r"task\.p=1\.2: "),
        ({"outcome_scale": -1.0}, r"task\.outcome_scale=-1\.0: "),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=key):
        released_synthetic_task(np.random.default_rng(0), **values)
