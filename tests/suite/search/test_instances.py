"""What trials are judged on: no test row, whole blocks, the same for everyone."""

import dataclasses

import numpy as np
import pytest

from diffusion_dfl.data import DataError
from diffusion_dfl.suite.runs.compile import make_task
from diffusion_dfl.suite.search.instances import SEEDS, data_digest, instances, without_test
from tests.configs import composed

POWER = ["task=power", "data=simulated", "model=gaussian", "grad=two_stage"]


def test_no_test_row_is_in_memory() -> None:
    config = composed(POWER)
    whole = make_task(config)
    first_test = whole.dataset.dates[whole.dataset.test[0]]
    for one in instances(config):
        data = one.task.dataset
        assert len(data.test) == 0
        assert data.dates.max() < first_test
        assert len(data.contexts) == len(whole.dataset.known)
        np.testing.assert_array_equal(data.outcomes, whole.dataset.outcomes[whole.dataset.known])


def test_the_folds_of_a_seed_hold_every_known_day_once_in_blocks_with_a_gap() -> None:
    every = instances(composed(POWER))
    for seed in SEEDS:
        folds = [one.task.dataset for one in every if one.seed == seed]
        held = np.sort(np.concatenate([data.validation for data in folds]))
        np.testing.assert_array_equal(held, np.arange(len(folds[0].contexts)))
        for data in folds:
            near = np.concatenate([data.validation + shift for shift in (-1, 0, 1)])
            assert not np.isin(data.train, near).any()


def test_the_first_half_of_the_instances_has_every_fold_and_the_seeds_in_turn() -> None:
    every = instances(composed(POWER))
    names = [(one.fold, one.seed) for one in every]
    assert len(set(names)) == 8
    assert sorted(fold for fold, _ in names[:4]) == [0, 1, 2, 3]
    assert {seed for _, seed in names[:2]} == set(SEEDS)


def test_a_simulated_task_has_new_data_a_seed_and_the_digest_tells_them() -> None:
    words = ["task=inventory", "model=gaussian", "grad=two_stage"]
    every = instances(composed(words))
    sums = {one.seed: one.task.dataset.outcomes.sum() for one in every}
    assert len(set(sums.values())) == len(SEEDS)
    again = instances(composed([*words, "task.deviation=0.3"]))
    assert data_digest(every) != data_digest(again)
    same = instances(composed(words))
    same[0].task.dataset.contexts[0, 0] += 1e-13  # by another number of threads
    assert data_digest(every) == data_digest(same)


def test_folds_ahead_have_the_last_third_in_order_and_only_days_before_to_fit_on() -> None:
    every = instances(composed(POWER), "ahead")
    for seed in SEEDS:
        folds = [one.task.dataset for one in every if one.seed == seed]
        folds.sort(key=lambda data: data.validation[0])
        count = len(folds[0].contexts)
        held = np.concatenate([data.validation for data in folds])
        np.testing.assert_array_equal(held, np.arange(count - count // 3, count))
        for data in folds:
            expected = np.arange(data.validation[0] - data.gap_rows)
            np.testing.assert_array_equal(data.train, expected)
    with pytest.raises(DataError, match=r"search folds=9999: the last third of \d+ rows"):
        instances(composed(POWER), "ahead", 9999)


def test_more_folds_than_blocks_are_refused() -> None:
    config = composed([*POWER, "data.num_days=120"])
    with pytest.raises(DataError, match=r"search folds=99: .* rows make \d+ blocks of 14 rows"):
        instances(config, num_folds=99)


def test_weights_of_rows_stay_with_them() -> None:
    task = make_task(composed(POWER))
    data = task.dataset
    task.dataset = dataclasses.replace(data, weights=1.0 + np.arange(len(data.contexts)))
    left = without_test(task).dataset
    np.testing.assert_array_equal(left.weights, 1.0 + data.known)


def test_a_task_without_its_test_part_leaves_the_task_alone() -> None:
    task = make_task(composed(POWER))
    before = len(task.dataset.contexts)
    without_test(task)
    assert len(task.dataset.contexts) == before
    assert len(task.dataset.test)
