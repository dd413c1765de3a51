"""A sweep's plan and its view at the end."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_dfl.suite.sweep import _without_folder, planned_words, started, sweep_report
from tests.processes import ROOT, forked

SMALL = [
    "data=simulated",
    "data.num_days=150",
    "scale=smoke",
    "model=gaussian",
    "grad=score",
    "fit.epochs=2",
    "train.epochs=2",
    "decision.num_scenarios=5",
    "evaluation.num_large=10",
]


def train(*words: str) -> "subprocess.CompletedProcess[str]":
    return forked(ROOT / "train.py", *words)


def test_only_a_sweep_over_a_grid_has_a_plan() -> None:
    assert planned_words(["model=gaussian"]) is None
    assert planned_words(["model=gaussian", "--help"]) is None
    assert planned_words(["seed=0,1", "-m", "--info"]) is None
    assert planned_words(["hydra/sweeper=optuna", "seed=0,1", "-m"]) is None
    words = ["hydra/launcher=joblib", "seed=0,1", "force=true", "logger=wandb", "--multirun"]
    assert planned_words(words) == ["seed=0,1"]


def test_a_plan_is_kept_once(tmp_path: Path) -> None:
    words = [f"output.root={tmp_path}", "task=nowhere", "seed=0,1", "-m"]
    for _ in range(2):
        with sweep_report(words):
            assert started(tmp_path) == [["seed=0,1", "task=nowhere"]]
    with (tmp_path / "sweeps/plans.jsonl").open("a") as handle:
        handle.write("torn [")
    assert len(started(tmp_path)) == 1


def test_what_went_wrong_in_a_sweep_is_not_hidden_by_its_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusion_dfl.suite.reporting.status.plan", lambda *words: 1 / 0)
    with pytest.raises(KeyError), sweep_report([f"output.root={tmp_path}", "seed=0,1", "-m"]):
        raise KeyError("the sweep")


@pytest.mark.slow
def test_a_sweep_with_a_failing_job_does_the_others_and_says_what_completes_it(
    tmp_path: Path,
) -> None:
    """A learning rate that destroys the weights: one line, a traceback in the run's own files."""
    words = [*SMALL, f"output.root={tmp_path}", "train.gradient_clip=0"]
    done = train(*words, "train.learning_rate=1e-4,1e30", "-m", "seed=0")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "status.json has the traceback" in line and "learning rate" in line
    assert "1 of 2 runs are finished" in done.stdout
    assert "failed: " in done.stdout
    command = next(line for line in done.stdout.splitlines() if line.startswith("python train.py"))
    assert "train.learning_rate=1e+30" in command or "train.learning_rate=1e30" in command
    (status,) = [
        path
        for path in (tmp_path / "runs").rglob("seed-0/status.json")
        if json.loads(path.read_text())["status"] == "failed"
    ]
    assert "Traceback" in json.loads(status.read_text())["traceback"]
    assert "Traceback" in (status.parent / "failures.log").read_text()
    assert str(tmp_path) not in (status.parent / "run.log").read_text()
    # retry_failed=false leaves it, and says so.
    left = train(*words, "train.learning_rate=1e30", "retry_failed=false")
    assert left.returncode == 2
    assert "retry_failed=false leaves it so" in left.stderr
    listed = forked(ROOT / "scripts" / "status.py", "--results", str(tmp_path), "--started")
    assert "1 of 2 runs are finished" in listed.stdout


@pytest.mark.slow
def test_ten_seeds_interrupted_and_repeated_finish_only_what_is_missing(tmp_path: Path) -> None:
    """The README's literal ten-seed command, in small."""
    number = signal.SIGTERM
    command = ["task=power", "model=diffusion", "grad=score", "-m", "seed=0-9"]
    small = [
        "data=simulated", "data.num_days=150", "scale=smoke", "model.width=8", "fit.epochs=2",
        "model.base_folds=2", "model.base_width=8",
        "foundation.epochs=1", "train.epochs=2", "decision.num_scenarios=5",
        "evaluation.num_large=10", f"output.root={tmp_path}",
    ]  # fmt: skip
    first = subprocess.Popen(
        [sys.executable, "train.py", *command, *small],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while len(list((tmp_path / "runs").rglob("weights.pt"))) < 3 and first.poll() is None:
        time.sleep(0.02)
    first.send_signal(number)
    out, errors = first.communicate(timeout=60)
    assert first.returncode == 128 + number, errors
    assert "interrupted; the same command goes on where it stopped" in errors
    assert "of 10 runs are finished" in out
    summaries = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("summary.json")}
    assert 2 <= len(summaries) < 10
    again = train(*command, *small)
    assert again.returncode == 0, again.stderr
    assert "10 of 10 runs are finished" in again.stdout
    assert again.stderr.count("is finished; add force=true") == len(summaries)
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in summaries.items())
    assert len(list((tmp_path / "runs").rglob("seed-*/summary.json"))) == 10


@pytest.mark.parametrize(
    "flags", [["--config-dir", "mine"], ["-cd", "mine"], ["--config-dir=mine"]], ids=" ".join
)
def test_a_folder_of_ones_own_is_no_part_of_the_words_of_a_plan(flags: list[str]) -> None:
    typed = ["task=shop", "seed=range(0,2)", *flags, "-m"]
    words, folder = _without_folder(typed)
    assert words == ["task=shop", "seed=range(0,2)", "-m"]
    assert folder == Path("mine")
    assert planned_words(words) == words[:2]
