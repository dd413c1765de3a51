"""What a run says when it ends."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from diffusion_dfl.suite.config.commands import identity_of_record
from diffusion_dfl.suite.config.compose import Identity
from diffusion_dfl.suite.reporting import console
from diffusion_dfl.suite.reporting.console import announce, best_baseline, two_stage_of
from tests.suite.reporting.records import summary


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
    assert "test return 0.0493 % a day (higher is better)" in line
    assert "best of the task's plain baselines: Equal weight 0.0512" in line
    assert "validation cost 0.00021 (start 1435)" in line


def test_a_run_that_trained_on_all_rows_has_no_validation_cost_to_tell(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = record("power", 3.1)
    found["validation"] = {"task": None, "first_task": None}
    announce(found)
    line = capsys.readouterr().out
    assert "all days before the test trained on, test cost 3.100" in line
    assert "validation" not in line


@pytest.mark.parametrize("task", ["power", "synthetic", "inventory"])
def test_the_other_tasks_say_a_cost(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    announce(record(task, 3.1, task_exact=3.4, baselines={"a": 5.0, "b": 4.0}))
    line = capsys.readouterr().out
    assert line.startswith(f"{task} diffusion-score seed 3 (real data, scale laptop): ")
    assert (
        "test cost 3.100, with the exact rule 3.400, best of the task's plain baselines: B 4.000, 60 s"
    ) in line


def test_a_task_of_ones_own_has_titles_for_the_baselines_of_a_data_frame(
    capsys: pytest.CaptureFixture[str],
) -> None:
    announce(record("shop", 3.1, baselines={"saa": 5.0, "knn_saa": 4.0}))
    told = "best of the task's plain baselines: Sample average of the nearest contexts 4.000"
    assert told in capsys.readouterr().out


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


def _kept(results: Path, found: dict[str, Any], status: str = "finished") -> None:
    """A record on disk where its run would be."""
    folder = results / "runs" / identity_of_record(found).path
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(found))
    (folder / "status.json").write_text(json.dumps({"status": status}))


def _two_stage(value: float, **differs: Any) -> dict[str, Any]:
    found = record("power", value)
    found["identity"] |= {"grad": "two_stage", "differs": differs}
    return found


def test_a_run_is_held_against_two_stage_and_the_plain_baseline_and_says_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _kept(tmp_path, _two_stage(3.3))
    announce(record("power", 3.1, baselines={"ols_offsets": 3.05}), tmp_path)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("power diffusion-score seed 3 (")
    assert rest == [
        "  two-stage, same seed: 3.300, this run is 0.200 better",
        "  best of the task's plain baselines, Least squares and an offset an hour: 3.050, this run is "
        "0.050 worse",
        f"  files: {tmp_path}/runs/laptop/power/diffusion-score/seed-3",
    ]


def test_what_wandb_wrote_offline_is_named_with_the_command_that_uploads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    found = record("power", 3.1)
    folder = tmp_path / "runs" / identity_of_record(found).path / "wandb" / "offline-run-1-a"
    folder.mkdir(parents=True)
    announce(found, tmp_path)
    upload = f"python scripts/wandb_sync.py --results {tmp_path}"
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"  W&B, offline: {folder}; `{upload}` uploads it"
    monkeypatch.setattr(console, "REPOSITORY", tmp_path.parent)
    announce(found, tmp_path.rename(tmp_path.parent / "results"))
    assert capsys.readouterr().out.endswith("`make wandb-sync` uploads it\n")


def test_where_more_is_better_a_higher_number_is_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = record("portfolio", 0.05, higher_is_better=True, baselines={"equal_weight": 0.04})
    announce(found, tmp_path)
    assert "Equal weight: 0.0400 % a day, this run is 0.0100 better" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "other", "told"),
    [
        (1e-4, 4e-4, "0.000400, this run is 0.000300 better"),
        (4e-4, 1e-4, "0.000100, this run is 0.000300 worse"),
        (4e-4, 4.000001e-4, "0.000400, this run is level"),
        (3.0001, 3.0002, "3.000, this run is level"),
        (0.0, 0.0, "0.000, this run is level"),
        (1434.0, 1435.25, "1435.250, this run is 1.250 better"),
    ],
)
def test_small_numbers_are_compared_by_their_own_size(
    value: float, other: float, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    announce(record("power", value, baselines={"ols_offsets": other}), tmp_path)
    assert (
        f"plain baselines, Least squares and an offset an hour: {told}" in capsys.readouterr().out
    )


def test_a_two_stage_run_of_other_settings_or_unfinished_is_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _kept(tmp_path, _two_stage(9.0, **{"model.width": 8}))
    _kept(tmp_path, _two_stage(9.0), "failed")
    announce(record("power", 3.1), tmp_path)
    assert (
        "two-stage, same seed: no run here yet; make it with `python train.py task=power "
        "model=diffusion grad=two_stage seed=3`"
    ) in capsys.readouterr().out


def test_keys_that_two_stage_does_not_read_make_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _kept(tmp_path, _two_stage(3.3, **{"train.epochs": 9}))
    found = record("power", 3.1)
    found["identity"]["differs"] = {"grad.fit_weight": 0.5, "train.learning_rate": 1e-3}
    announce(found, tmp_path)
    assert "two-stage, same seed: 3.300, this run is 0.200 better" in capsys.readouterr().out


@pytest.mark.parametrize("grad", ["two_stage", "policy"])
def test_what_has_no_two_stage_is_held_against_none(grad: str) -> None:
    identity = Identity("power", "policy", grad, "laptop", 0, "real", {}, "")
    assert two_stage_of(identity) is None
