"""What a run says when it ends."""

from typing import Any

import pytest

from diffusion_dfl.reporting.console import announce, best_baseline
from tests.reporting.records import summary


def record(task: str, value: float | None, **test: Any) -> dict[str, Any]:
    """A finished run of a task."""
    found = summary("diffusion", "score", 3, value, test)
    found["identity"]["task"] = task
    found["validation"] = {"task": 0.00021, "first_task": 1434.6961}
    return found


def test_a_portfolio_says_its_return_its_direction_and_the_best_baseline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    baselines = {"equal_weight": 0.0512, "ridge": -0.2, "saa_train": None}
    announce(record("portfolio", 0.0493, higher_is_better=True, baselines=baselines))
    line = capsys.readouterr().out
    assert "test return 0.049 % a day (higher is better)" in line
    assert "best plain baseline: equal_weight 0.051" in line
    assert "validation cost 0.00021 (start 1435)" in line


@pytest.mark.parametrize("task", ["power", "synthetic", "inventory"])
def test_the_other_tasks_say_a_cost(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    announce(record(task, 3.1, task_exact=3.4, baselines={"a": 5.0, "b": 4.0}))
    line = capsys.readouterr().out
    assert line.startswith(f"{task} diffusion-score seed 3 (real data, scale laptop): ")
    assert "test cost 3.100, with the exact rule 3.400, best plain baseline: b 4.000, 60 s" in line


def test_an_exact_rule_that_is_the_rule_is_not_said_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    announce(record("synthetic", 0.4, task_exact=0.4))
    assert "exact rule" not in capsys.readouterr().out


def test_a_record_without_a_finite_number_or_without_baselines_is_said_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = record("synthetic", None)
    del found["test"]["higher_is_better"]
    announce(found)
    assert "test cost not finite, 60 s" in capsys.readouterr().out


def test_a_tuning_run_says_no_test_number(capsys: pytest.CaptureFixture[str]) -> None:
    announce({**record("power", 3.0), "test": {}})
    assert "test" not in capsys.readouterr().out


def test_the_best_baseline_follows_the_direction() -> None:
    values = {"low": 1.0, "high": 2.0, "none": None, "infinite": float("inf")}
    assert best_baseline(values, higher_is_better=False) == ("low", 1.0)
    assert best_baseline(values, higher_is_better=True) == ("high", 2.0)
    assert best_baseline({"none": None}, higher_is_better=True) is None
