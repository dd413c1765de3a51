"""Launchers: the same numbers from every one, one failing run, and the array script."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import read_object
from diffusion_dfl.suite import launching
from diffusion_dfl.suite.launching import Settings
from tests.commands import blocks
from tests.processes import forked

REPOSITORY = Path(__file__).resolve().parents[2]
SWEEP = (
    "task=inventory",
    "model=gaussian",
    "grad=two_stage,reparam",
    "scale=smoke",
    "task.num_train=64",
    "task.num_validation=16",
    "task.num_test=16",
    "decision.num_scenarios=8",
    "evaluation.num_large=16",
    "fit.epochs=2",
    "train.epochs=1",
    "-m",
)
DASK = ("hydra/launcher=dask", "hydra.launcher.workers=2")


def alone(*words: str, results: Path) -> None:
    """A sweep without a launcher, one run after the other."""
    done = forked(REPOSITORY / "train.py", *words, f"output.root={results}")
    assert done.returncode == 0, done.stderr


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


@contextmanager
def begun(*words: str, results: Path) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "train.py", *words, f"output.root={results}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def owners(results: Path) -> set[int]:
    """Processes that hold directories."""
    found = [read_object(path).get("pid") for path in results.rglob(".owner")]
    return {pid for pid in found if pid is not None}


def wait_for(found: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (what := found()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return what


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
        "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        "submitit_local": ("hydra/launcher=submitit_local",),
        "dask": DASK,
    }
    alone(*SWEEP, "seed=0,1", results=tmp_path / "alone")
    wanted = records(tmp_path / "alone")
    assert len(wanted) == 4
    for name, words in launchers.items():
        done = call(*words, *SWEEP, "seed=0,1", results=tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert records(tmp_path / name) == wanted


@pytest.mark.slow
def test_a_worker_that_is_killed_in_a_run_costs_no_number_and_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The only one, and dask gives it up before it is back, as on a machine with too much to do.
    monkeypatch.setenv("DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT", "0.01s")
    words = [*SWEEP, "train.epochs=40", "seed=0,1"]
    alone(*words, results=tmp_path / "alone")
    root = tmp_path / "dask"
    with begun(DASK[0], "hydra.launcher.workers=1", *words, results=root) as sweep:
        run = wait_for(
            lambda: next(root.glob("runs/smoke/inventory/*reparam*/*/metrics.jsonl"), None)
        )
        wait_for(lambda: len(run.read_text().splitlines()) > 2)
        os.kill(json.loads((run.parent / ".owner").read_text())["pid"], signal.SIGKILL)
        _, said = sweep.communicate(timeout=400)
    assert sweep.returncode == 0, said
    assert "its worker was lost; it goes on elsewhere" in said
    assert records(root) == records(tmp_path / "alone")
    for path in root.rglob("metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len({(line["stage"], line["epoch"]) for line in lines}) == len(lines) > 0


@pytest.mark.slow
def test_a_worker_that_could_not_start_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    settings = Settings(workers=1, address=None, cores_per_run=1, gpus_per_run=0, retries=0)
    monkeypatch.setattr(launching, "_START", 0.5)
    # Ended behind dask's back, which takes it for alive, as it does one that failed to start.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        launching._client(settings, 1) as (client, _),
    ):
        sweep = launching._Sweep(client, settings, b"", [], [["seed=0"]], 0)
        cluster = client.cluster
        cluster.sync(cluster.workers[0].close)
        wait_for(lambda: not sweep._workers())
        wait_for(sweep._workers, seconds=60)


@pytest.mark.slow
def test_what_a_lost_host_held_is_taken_over_when_its_minute_is_up(tmp_path: Path) -> None:
    words = [*SWEEP[:2], *SWEEP[3:], "grad=two_stage", "seed=0,1"]
    alone(*words, results=tmp_path)
    run = next(tmp_path.rglob("gaussian-two_stage*/seed-1"))
    (run / "status.json").unlink()
    (run / ".owner").write_text('{"host": "another", "pid": 1, "token": "its"}')
    os.utime(run / ".owner", (time.time() - 52,) * 2)
    again = call(*DASK, *words, results=tmp_path)
    assert again.returncode == 0 and "2 of 2 runs are finished" in again.stdout, again.stderr


@pytest.mark.slow
def test_a_run_whose_worker_is_lost_every_time_is_given_up(tmp_path: Path) -> None:
    words = [
        *DASK,
        *SWEEP[:2],
        *SWEEP[3:],
        "grad=two_stage",
        "seed=0,1",
        "hydra.launcher.retries=0",
    ]
    with begun(*words, "fit.epochs=100000", results=tmp_path) as sweep:
        pids = wait_for(lambda: len(found := owners(tmp_path)) == 2 and found)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        _, said = sweep.communicate(timeout=100)
    assert sweep.returncode == 1
    assert "lost 1 times (hydra.launcher.retries=0)" in said and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "dask"])
def test_a_failing_run_tells_its_reason_and_the_others_go_on(launcher: str, tmp_path: Path) -> None:
    root = tmp_path / "runs" / "smoke" / "inventory"
    words = [word for word in SWEEP if not word.startswith("grad")]
    alone(*words, "grad=two_stage", "seed=0", results=tmp_path)
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


@pytest.mark.slow
def test_the_script_of_the_page_brings_nodes_and_replaces_a_lost_one(tmp_path: Path) -> None:
    """docs/cluster.md, with a Slurm whose jobs are processes here."""
    (block,) = [one for one in blocks("docs/cluster.md") if one.text.startswith("# cluster.py")]
    text = block.text
    small = {"=16": "=1", "64GB": "4GB", "_jobs=10": "_jobs=2", '"tr': f'"{REPOSITORY}/tr'}
    for there, here in small.items():
        assert there in text
        text = text.replace(there, here)
    programs = {
        "sbatch": 'cp "$1" "$1.kept"; setsid sh "$1.kept" >>jobs.log 2>&1 & echo "batch job $!"',
        "scancel": 'kill -- "-$1"',
    }
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "cluster.py").write_text(text)
    words = [*SWEEP[:2], *SWEEP[3:], "grad=two_stage", "fit.epochs=200", "seed=0-3"]
    with subprocess.Popen(
        [sys.executable, "cluster.py", *words, "output.root=results"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    ) as sweep:
        pid = wait_for(lambda: owners(tmp_path)).pop()
        os.killpg(os.getpgid(pid), signal.SIGKILL)
        out, said = sweep.communicate(timeout=300)
    assert sweep.returncode == 0 and "4 of 4 runs are finished" in out, said
    assert "its worker was lost; it goes on elsewhere" in said and "4 of 4 runs: seed=" in said


def test_runs_share_a_gpu_and_large_ones_have_several() -> None:
    def devices(share: float, *visible: str) -> list[str]:
        return Settings(None, None, 1, share, 0).devices(visible)

    assert devices(0.5, "0", "7") == ["0", "0", "7", "7"]
    assert devices(0.4, "0") == ["0", "0"]
    assert devices(1, "0", "7") == ["0", "7"]
    assert devices(2, "0", "1", "5", "7", "8") == ["0,1", "5,7"]
    with pytest.raises(UserError, match=r"gpus_per_run=2: 1 CUDA devices"):
        devices(2, "0")


@pytest.mark.parametrize(
    "word, told",
    [
        ("retries=-1", "hydra.launcher.retries=-1 must be at least 0"),
        ("cores_per_run=0", "hydra.launcher.cores_per_run=0 must be at least 1"),
        ("address=nowhere", "hydra.launcher.address=nowhere: no scheduler answers there"),
    ],
)
def test_a_value_of_the_launcher_that_cannot_be_is_named(
    word: str, told: str, tmp_path: Path
) -> None:
    words = ("hydra/launcher=dask", f"hydra.launcher.{word}", "-m", "seed=0")
    done = forked(REPOSITORY / "train.py", *words, f"output.root={tmp_path}")
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr


def test_a_launcher_whose_package_is_missing_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ("hydra/launcher=dask", "-m", "seed=0", f"output.root={tmp_path}")
    done = forked(REPOSITORY / "train.py", *words)
    assert done.returncode == 2
    assert "[cluster]'` adds it" in done.stderr


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
