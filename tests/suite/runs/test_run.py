"""Whole runs, in small: the record, its repetition, what runs share."""

import copy
import errno
import getpass
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from diffusion_dfl.errors import UserError
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.suite.config.compose import fit_path, identify
from diffusion_dfl.suite.runs.run import run
from tests.configs import composed

pytestmark = pytest.mark.usefixtures("every_epoch")

REPOSITORY = Path(__file__).resolve().parents[3]
TINY = (
    "data=simulated",
    "scale=smoke",
    "model=gaussian",
    "grad=score",
    "fit.epochs=2",
    "train.epochs=1",
    "data.num_days=200",
    "evaluation.num_large=40",
    "model.width=16",
    "device=cpu",
    "train.batch_size=64",
    "train.keep=best",
)


def _overrides(root: Path, *more: str) -> list[str]:
    return [*TINY, f"output.root={root}", *more]


def _run(root: Path, *more: str) -> dict[str, Any]:
    return run(composed(_overrides(root, *more)))


def _directory(root: Path, *more: str) -> Path:
    return root / "runs" / identify(composed(_overrides(root, *more))).path


def _fit_directory(root: Path, *more: str) -> Path:
    return root / "runs" / fit_path(composed(_overrides(root, *more)))


def _numbers(summary: dict[str, Any]) -> dict[str, Any]:
    """A record without what may differ between repetitions."""
    return {k: v for k, v in copy.deepcopy(summary).items() if k not in ("timing", "resources")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one finished run in it."""
    root = tmp_path_factory.mktemp("results")
    _run(root)
    return root


def _summary(root: Path, *more: str) -> dict[str, Any]:
    return json.loads((_directory(root, *more) / "summary.json").read_text())


def test_the_record_has_its_schema(root: Path) -> None:
    summary = _summary(root)
    assert summary["schema"] == 1
    assert set(summary) == {
        "schema",
        "identity",
        "sources",
        "test",
        "validation",
        "timing",
        "resources",
    }
    assert set(summary["identity"]) == {
        "task",
        "model",
        "grad",
        "scale",
        "source",
        "seed",
        "config_hash",
        "source_hash",
        "differs",
    }
    assert set(summary["test"]) == {
        "task",
        "task_exact",
        "task_large",
        "task_exact_large",
        "rmse_scenario",
        "rmse_mean",
        "crps",
        "coverage_90",
        "solver_failures",
        "higher_is_better",
        "hourly",
        "plan_level",
        "nonfinite_rows",
        "num_rows",
        "baselines",
    }
    assert set(summary["validation"]) == {
        "task",
        "first_task",
        "best_epoch",
        "epochs",
        "diverged",
        "fit_loss",
        "fit_best_epoch",
        "refit_epochs",
        "solver_failures",
        "solver",
    }
    assert set(summary["timing"]) == {
        "fit",
        "sampling",
        "solving",
        "backward",
        "validation",
        "evaluation",
        "total",
    }
    assert set(summary["resources"]) == {
        "device",
        "threads",
        "peak_memory_bytes",
        "saved_for_backward_bytes",
    }


def test_the_numbers_of_the_record_are_sound(root: Path) -> None:
    summary = _summary(root)
    test, validation = summary["test"], summary["validation"]
    for key in ("task", "task_exact", "task_large", "rmse_scenario", "rmse_mean", "crps"):
        assert test[key] > 0, key
        assert math.isfinite(test[key]), key
    assert test["task"] == pytest.approx(sum(test["hourly"]))
    assert len(test["hourly"]) == 24
    assert 0 <= test["coverage_90"] <= 1
    assert test["rmse_scenario"] > test["rmse_mean"] > test["crps"]
    assert test["solver_failures"] == 0
    assert not test["higher_is_better"]
    assert validation["epochs"] == 1
    assert validation["best_epoch"] in (0, 1)
    assert validation["task"] <= validation["first_task"]
    assert not validation["diverged"]
    assert all(value >= 0 for value in summary["timing"].values())
    assert summary["resources"]["saved_for_backward_bytes"] > 0
    assert 0 < test["plan_level"] < 1
    assert validation["refit_epochs"] is None  # scale=smoke makes none
    assert summary["identity"]["seed"] == 0


def test_the_directory_holds_what_the_design_names(root: Path) -> None:
    path = _directory(root)
    assert {item.name for item in path.iterdir()} - {".lock"} == {
        "config.yaml",
        "summary.json",
        "metrics.jsonl",
        "status.json",
        "env.json",
        "checkpoint.pt",
        "checkpoint.previous.pt",
        "weights.pt",
        "interface.json",
        "rows.csv",
        "run.log",
    }
    status = json.loads((path / "status.json").read_text())
    assert status["status"] == "finished"
    assert status["sha256"] == {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest()
        for name in (
            "config.yaml",
            "summary.json",
            "metrics.jsonl",
            "rows.csv",
            "weights.pt",
            "interface.json",
        )
    }
    epochs = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in epochs] == [("train", 0), ("train", 1)]
    assert {"loss", "decision_cost", "gradient_norm", "validation_score"} <= set(epochs[1])
    days = (path / "rows.csv").read_text().splitlines()
    summary = _summary(root)
    assert days[0] == "row,task"
    costs = [float(line.split(",")[1]) for line in days[1:]]
    assert len(costs) == summary["test"]["num_rows"]
    assert sum(costs) / len(costs) == pytest.approx(summary["test"]["task"], abs=1e-5)


def test_the_weights_are_those_of_the_best_epoch(root: Path) -> None:
    path = _directory(root)
    weights = torch.load(path / "weights.pt", weights_only=True)
    best = torch.load(path / "checkpoint.pt", weights_only=True)["best"]
    assert weights.keys() == best.keys()
    assert all(torch.equal(weights[key], best[key]) for key in best)


def test_records_name_no_machine_no_user_and_no_time(root: Path) -> None:
    for path in (_directory(root), _fit_directory(root)):
        for item in path.iterdir():
            if item.suffix not in (".yaml", ".json", ".jsonl", ".csv", ".log"):
                continue
            text = item.read_text()
            for secret in (str(root), str(REPOSITORY), str(Path.home()) + "/", os.uname().nodename):
                assert secret not in text, (item.name, secret)
            assert time.strftime("%Y-%m-%d") not in text, item.name
            if getpass.getuser() != "root":  # too common a word to look for
                assert getpass.getuser() not in text, item.name


def test_a_finished_run_is_found_not_repeated(root: Path) -> None:
    path = _directory(root)
    before = {item.name: item.stat().st_mtime_ns for item in path.iterdir() if item.name != ".lock"}
    assert _run(root) == _summary(root)
    after = {item.name: item.stat().st_mtime_ns for item in path.iterdir() if item.name != ".lock"}
    assert after == before


def test_the_same_seed_gives_the_same_record_and_another_seed_another(
    root: Path, tmp_path: Path
) -> None:
    torch.manual_seed(12345)  # what the process did before does not matter
    again = _run(tmp_path)
    assert _numbers(again) == _numbers(_summary(root))
    days = [(_directory(where) / "rows.csv").read_bytes() for where in (root, tmp_path)]
    assert days[0] == days[1]
    other = _run(tmp_path, "seed=1")
    assert other["identity"]["config_hash"] == again["identity"]["config_hash"]
    assert other["test"]["task"] != again["test"]["task"]


def test_runs_of_one_seed_share_one_fit(tmp_path: Path) -> None:
    _run(tmp_path, "grad=two_stage")
    fit = _fit_directory(tmp_path)
    names = ("checkpoint.pt", "metrics.jsonl")
    before = [(fit / name).read_bytes() for name in names]
    times = [(fit / "checkpoint.pt").stat().st_mtime_ns]
    two_stage = _summary(tmp_path, "grad=two_stage")
    for more in (
        ["grad=reparam"],
        ["grad=score"],
        ["grad=reparam", "decision.num_scenarios=10"],
        ["grad=reparam", "decision.bandwidth_scale=0.7"],
    ):
        summary = _run(tmp_path, *more)
        assert summary["validation"]["fit_loss"] == two_stage["validation"]["fit_loss"]
        assert _fit_directory(tmp_path, *more) == fit
    assert [(fit / name).read_bytes() for name in names] == before
    times.append((fit / "checkpoint.pt").stat().st_mtime_ns)
    assert times[0] == times[1]
    folders = [item for item in fit.parents[1].iterdir() if item.is_dir()]
    assert folders == [fit.parent]


def test_runs_with_a_refit_share_both_passes_of_the_fit_whichever_comes_first(
    tmp_path: Path,
) -> None:
    """The one that trains in between leaves nothing of it in what they share."""
    more = ("fit.refit=true", "fit.validate_every=1", "train.learning_rate=1e-2")
    alone = _run(tmp_path / "alone", *more)
    _run(tmp_path / "first", "grad=reparam", *more)
    shared = _run(tmp_path / "first", *more)
    assert _numbers(shared) == _numbers(alone)
    fit = _fit_directory(tmp_path / "first", *more)
    before = {name: (fit / name).read_bytes() for name in ("checkpoint.pt", "refit-fit.pt")}
    two_stage = _run(tmp_path / "first", "grad=two_stage", *more)
    assert {name: (fit / name).read_bytes() for name in before} == before
    chosen = alone["validation"]["refit_epochs"]
    assert chosen == {
        "fit": alone["validation"]["fit_best_epoch"],
        "train": alone["validation"]["best_epoch"],
    }
    assert two_stage["validation"]["refit_epochs"] == {"fit": chosen["fit"]}
    lines = [json.loads(line) for line in (fit / "metrics.jsonl").read_text().splitlines()]
    epochs = {
        stage: [one["epoch"] for one in lines if one["stage"] == stage]
        for stage in ("fit", "refit-fit")
    }
    assert epochs == {"fit": [0, 1, 2], "refit-fit": list(range(chosen["fit"] + 1))}


def test_where_all_epochs_were_given_the_record_of_a_refit_has_no_validation(
    tmp_path: Path,
) -> None:
    more = ("fit.refit=true", "fit.patience=0", "fit.keep=last", "train.keep=last")
    summary = _run(tmp_path, *more)
    validation = summary["validation"]
    assert validation["task"] is validation["first_task"] is validation["fit_loss"] is None
    assert validation["refit_epochs"] == {"fit": 2, "train": 1}
    assert (validation["epochs"], validation["best_epoch"]) == (1, 1)
    assert math.isfinite(summary["test"]["task"])
    assert not _directory(tmp_path, *more).joinpath("checkpoint.pt").exists()
    assert _directory(tmp_path, *more).joinpath("refit-train.pt").exists()


def test_a_decision_focused_run_starts_from_the_two_stage_weights(tmp_path: Path) -> None:
    rule = ("decision.bandwidth_scale=1.5",)
    two_stage = _run(tmp_path, "grad=two_stage", *rule)
    for grad in ("reparam", "score"):
        summary = _run(tmp_path, f"grad={grad}", *rule)
        assert summary["validation"]["first_task"] == two_stage["validation"]["task"]
        assert two_stage["validation"]["best_epoch"] is None


@pytest.mark.parametrize(
    ("model", "grad"),
    [("deterministic", "reparam"), ("policy", "policy"), ("diffusion", "reparam")],
)
@pytest.mark.slow
def test_other_cells_run_to_their_record(model: str, grad: str, tmp_path: Path) -> None:
    small = ["model.num_sampling_steps=3"] if model == "diffusion" else []
    summary = _run(
        tmp_path,
        f"model={model}",
        f"grad={grad}",
        "decision.num_scenarios=5",
        "foundation.epochs=1",
        *small,
    )
    test = summary["test"]
    assert math.isfinite(test["task"])
    assert (summary["identity"]["model"], summary["identity"]["grad"]) == (model, grad)
    if model == "diffusion":
        assert test["crps"] > 0
        return
    assert test["crps"] is None
    assert test["coverage_90"] is None
    if model == "policy":
        assert test["task_raw"] > 0
        assert test["rmse_scenario"] is None
        assert summary["validation"]["fit_loss"] is None
        assert not (tmp_path / "runs" / "smoke" / "power" / "_fits").exists()
    else:
        # One scenario: the exact program, whatever M is.
        assert test["task"] == test["task_exact"] == test["task_large"]
        assert test["rmse_scenario"] == pytest.approx(test["rmse_mean"])


def test_tuning_leaves_the_test_days_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusion_dfl.training.steps as module

    def refuse(*arguments: object) -> None:
        raise AssertionError("the test days were looked at")

    monkeypatch.setattr(module, "evaluate", refuse)
    summary = _run(tmp_path, "evaluation.test=false")
    assert summary["test"] == {}
    assert summary["validation"]["task"] > 0
    path = _directory(tmp_path, "evaluation.test=false")
    assert not (path / "rows.csv").exists()
    assert json.loads((path / "summary.json").read_text())["test"] == {}


def test_a_failed_run_keeps_its_reason_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(DecisionLayer, "forward", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _run(tmp_path)
    path = _directory(tmp_path)
    status = json.loads((path / "status.json").read_text())
    assert status["status"] == "failed"
    assert status["reason"] == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in status["traceback"]
    assert str(REPOSITORY) not in status["traceback"]
    assert not (path / "summary.json").exists()
    assert _run(tmp_path)["test"]["task"] > 0
    assert json.loads((path / "status.json").read_text())["status"] == "finished"


def test_a_run_that_is_refused_for_its_data_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_days"):
        _run(tmp_path, "data.num_days=5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_a_run_that_is_there_stays_as_it_is_where_it_is_refused(
    status: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusion_dfl.suite.runs.execution as module

    def refuse(config: DictConfig) -> None:
        raise UserError("there is no such data")

    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    path = _directory(tmp_path)
    if status == "interrupted":
        (path / "status.json").write_text('{"status": "interrupted"}')
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    more = ["force=true"] if status == "finished" else []
    with monkeypatch.context() as patched:
        patched.setattr(module, "compiled", refuse)
        for _ in range(2):  # The lease is given back.
            with pytest.raises(UserError, match="no such data"):
                _run(tmp_path, *more)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert _numbers(_run(tmp_path)) == _numbers(_summary(root))


def test_what_is_said_before_there_is_a_directory_is_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusion_dfl.suite.runs.execution as module

    def say(*parts: object) -> None:
        assert not _directory(tmp_path).exists()
        module.logger.warning("the days are few")

    monkeypatch.setattr(module, "check_rule_of", say)
    _run(tmp_path)
    first, second, *_ = (_directory(tmp_path) / "run.log").read_text().splitlines()
    assert first == "WARNING the days are few"
    assert second.startswith("INFO ")


def test_a_value_the_predictor_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model\.dropout=1\.5 must be in"):
        _run(tmp_path, "model.dropout=1.5")
    with pytest.raises(UserError, match=r"^grad\.decision_weight=0\.0.*grad\.fit_weight=0\.0"):
        _run(tmp_path, "grad.decision_weight=0", "grad.fit_weight=0")


def test_the_decision_weight_0_twin_trains_without_solving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = _run(tmp_path, "grad.decision_weight=0")
    assert twin["timing"]["solving"] == 0
    assert twin["identity"]["differs"]["grad.decision_weight"] == 0
    assert twin["test"]["task"] > 0


def test_solver_failures_of_training_are_counted_and_survive_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two instances of the first epoch fail; the record of a resumed run says so too."""
    import diffusion_dfl.training.loop as loop

    counted = DecisionLayer._judge

    def run_with_failures(root: Path, stop: bool) -> dict[str, Any]:
        calls = 0

        def count(self: DecisionLayer, *told: Any) -> None:
            nonlocal calls
            counted(self, *told)
            if torch.is_grad_enabled() and calls == 0:
                calls += 1
                self.statistics.failures += 2

        saves = 0
        save = loop.Stage._save

        def save_and_stop(self: loop.Stage) -> None:
            nonlocal saves
            save(self)
            saves += self.name == "train" and self.progress.epoch == 1
            if stop and saves == 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(DecisionLayer, "_judge", count)
            patched.setattr(loop.Stage, "_save", save_and_stop)
            if not stop:
                return _run(root, "train.epochs=2")
            with pytest.raises(KeyboardInterrupt):
                _run(root, "train.epochs=2")
        return _run(root, "train.epochs=2")

    whole = run_with_failures(tmp_path / "whole", stop=False)
    resumed = run_with_failures(tmp_path / "resumed", stop=True)
    assert whole["validation"]["solver_failures"] == 2
    assert _numbers(resumed) == _numbers(whole)


_KILLABLE = """
import sys
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.runs.run import run
run(compose_config(sys.argv[1:]))
"""


def _start(overrides: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _KILLABLE, *overrides],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )


def _kill_after(process: "subprocess.Popen[bytes]", path: Path, lines: int) -> None:
    """SIGKILL once the metrics file has so many lines."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit and process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= lines:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


_LONGER = (
    "fit.epochs=12",
    "fit.patience=0",
    "fit.validate_every=1",
    "train.epochs=4",
    "train.dropout=true",
    "train.batch_size=16",
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where a run that nothing stopped lies, and its record."""
    root = tmp_path_factory.mktemp("whole")
    return root, _run(root, *_LONGER)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fit", "train"])
def test_a_run_killed_in_the_middle_and_repeated_gives_the_same_record(
    stage: str, unbroken: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    more = _LONGER
    whole, expected = unbroken
    killed = tmp_path / "killed"
    where = _fit_directory if stage == "fit" else _directory
    metrics = where(killed, *more) / "metrics.jsonl"
    _kill_after(_start(_overrides(killed, *more)), metrics, 2)
    assert not (_directory(killed, *more) / "summary.json").exists()
    assert (
        json.loads((_directory(killed, *more) / "status.json").read_text())["status"] == "running"
    )
    assert _numbers(_run(killed, *more)) == _numbers(expected)
    for find in (_fit_directory, _directory):
        lines = [(find(root, *more) / "metrics.jsonl").read_bytes() for root in (whole, killed)]
        assert lines[0] == lines[1]


@pytest.mark.parametrize("moment", range(1, 12, 2))
@pytest.mark.slow
def test_a_disk_that_does_not_sync_is_one_line_whenever_it_fails(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, calls = os.fsync, iter(range(1, 10_000))

    def fails(handle: int) -> None:
        if next(calls) >= moment:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(UserError, match=r"\(Input/output error\); look after the disk") as refusal:
        _run(tmp_path)
    assert "\n" not in str(refusal.value)
    monkeypatch.undo()
    assert _run(tmp_path)["test"]["task"] is not None


@pytest.mark.parametrize("file", [None, "/far/load.txt"])
def test_data_that_cannot_be_read_are_not_blamed_on_the_output(
    file: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(config: DictConfig) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), file)

    monkeypatch.setattr("diffusion_dfl.suite.runs.execution.compiled", fails)
    told = rf"^{file or 'data=simulated'}: the data cannot be read \(Input/output error\)"
    with pytest.raises(UserError, match=told):
        _run(tmp_path)
    assert not list(tmp_path.iterdir())
