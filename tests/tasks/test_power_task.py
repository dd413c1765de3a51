"""What `task=power` ties together."""

import dataclasses
import json
import os
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from diffusion_dfl.errors import UserError
from diffusion_dfl.tasks import power_task
from diffusion_dfl.tasks.power import PowerTask


def _task(source: str = "simulated", **values: Any) -> PowerTask:
    values = {
        "url": "http://127.0.0.1:9/",
        "directory": "nowhere",
        "num_days": 200,
        "validation_fraction": 0.2,
        "block_weeks": 2,
        "gap_days": 1,
        **values,
    }
    return power_task(source, np.random.default_rng(0), **values)


def test_program_and_data_fit_together() -> None:
    task = _task(shortage=7.0, excess=2.0, ramp=0.1)
    assert (task.program.shortage, task.program.excess, task.program.ramp) == (7.0, 2.0, 0.1)
    assert task.program.num_decisions == task.dataset.outcomes.shape[1] == 24
    assert (task.name, task.higher_is_better) == ("power", False)


def test_the_papers_costs_are_the_default() -> None:
    program = _task().program
    assert (program.shortage, program.excess, program.ramp) == (50.0, 0.5, 0.4)


def test_values_no_data_can_meet_are_refused() -> None:
    with pytest.raises(UserError, match="validation_fraction"):
        _task(validation_fraction=1.5)
    with pytest.raises(UserError, match="num_days"):
        _task(num_days=3)
    with pytest.raises(UserError, match="source|data=weather"):
        _task(source="weather")


def test_missing_files_are_refused_and_nothing_is_simulated(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"data\.root="):
        _task(source="real", root=str(tmp_path / "missing"))


# Judging


def _printed_cost(load: np.ndarray, plan: np.ndarray) -> np.ndarray:
    """Cost of each hour as A.10 prints it."""
    gap = load - plan
    return 50 * np.maximum(gap, 0) + 0.5 * np.maximum(-gap, 0) + 0.5 * gap**2


def test_a_day_costs_the_sum_of_its_hours() -> None:
    task = _task()
    rows = task.dataset.test[:7]
    plans = task.dataset.outcomes[rows] + np.random.default_rng(1).normal(0, 0.2, (7, 24))
    hourly = _printed_cost(task.dataset.outcomes[rows], plans)
    judgement = task.judge(rows, plans)
    np.testing.assert_allclose(judgement.per_row, hourly.sum(1))
    np.testing.assert_allclose(judgement.metrics["hourly"], hourly.mean(0))
    assert judgement.task == pytest.approx(hourly.sum() / 7)


def test_plain_baselines_read_no_test_load_and_are_feasible() -> None:
    one, other = _task(), _task()
    outcomes = other.dataset.outcomes.copy()
    outcomes[other.dataset.test] = 9.0
    other.dataset = dataclasses.replace(other.dataset, outcomes=outcomes)
    found = one.baselines()
    assert list(found) == ["ols_offsets", "saa", "knn_saa"]
    for name, schedules in found.items():
        np.testing.assert_array_equal(schedules, other.baselines()[name])
        assert np.abs(np.diff(schedules)).max() <= one.program.ramp + 1e-9
    assert np.ptp(found["saa"], axis=0).max() == 0.0


def test_plain_baselines_know_every_day_before_the_test_gaps_included() -> None:
    """What a refit to all rows before the test is held against."""
    task = _task(num_days=400)
    data = task.dataset
    gaps = np.setdiff1d(data.known, np.concatenate([data.train, data.validation]))
    assert len(gaps) and gaps.max() < data.test.min()
    found = task.baselines()
    for days in (gaps, data.validation):
        outcomes = data.outcomes.copy()
        outcomes[days] += 1.0
        other = PowerTask(dataclasses.replace(data, outcomes=outcomes), task.program).baselines()
        for name in ("ols_offsets", "saa"):
            assert not np.allclose(other[name], found[name]), name


def test_the_level_of_a_plan_is_the_share_of_loads_at_or_below_it() -> None:
    task = _task()
    rows = task.dataset.test[:6]
    load = task.dataset.outcomes[rows]
    plans = load - 0.1
    plans[:2] = load[:2]  # two days of six are covered to the last bit
    assert task.judge(rows, plans).metrics["plan_level"] == pytest.approx(2 / 6)
    plans[5] = np.nan
    assert task.judge(rows, plans).metrics["plan_level"] == pytest.approx(2 / 5)
    assert task.judge(rows, np.full_like(load, np.nan)).metrics["plan_level"] is None


def test_the_load_itself_costs_nothing() -> None:
    task = _task()
    rows = task.dataset.test
    assert task.judge(rows, task.dataset.outcomes[rows]).per_row.tolist() == [0.0] * len(rows)


def test_a_day_without_decision_counts_in_no_number() -> None:
    task = _task()
    rows = task.dataset.test[:5]
    plans = task.dataset.outcomes[rows] + 0.1
    whole = task.judge(rows[1:], plans[1:])
    plans[0] = np.nan
    found = task.judge(rows, plans)
    assert np.isnan(found.per_row[0])
    assert found.task == pytest.approx(whole.task)
    assert found.metrics["hourly"] == pytest.approx(whole.metrics["hourly"])


def test_no_decision_at_all_is_no_number_and_no_warning() -> None:
    task = _task()
    rows = task.dataset.test[:2]
    found = task.judge(rows, np.full((2, 24), np.nan))
    assert np.isnan(found.task)
    json.dumps(found.metrics, allow_nan=False)


# The plain baseline


def _with_other_test_loads(task: PowerTask) -> PowerTask:
    outcomes = task.dataset.outcomes.copy()
    outcomes[task.dataset.test] += 5.0
    return PowerTask(dataclasses.replace(task.dataset, outcomes=outcomes), task.program)


def test_the_baseline_meets_the_ramps_and_sees_no_test_load() -> None:
    task = _task(num_days=400, ramp=0.1)
    plans = task.baselines()["ols_offsets"]
    assert plans.shape == (len(task.dataset.test), 24)
    assert np.abs(np.diff(plans, axis=1)).max() <= 0.1 + 1e-9
    other = _with_other_test_loads(task)
    np.testing.assert_array_equal(other.baselines()["ols_offsets"], plans)
    assert other.judge(task.dataset.test, plans).task > task.judge(task.dataset.test, plans).task


def test_the_offset_of_an_hour_is_the_cheapest_for_the_days_before_the_test() -> None:
    task = _task(num_days=400, ramp=np.inf)  # no ramp moves a plan off its offset
    data = task.dataset
    known = data.known
    inputs = np.column_stack([data.contexts, np.ones(len(data.contexts))])
    weights = np.linalg.lstsq(inputs[known], data.outcomes[known], rcond=None)[0]
    residuals = data.outcomes[known] - inputs[known] @ weights
    offsets = task.baselines()["ols_offsets"] - inputs[data.test] @ weights
    np.testing.assert_allclose(offsets, offsets[:1].repeat(len(offsets), 0), atol=1e-9)
    for hour in range(0, 24, 6):
        best = minimize_scalar(
            lambda shift, e=residuals[:, hour]: _printed_cost(e, np.full_like(e, shift)).mean(),
            bounds=(0.0, 2.0),
            method="bounded",
            options={"xatol": 1e-10},
        )
        cheapest = _printed_cost(residuals[:, hour], np.full(len(residuals), offsets[0, hour]))
        assert cheapest.mean() <= best.fun + 1e-9


@pytest.mark.skipif("DIFFUSION_DFL_DATA" not in os.environ, reason="no real data to test on")
@pytest.mark.slow
def test_on_real_loads_the_baseline_costs_what_the_facts_lead_one_to_expect() -> None:
    full = _task(source="real", features="full").baselines()
    task = _task(source="real")
    plans = task.baselines()["ols_offsets"]
    assert np.abs(np.diff(plans, axis=1)).max() <= 0.4 + 1e-9
    # 3.71 with the release's features without temperatures and its split.
    assert 3.5 < task.judge(task.dataset.test, plans).task < 3.8
    assert 3.5 < task.judge(task.dataset.test, full["ols_offsets"]).task < 3.8
