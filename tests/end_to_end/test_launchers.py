"""Launchers: the same numbers from every one, one failing run, and the array script."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import forked

REPOSITORY = Path(__file__).resolve().parents[2]
SWEEP = (
    "task=inventory",
    "model=gaussian",
    "grad=two_stage,reparam",
    "scale=smoke",
    "fit.epochs=2",
    "train.epochs=1",
    "-m",
)


def call(*words: str, results: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "train.py", *words, f"output.root={results}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def records(results: Path) -> dict[str, Any]:
    """Directory -> record, without what may differ between machines and moments."""
    found = {}
    for path in sorted((results / "runs").rglob("summary.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[str(path.parent.relative_to(results))] = {
            key: value for key, value in record.items() if key not in ("timing", "resources")
        }
    return found


@pytest.mark.slow
def test_every_launcher_gives_the_same_records(tmp_path: Path) -> None:
    launchers = {
        "basic": (),
        "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        "submitit_local": ("hydra/launcher=submitit_local",),
    }
    found = {}
    for name, words in launchers.items():
        done = call(*words, *SWEEP, "seed=0,1", results=tmp_path / name)
        assert done.returncode == 0, done.stderr
        found[name] = records(tmp_path / name)
    assert len(found["basic"]) == 4
    assert found["joblib"] == found["submitit_local"] == found["basic"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_failing_run_tells_its_reason_and_the_others_go_on(launcher: str, tmp_path: Path) -> None:
    root = tmp_path / "runs" / "smoke" / "inventory"
    words = [word for word in SWEEP if not word.startswith("grad")]
    first = call(*words, "grad=two_stage", "seed=0", results=tmp_path)
    assert first.returncode == 0, first.stderr
    cell = next(path for path in root.iterdir() if path.name != "_fits")
    # Seed 1 finds a directory where its record should go.
    (cell / "seed-1" / "summary.json").mkdir(parents=True)
    done = call(
        f"hydra/launcher={launcher}", *words, "grad=two_stage", "seed=1,2", results=tmp_path
    )
    assert done.returncode != 0
    told = json.loads((cell / "seed-1" / "status.json").read_text(encoding="utf-8"))
    assert told["status"] == "failed" and "Traceback" in told["traceback"]
    told = json.loads((cell / "seed-2" / "status.json").read_text(encoding="utf-8"))
    assert told["status"] == "finished"


def test_a_launcher_that_is_not_installed_says_what_to_install() -> None:
    done = forked(REPOSITORY / "train.py", "hydra/launcher=ray", "-m", "seed=0")
    assert done.returncode == 2
    assert "pip install hydra-ray-launcher" in done.stderr


def test_the_array_script_runs_its_line_and_refuses_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "commands.txt").write_text("python train.py task=power seed=0\nrm -rf nothing\n")
    (tmp_path / "python").write_text('#!/bin/sh\necho "called with $@"\n')
    (tmp_path / "python").chmod(0o755)

    def line(number: int) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", str(REPOSITORY / "scripts" / "slurm_array.sh"), "commands.txt"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(number)},
        )

    assert line(1).stdout.endswith("called with train.py task=power seed=0\n")
    refused = line(2)
    assert refused.returncode == 2 and "line 2 of commands.txt is no run" in refused.stderr


def test_the_array_script_passes_slurms_notice_on_and_requeues(tmp_path: Path) -> None:
    """USR1 reaches the run; one that stopped for it goes back into the queue."""
    (tmp_path / "commands.txt").write_text("python train.py task=power seed=0\n")
    programs = {
        "python": "trap 'exit 138' USR1; touch started; while true; do sleep 0.05; done",
        "scontrol": 'echo "$@" > requeued',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = subprocess.Popen(
        ["bash", str(REPOSITORY / "scripts" / "slurm_array.sh"), "commands.txt"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": "1",
            "SLURM_ARRAY_JOB_ID": "7",
        },
    )
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=30)
    assert job.returncode == 0
    assert (tmp_path / "requeued").read_text() == "requeue 7_1\n"
