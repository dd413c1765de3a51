"""Mirrors of a run: what they hold, and that nothing they do stops it."""

import builtins
import getpass
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import diffusion_dfl.suite.loggers.wandb as wandb_mirror
from diffusion_dfl.suite.commands import mirror
from diffusion_dfl.suite.config.compose import identify
from diffusion_dfl.suite.loggers import Mirrors, RunFacts
from diffusion_dfl.suite.loggers.mirror import scalars
from diffusion_dfl.suite.runs.run import run
from diffusion_dfl.training import loop
from tests.configs import composed

TINY = (
    "data=simulated",
    "data.num_days=150",
    "scale=smoke",
    "model=gaussian",
    "grad=score",
    "model.width=8",
    "fit.epochs=2",
    "fit.validate_every=1",
    "train.epochs=2",
    "decision.num_scenarios=5",
    "evaluation.num_large=10",
    "device=cpu",
)
EPOCHS = [("fit", 0), ("fit", 1), ("fit", 2), ("train", 0), ("train", 1), ("train", 2)]


def _config(root: Path, *words: str) -> Any:
    return composed([*TINY, f"output.root={root}", *words])


def _folder(root: Path) -> Path:
    return root / "runs" / identify(_config(root)).path


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    wandb_mirror._warn_once.cache_clear()


def read_offline(folder: Path) -> dict[str, Any]:
    """What a W&B offline folder holds, read with W&B's own reader."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("run-*.wandb")
    found: dict[str, Any] = {"history": [], "summary": {}, "config": {}, "artifacts": []}
    for record in _whole(file, wandb_internal_pb2):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
            for item in record.run.config.update:
                found["config"][item.key] = json.loads(item.value_json)
        elif kind == "history":
            row = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            found["history"].append(row)
        elif kind == "summary":
            for item in record.summary.update:
                key = item.key or ".".join(item.nested_key)
                found["summary"][key] = json.loads(item.value_json)
        elif kind == "artifact":
            found["artifacts"].append(record.artifact)
    return found


def _whole(file: Path, protocol: Any) -> list[Any]:
    """Records of W&B's log, once its own process has written the last of them."""
    from google.protobuf.message import DecodeError

    for _ in range(100):
        with suppress(DecodeError):
            found = list(_records(file, protocol))
            if any(record.WhichOneof("record_type") == "exit" for record in found):
                return found
        time.sleep(0.1)
    raise AssertionError(f"{file} has no end")


def _records(file: Path, protocol: Any) -> Any:
    """Records of W&B's log: LevelDB's format, a header of 7 bytes, blocks of 32 KiB."""
    content = file.read_bytes()
    position, block, parts = 7, 32768, b""
    while position + 7 <= len(content):
        left = block - position % block
        if left < 7:
            position += left
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]
        if kind == 0 and length == 0:
            position += left
            continue
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = protocol.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def _epochs(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    return [
        (key.removesuffix("/epoch"), row[key])
        for row in history
        for key in row
        if key.endswith("/epoch")
    ]


@pytest.mark.slow
def test_wandb_offline_holds_config_history_and_summary(tmp_path: Path) -> None:
    summary = run(_config(tmp_path, "logger=wandb", "logger.tags=[trial]"))
    (offline,) = (_folder(tmp_path) / "wandb").glob("offline-run-*")
    found = read_offline(offline)
    assert found["run"].project == "diffusion-dfl"
    assert found["run"].run_group.startswith("power/gaussian-score-")
    assert found["run"].display_name.endswith("-s0")
    assert list(found["run"].tags) == ["power", "gaussian", "score", "smoke", "simulated", "trial"]
    assert found["config"]["train"]["epochs"] == 2
    assert "output" not in found["config"]
    assert _epochs(found["history"]) == EPOCHS
    assert found["summary"]["test/task"] == pytest.approx(summary["test"]["task"])
    assert found["artifacts"]
    # The same run beside no logger gives the same record.
    plain = run(_config(tmp_path / "plain"))
    assert plain["test"] == summary["test"] and plain["identity"] == summary["identity"]


@pytest.mark.slow
def test_wandb_names_no_machine(tmp_path: Path) -> None:
    run(_config(tmp_path, "logger=wandb"))
    (offline,) = (_folder(tmp_path) / "wandb").glob("offline-run-*")
    found = read_offline(offline)
    told = str(found["run"]) + str(found["config"]) + str(found["summary"])
    # Too short a name is in many a word.
    assert len(os.uname().nodename) < 5 or os.uname().nodename not in told
    assert str(tmp_path) not in told
    if getpass.getuser() != "root":
        assert getpass.getuser() not in told


@pytest.mark.parametrize("logger", ["wandb", "tensorboard"])
@pytest.mark.slow
def test_a_run_stopped_and_repeated_has_every_epoch_once(
    logger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = loop.Stage._save

    def stop(self: loop.Stage) -> None:
        save(self)
        if self.name == "train" and self.progress.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop.Stage, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            run(_config(tmp_path, f"logger={logger}"))
    run(_config(tmp_path, f"logger={logger}"))
    if logger == "wandb":
        (offline,) = (_folder(tmp_path) / "wandb").glob("offline-run-*")
        assert _epochs(read_offline(offline)["history"]) == EPOCHS
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(_folder(tmp_path) / "tensorboard")).Reload()
    for stage in ("fit", "train"):
        scores = events.Scalars(f"{stage}/validation_score")
        assert [score.step for score in scores] == [0, 1, 2]


@pytest.mark.slow
def test_tensorboard_holds_the_test_numbers(tmp_path: Path) -> None:
    summary = run(_config(tmp_path, "logger=all"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(_folder(tmp_path) / "tensorboard")).Reload()
    (task,) = events.Scalars("test/task")
    assert task.value == pytest.approx(summary["test"]["task"], rel=1e-6)
    assert "config/text_summary" in events.Tags()["tensors"]


@pytest.mark.parametrize("key", ["", "0" * 40])
@pytest.mark.slow
def test_online_without_a_key_or_a_network_writes_offline_with_one_warning(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
        monkeypatch.setattr("wandb.api", type("Api", (), {"api_key": key}))
    else:
        monkeypatch.setattr("wandb.api", type("Api", (), {"api_key": None}))
    for seed in (0, 1):
        run(_config(tmp_path, "logger=wandb", f"seed={seed}"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    (warning,) = [text for text in warnings if "wandb" in text]
    assert "writing offline" in warning and "make wandb-sync" in warning
    assert ("cannot be reached" if key else "no API key") in warning
    assert len(list((tmp_path / "runs").rglob("offline-run-*"))) == 2


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_package_is_told_with_its_cure_and_stops_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def without(module: str, *arguments: Any, **named: Any) -> Any:
        if (
            module.split(".")[0] == name
            or module == "torch.utils.tensorboard" == f"torch.utils.{name}"
        ):
            raise ImportError(f"No module named {name!r}", name=name)
        return real(module, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    summary = run(_config(tmp_path, f"logger={name}"))
    assert summary["test"]["task"] > 0
    assert f"[{name}]' adds it" in caplog.text


def test_a_mirror_that_breaks_is_told_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[object] = []

    class Broken:
        def __init__(self, facts: RunFacts) -> None:
            del facts

        def epoch(self, stage: str, epoch: int, values: Mapping[str, float]) -> None:
            raise RuntimeError("the server is on fire\nsecond line")

        def record(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
            raise AssertionError("asked again")

        def close(self, finished: bool) -> None:
            raise AssertionError("asked again")

    class Sound(Broken):
        def epoch(self, stage: str, epoch: int, values: Mapping[str, float]) -> None:
            told.append(epoch)

        def record(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
            told.append(files)

        def close(self, finished: bool) -> None:
            told.append(finished)

    facts = RunFacts("power", tmp_path, "g", "n", "k", (), {})
    mirrors = Mirrors(facts, {"broken": Broken, "sound": Sound})
    mirrors.restore("fit", [(0, {"loss": 1.0}), (1, {"loss": 0.5})])
    mirrors.epoch("fit", 2, {"loss": 0.1})
    mirrors.record({}, [])
    mirrors.close(True)
    assert told == [0, 1, 2, [], True]
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == [
        "logger=broken: RuntimeError: the server is on fire; the run goes on without it"
    ]


_KILLER = r"""
import os, signal, sys
from pathlib import Path
from diffusion_dfl.training import loop
from diffusion_dfl.suite.runs.run import run
from diffusion_dfl.suite.config.compose import compose_config
save = loop.Stage._save
def kill(self):
    save(self)
    if self.name == "train" and self.progress.epoch == 1:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(bytes(1))
            except OSError:
                continue
            if b"--pid" in words and words[words.index(b"--pid") + 1] == str(os.getpid()).encode():
                os.kill(int(folder.name), signal.SIGKILL)
                print("killed", flush=True)
loop.Stage._save = kill
run(compose_config(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_crash_of_wandb_itself_stops_nothing(tmp_path: Path) -> None:
    """Its service process killed while the run trains."""
    words = [*TINY, f"output.root={tmp_path}", "logger=wandb"]
    # A service of this process would be shared.
    alone = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run(
        [sys.executable, "-c", _KILLER, *words],
        capture_output=True,
        text=True,
        timeout=200,
        env=alone,
    )
    assert done.returncode == 0, done.stderr
    assert "killed" in done.stdout
    status = json.loads((_folder(tmp_path) / "status.json").read_text())
    assert status["status"] == "finished"


def test_numbers_of_a_record_are_flat() -> None:
    record = {"test": {"task": 1, "hourly": [1, 2], "baselines": {"ols": 2.0, "bad": float("inf")}}}
    assert dict(scalars(record)) == {"test/task": 1.0, "test/baselines/ols": 2.0}


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_mirror_is_made_anew_from_what_a_run_left(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip(name)
    run(_config(tmp_path))
    folder = _folder(tmp_path)
    before = {path: path.read_bytes() for path in folder.glob("*.*") if path.is_file()}
    # Asked for after the run, its mirror is not made in silence: it is said how.
    with caplog.at_level(logging.INFO):
        run(_config(tmp_path, f"logger={name}"))
    assert f"mirror.py {folder} --to {name}` makes its mirror" in caplog.text
    assert not (folder / name).exists()
    # Again is the same; W&B names its folders by the second.
    for _ in range(1 if name == "wandb" else 2):
        monkeypatch.setattr(sys, "argv", ["mirror", str(folder), "--to", name])
        assert mirror.main() == 0
    if name == "wandb":
        (made,) = (folder / "wandb").glob("offline-run-*")
        found = read_offline(made)
        assert _epochs(found["history"]) == EPOCHS
        recorded = json.loads(before[folder / "summary.json"])
        assert found["summary"]["test/task"] == pytest.approx(recorded["test"]["task"])
        assert found["artifacts"]
    else:
        assert len(list((folder / "tensorboard").glob("events.*"))) == 1
    assert {path: path.read_bytes() for path in before} == before


def test_a_mirror_of_what_is_no_finished_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mirror", str(tmp_path), "--to", "tensorboard"])
    assert mirror.main() == 2
    assert (
        f"{tmp_path}: the run is new, and finished with all it left only if"
        in capsys.readouterr().err
    )
