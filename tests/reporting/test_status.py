"""`make status` and `make missing`: planned runs against what is on disk."""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from diffusion_dfl.config.arguments import CELLS
from diffusion_dfl.errors import UserError
from diffusion_dfl.reporting.status import completing, overview, plan, state

WORDS = ["task=power", "scale=smoke", "model=gaussian", "grad=score", "seed=0-3"]
CELL = Path("smoke/power/gaussian-score")


def write(root: Path, seed: int, status: str, **details: str) -> Path:
    folder = root / "runs" / CELL / f"seed-{seed}"
    folder.mkdir(parents=True)
    told = {"status": status, **details}
    (folder / "status.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def test_a_plan_is_what_the_command_would_run() -> None:
    runs = plan(WORDS)
    assert [run.path for run in runs] == [CELL / f"seed-{seed}" for seed in range(4)]
    assert runs[0].words == ("task=power", "scale=smoke", "model=gaussian", "grad=score")
    twins = plan([*WORDS[:-1], "grad.decision_weight=0,1", "seed=2"])
    assert len(twins) == 2
    assert [run.path == CELL / "seed-2" for run in twins] == [False, True]


def test_without_a_model_every_pair_that_makes_sense_is_planned() -> None:
    runs = plan(["task=inventory", "scale=smoke", "seed=0,5"])
    assert len(runs) == 2 * sum(len(grads) for grads in CELLS.values())
    assert len({run.cell for run in runs}) == len(runs) // 2


def test_nonsense_is_refused() -> None:
    with pytest.raises(UserError, match="makes no sense"):
        plan(["model=policy", "grad=score"])
    with pytest.raises(UserError, match="name the values"):
        plan(["task=glob(*)", "model=gaussian", "grad=score"])


def test_every_state_is_told_and_what_completes_the_plan(tmp_path: Path) -> None:
    runs = plan([*WORDS[:-1], "seed=0-6"])
    (write(tmp_path, 0, "finished") / "summary.json").write_text("{}")
    write(tmp_path, 1, "finished")  # its record is gone
    write(tmp_path, 2, "failed", reason="TrainingDiverged: loss nan\nsecond line")
    killed = write(tmp_path, 3, "running")
    (killed / "config.yaml").write_text("train: {epochs: 6}")
    (killed / "metrics.jsonl").write_text('{"stage": "train", "epoch": 2}\n')
    (killed / ".lock").touch()
    busy = write(tmp_path, 4, "running")
    committed = tmp_path / "published" / CELL / "seed-6"
    committed.mkdir(parents=True)
    (committed / "summary.json").write_text("{}")
    with FileLock(busy / ".lock"):
        names = [state(tmp_path, run.path).name for run in runs]
        text = overview(tmp_path, runs)
        commands = list(completing(tmp_path, runs))
    assert names == [
        "finished", "missing", "failed", "interrupted", "running", "missing", "finished",
    ]  # fmt: skip
    assert "2 of 7 runs are finished, 1 of them as committed records only" in text
    assert "failed: smoke/power/gaussian-score/seed-2: TrainingDiverged: loss nan\n" in text
    assert "train epoch 2/6, 0 min since" in text
    assert "seed-4: before its first epoch" in text
    expected = "python train.py task=power scale=smoke model=gaussian grad=score -m seed=1,2,3,5"
    assert commands == [expected]
    assert text.endswith(expected)


def test_a_damaged_status_counts_as_missing(tmp_path: Path) -> None:
    folder = write(tmp_path, 0, "finished")
    (folder / "status.json").write_text('{"status": ')
    assert state(tmp_path, CELL / "seed-0").name == "missing"
