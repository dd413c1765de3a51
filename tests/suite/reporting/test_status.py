"""`make status` and `make missing`: planned runs against what is on disk."""

import json
from pathlib import Path

import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.reporting.paper import ROWS
from diffusion_dfl.suite.reporting.status import Planned, completing, overview, plan, state, yours
from diffusion_dfl.suite.runs.lease import Lease
from tests.configs import composed

WORDS = ["task=power", "scale=smoke", "model=gaussian", "grad=score", "seed=0-3"]
CELL = Path("smoke/power/gaussian-score")


def write(root: Path, seed: int, status: str, **details: str) -> Path:
    folder = root / "runs" / CELL / f"seed-{seed}"
    folder.mkdir(parents=True)
    told = {"status": status, **details}
    (folder / "status.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def record(folder: Path, config_hash: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"identity": {"config_hash": config_hash}})
    (folder / "summary.json").write_text(text, encoding="utf-8")


def test_a_plan_is_what_the_command_would_run() -> None:
    runs = plan(WORDS)
    assert [run.path for run in runs] == [CELL / f"seed-{seed}" for seed in range(4)]
    assert runs[0].words == ("task=power", "scale=smoke", "model=gaussian", "grad=score")
    weight = composed(runs[0].words).grad.decision_weight
    twins = plan([*WORDS[:-1], f"grad.decision_weight=0,{weight}", "seed=2"])
    assert len(twins) == 2
    assert [run.path == CELL / "seed-2" for run in twins] == [False, True]


def test_without_a_model_every_pair_that_makes_sense_is_planned() -> None:
    runs = plan(["task=inventory", "scale=smoke", "seed=0,5"])
    assert len(runs) == 2 * len(ROWS)
    assert len({run.cell for run in runs}) == len(runs) // 2


def test_nonsense_is_refused() -> None:
    with pytest.raises(UserError, match="makes no sense"):
        plan(["model=policy", "grad=score"])
    with pytest.raises(UserError, match="name the values"):
        plan(["task=glob(*)", "model=gaussian", "grad=score"])


@pytest.mark.parametrize("word", ["seed=a", "seed=1.5", "seed=-1", "seed=0,null"])
def test_a_seed_that_no_run_takes_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"^seed=(a|1\.5|-1|null) must be an integer"):
        plan([*WORDS[:-1], word])


def test_every_state_is_told_and_what_completes_the_plan(tmp_path: Path) -> None:
    runs = plan([*WORDS[:-1], "seed=0-8"])
    current = runs[0].config_hash
    record(write(tmp_path, 0, "finished"), current)
    write(tmp_path, 1, "finished")  # its record is gone
    write(tmp_path, 2, "failed", reason="TrainingDiverged: loss nan\nsecond line")
    killed = write(tmp_path, 3, "running")
    (killed / "config.yaml").write_text("train: {epochs: 6}")
    (killed / "metrics.jsonl").write_text('{"stage": "train", "epoch": 2}\n')
    (killed / ".lock").touch()
    busy = write(tmp_path, 4, "running")
    published = {f"{CELL.as_posix()}/seed-6": current, f"{CELL.as_posix()}/seed-8": "older"}
    record(write(tmp_path, 7, "finished"), "of an older preset")
    with Lease(busy):
        states = {run: state(tmp_path, run, published) for run in runs}
    text, commands = overview(states), list(completing(states))
    assert [found.name for found in states.values()] == [
        "finished", "missing", "failed", "interrupted", "running", "missing", "finished",
        "stale", "stale",
    ]  # fmt: skip
    assert "2 of 9 runs are finished, 1 of them as committed records only" in text
    assert "1 committed records are of older presets" in text
    assert "failed: smoke/power/gaussian-score/seed-2: TrainingDiverged: loss nan\n" in text
    assert "train epoch 2/6, 0 min since" in text
    assert "seed-4: before its first epoch" in text
    assert "seed-7: finished with another configuration" in text
    start = "python train.py task=power scale=smoke model=gaussian grad=score"
    assert commands == [f"{start} -m seed=1,2,3,5,8", f"{start} force=true -m seed=7"]
    assert text.endswith("\n".join(commands))
    assert list(completing(states, each=True))[-2:] == [
        f"{start} seed=8",
        f"{start} force=true seed=7",
    ]


def test_a_long_list_of_commands_is_whole_or_names_the_command_that_has_it(tmp_path: Path) -> None:
    runs = [Planned((f"model.width={n}",), 0, Path(f"a/b/c-{n}/seed-0"), "h") for n in range(12)]
    states = {run: state(tmp_path, run) for run in runs}
    commands = list(completing(states))
    assert overview(states).endswith("\n".join(commands))
    told = overview(states, "status --missing task=power").splitlines()
    assert told[-2:] == [commands[9], "and 2 commands more: `status --missing task=power`"]


@pytest.mark.parametrize("name", ["status.json", "summary.json"])
def test_a_damaged_record_counts_as_missing(tmp_path: Path, name: str) -> None:
    (run,) = plan([*WORDS[:-1], "seed=0"])
    folder = write(tmp_path, 0, "finished")
    record(folder, run.config_hash)
    (folder / name).write_text('{"status": ')
    assert state(tmp_path, run).name == "missing"


def test_a_command_is_quoted_for_the_shell(tmp_path: Path) -> None:
    run = Planned(("task.weights=[0.5, 0.5]",), 0, CELL / "seed-0", "h")
    (command,) = completing({run: state(tmp_path, run)})
    assert command == "python train.py 'task.weights=[0.5, 0.5]' -m seed=0"


def test_the_users_runs_are_told_whatever_is_planned(tmp_path: Path) -> None:
    assert yours(tmp_path) == ""
    for seed, name in enumerate(("finished", "finished", "failed", "running")):
        write(tmp_path, seed, name)
    fit = tmp_path / "runs" / "smoke" / "power" / "_fits" / "abc" / "seed-0"
    fit.mkdir(parents=True)
    (tmp_path / "runs" / "smoke" / "shop" / "net-plain" / "seed-0").mkdir(parents=True)
    with Lease(write(tmp_path, 4, "running")):
        told = yours(tmp_path).splitlines()
    assert told[0] == f"Yours, in {tmp_path / 'runs'}:"
    states = "2 finished, 1 running, 1 interrupted, 1 failed"
    assert told[1:] == [f"  smoke/power/gaussian-score  {states}"]
