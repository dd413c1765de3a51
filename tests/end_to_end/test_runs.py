"""Whole runs: their record, their repetition, their resumption after kill -9."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.arguments import CELLS
from diffusion_dfl.suite.runs.run import run
from tests.configs import composed
from tests.processes import forked

pytestmark = pytest.mark.usefixtures("every_epoch")

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "data=simulated",
    "data.num_days=150",
    "scale=smoke",
    "foundation.epochs=1",
    "fit.epochs=2",
    "train.epochs=2",
    "decision.num_scenarios=10",
    "evaluation.num_large=20",
]

#: What makes a model small.
NARROW = dict.fromkeys(CELLS, "model.width=16") | {
    "bootstrap": "model.base_width=16",
    "boosting": "model.rounds=5",
    "forest": "model.trees=5",
}


def small_run(root: Path, *overrides: str) -> dict[str, Any]:
    return run(composed([*SMALL, f"output.root={root}", *overrides]))


def numbers(summary: dict[str, Any]) -> dict[str, Any]:
    """What two runs of one seed must share."""
    return {key: value for key, value in summary.items() if key not in ("timing", "resources")}


# Every cell of the smallest task is a fast test of test_every_cell.py.
@pytest.mark.parametrize(
    "cell",
    [
        pytest.param((model, grad), marks=[] if grad == grads[-1] else pytest.mark.slow)
        for model, grads in CELLS.items()
        for grad in grads
    ],
    ids="-".join,
)
def test_every_cell_gives_a_whole_record(tmp_path: Path, cell: tuple[str, str]) -> None:
    model, grad = cell
    summary = small_run(tmp_path, f"model={model}", f"grad={grad}", NARROW[model])
    assert set(summary) == {
        "schema",
        "identity",
        "sources",
        "test",
        "validation",
        "timing",
        "resources",
    }
    test = summary["test"]
    assert test["task"] > 0
    assert sum(test["hourly"]) == pytest.approx(test["task"])
    assert test["solver_failures"] == 0
    assert (test["rmse_scenario"] is None) == (model == "policy")
    assert (test["crps"] is None) == (model in ("policy", "deterministic", "boosting"))
    assert ("task_raw" in test) == (model == "policy")


def test_two_runs_of_a_seed_give_the_same_record_and_another_seed_does_not(tmp_path: Path) -> None:
    cell = ("model=gaussian", "grad=score")
    first, second = (small_run(tmp_path / name, *cell) for name in ("a", "b"))
    assert numbers(first) == numbers(second)
    assert small_run(tmp_path / "c", *cell, "seed=1")["test"]["task"] != first["test"]["task"]


def test_decision_focused_runs_share_one_two_stage_fit(tmp_path: Path) -> None:
    small_run(tmp_path, "model=gaussian", "grad=reparam")
    (fit,) = tmp_path.glob("runs/smoke/power/_fits/*/seed-0/checkpoint.pt")
    made = fit.stat().st_mtime_ns
    small_run(tmp_path, "model=gaussian", "grad=score", "decision.bandwidth_scale=3")
    small_run(tmp_path, "model=gaussian", "grad=two_stage")
    assert [fit] == list(tmp_path.glob("runs/smoke/power/_fits/*/seed-0/checkpoint.pt"))
    assert fit.stat().st_mtime_ns == made


def test_without_test_evaluation_no_test_number_exists(tmp_path: Path) -> None:
    summary = small_run(tmp_path, "model=gaussian", "grad=two_stage", "evaluation.test=false")
    assert summary["test"] == {}
    assert not list(tmp_path.rglob("days.csv"))


def test_twin_with_decision_weight_zero_solves_nothing_in_training(tmp_path: Path) -> None:
    summary = small_run(tmp_path, "model=gaussian", "grad=score", "grad.decision_weight=0")
    assert summary["timing"]["solving"] == 0


def test_finished_run_is_not_run_again_and_force_keeps_the_old_one(tmp_path: Path) -> None:
    cell = ("model=gaussian", "grad=two_stage")
    first = small_run(tmp_path, *cell)
    assert small_run(tmp_path, *cell) == first  # to the timings: read, not made
    forced = small_run(tmp_path, *cell, "force=true")
    assert numbers(forced) == numbers(first)
    (old,) = tmp_path.glob("runs/smoke/power/gaussian-two_stage-*/seed-0.old-1/summary.json")
    assert json.loads(old.read_text()) == first


def test_directory_of_another_configuration_is_refused_and_left_alone(tmp_path: Path) -> None:
    cell = ("model=gaussian", "grad=two_stage")
    small_run(tmp_path, *cell)
    (config,) = tmp_path.glob("runs/smoke/power/gaussian-two_stage-*/seed-0/config.yaml")
    config.write_text(config.read_text().replace("\n  dropout: 0.1", "\n  dropout: 0.7"))
    before = {path: path.read_bytes() for path in config.parent.iterdir()}
    with pytest.raises(UserError, match=r"model\.dropout \(0\.7 there, 0\.1 here\).*force=true"):
        small_run(tmp_path, *cell)
    assert {path: path.read_bytes() for path in config.parent.iterdir()} == before


def test_no_record_names_a_machine_path_or_a_user(tmp_path: Path) -> None:
    small_run(tmp_path, "model=gaussian", "grad=reparam")
    for path in tmp_path.glob("runs/smoke/power/gaussian-reparam*/seed-0/*"):
        if path.suffix in (".json", ".yaml", ".jsonl", ".csv"):
            text = path.read_text()
            assert str(tmp_path) not in text
            assert str(ROOT) not in text
            assert not re.search(r"/(root|home|Users)/", text)


CUT_OFF = [*SMALL, "model=diffusion", "grad=score", "fit.epochs=6", "train.epochs=6"]


@pytest.mark.slow
def test_run_killed_in_each_stage_and_repeated_gives_the_unbroken_record(tmp_path: Path) -> None:
    whole = forked(ROOT / "train.py", *CUT_OFF, f"output.root={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    for stage, epoch in (("fit", 2), ("train", 2)):
        victim = subprocess.Popen(
            [sys.executable, "train.py", *CUT_OFF, f"output.root={tmp_path / 'broken'}"],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 200
        wanted = f'"stage": "{stage}", "epoch": {epoch}'
        while time.monotonic() < deadline and victim.poll() is None:
            logs = (tmp_path / "broken").rglob("metrics.jsonl")
            if any(wanted in log.read_text() for log in logs):
                break
            time.sleep(0.005)
        os.kill(victim.pid, signal.SIGKILL)
        victim.communicate()
        assert victim.returncode == -signal.SIGKILL, "the run ended before it was killed"
    repeated = forked(ROOT / "train.py", *CUT_OFF, f"output.root={tmp_path / 'broken'}")
    assert repeated.returncode == 0, repeated.stderr
    records = []
    for name in ("whole", "broken"):
        (path,) = (tmp_path / name).glob("runs/smoke/power/diffusion-score-*/seed-0/summary.json")
        records.append(numbers(json.loads(path.read_text())))
        lines = (path.parent / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(7))
    assert records[0] == records[1]
