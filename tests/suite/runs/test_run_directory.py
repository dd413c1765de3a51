"""A run's directory: whose it is, who may write in it, what its files say."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.runs.directory import RunDirectory
from tests.configs import composed


@cache
def _plain() -> DictConfig:
    return composed(["data=simulated", "model=gaussian", "grad=score"])


def _config(**values: object) -> DictConfig:
    config = _plain().copy()
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    path = tmp_path / "cell" / "seed-0"
    path.mkdir(parents=True)
    return RunDirectory(path)


@pytest.fixture
def held(directory: RunDirectory) -> Iterator[RunDirectory]:
    with directory.locked():
        yield directory


def test_a_directory_is_claimed_by_a_configuration_and_claimed_again(
    held: RunDirectory,
) -> None:
    held.claim(_config(), force=False)
    first = (held.path / "config.yaml").read_text()
    held.claim(_config(), force=False)
    assert (held.path / "config.yaml").read_text() == first


@pytest.mark.parametrize("model", ["deterministic", "forest", "boosting", "policy", "bootstrap"])
def test_a_run_of_every_model_is_claimed_again(held: RunDirectory, model: str) -> None:
    """Keys that joined later are none of a model that does not have them."""
    grad = "policy" if model == "policy" else "two_stage"
    config = composed(["data=simulated", f"model={model}", f"grad={grad}"])
    held.claim(config, force=False)
    held.claim(config, force=False)


def test_places_may_change_between_claims(held: RunDirectory) -> None:
    held.claim(_config(data__root="/a", device="cpu", output__root="/x"), force=False)
    held.claim(_config(data__root="/b", device="cuda", output__root="/y"), force=False)


def test_the_stored_configuration_names_no_place_of_this_machine(held: RunDirectory) -> None:
    held.claim(
        _config(
            data__root="/Users/me/loads", data__directory="/Users/me/data", output__root="/Users/me"
        ),
        force=False,
    )
    text = (held.path / "config.yaml").read_text()
    assert "/Users/me" not in text
    stored = OmegaConf.create(text)
    assert stored.train.learning_rate == _config().train.learning_rate
    assert stored.data.source == "simulated"


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 5), ("train__learning_rate", 0.5), ("data__source", "real"), ("fit__dropout", False)],
)
def test_another_configuration_is_refused_with_the_key_and_both_values(
    held: RunDirectory, key: str, value: object
) -> None:
    held.claim(_config(), force=False)
    before = (held.path / "config.yaml").read_bytes()
    dotted = key.replace("__", ".")
    there = OmegaConf.select(_config(), dotted)
    with pytest.raises(UserError) as refusal:
        held.claim(_config(**{key: value}), force=False)
    message = str(refusal.value)
    assert f"{dotted} ({there!r} there, {value!r} here)" in message
    assert str(held.path) in message
    assert "force=true" in message
    assert (held.path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("text", ["{ broken", "[1, 2]", ""])
def test_a_configuration_that_cannot_be_read_is_refused_not_replaced(
    held: RunDirectory, text: str
) -> None:
    (held.path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml|another configuration") as refusal:
        held.claim(_config(), force=False)
    assert "force=true" in str(refusal.value)
    assert (held.path / "config.yaml").read_text() == text


def test_force_keeps_everything_aside_each_time(held: RunDirectory) -> None:
    for round_ in (1, 2):
        held.claim(_config(seed=round_), force=round_ > 1)
        (held.path / "summary.json").write_text(f"{round_}")
        (held.path / "extra").mkdir()
        (held.path / "extra" / "note").write_text(f"note {round_}")
    held.claim(_config(seed=3), force=True)
    cell = held.path.parent
    assert sorted(item.name for item in cell.iterdir()) == [
        "seed-0",
        "seed-0.old-1",
        "seed-0.old-2",
    ]
    for round_ in (1, 2):
        old = cell / f"seed-0.old-{round_}"
        assert (old / "summary.json").read_text() == f"{round_}"
        assert (old / "extra" / "note").read_text() == f"note {round_}"
        assert OmegaConf.load(old / "config.yaml").seed == round_
    assert [item.name for item in held.path.iterdir() if item.name[0] != "."] == ["config.yaml"]


def test_force_in_an_empty_directory_keeps_nothing_aside(held: RunDirectory) -> None:
    held.claim(_config(), force=True)
    assert [item.name for item in held.path.parent.iterdir()] == ["seed-0"]


_HOLDER = """
import sys
from pathlib import Path
from diffusion_dfl.suite.runs.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_directory_in_use_by_another_process_is_refused_until_it_ends(
    directory: RunDirectory,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(directory.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(UserError, match="in use by another process"), directory.locked():
            pass
        holder.kill()  # a lock must not outlive its process
    with directory.locked():
        pass


def test_a_directory_that_cannot_be_made_is_refused_by_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = RunDirectory(tmp_path / "file" / "seed-0")
    mend = r"output\.root: cannot write to .*set output\.root=FOLDER"
    with pytest.raises(UserError, match=mend), directory.locked():
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"state": "finished"}', '"finished"'])
def test_a_status_that_cannot_be_read_is_that_of_a_new_run(
    directory: RunDirectory, text: str
) -> None:
    (directory.path / "status.json").write_text(text)
    assert directory.status == "new"
    assert directory.finished_summary() is None


def test_a_status_is_told_as_it_was_set(held: RunDirectory) -> None:
    assert held.status == "new"
    for status in ("running", "failed", "finished"):
        held.set_status(status, reason="because")
        assert held.status == status


def test_a_record_counts_only_where_the_run_is_finished_and_the_record_whole(
    held: RunDirectory,
) -> None:
    held.summary.write_text('{"schema": 1}')
    assert held.finished_summary() is None
    held.set_status("finished")
    assert held.finished_summary() == {"schema": 1}
    for broken in ('{"schema"', "[1]", ""):
        held.summary.write_text(broken)
        assert held.finished_summary() is None
    held.summary.unlink()
    assert held.finished_summary() is None


def test_restoring_makes_a_stage_what_its_checkpoint_says_and_leaves_the_others(
    held: RunDirectory,
) -> None:
    log = held.metrics
    for epoch in range(5):
        log.append("fit", epoch, {"loss": 1.0 / (1 + epoch)})
    for epoch in range(3):
        log.append("train", epoch, {"loss": 3.0})
    with log.path.open("a") as handle:
        handle.write('{"stage": "train", "epo')
    log.restore("train", [(0, {"loss": 2.0}), (1, {"loss": 1.5})])
    records = [json.loads(line) for line in log.path.read_text().splitlines()]
    kept = [("fit", epoch) for epoch in range(5)] + [("train", 0), ("train", 1)]
    assert [(record["stage"], record["epoch"]) for record in records] == kept
    assert records[4]["loss"] == 0.2
    assert [record["loss"] for record in records[5:]] == [2.0, 1.5]
    log.append("train", 2, {"loss": 3.0})
    assert len(log.path.read_text().splitlines()) == 8
    log.restore("train", [])
    assert len(log.path.read_text().splitlines()) == 5


def test_restoring_nothing_into_a_log_that_is_not_there_makes_none(held: RunDirectory) -> None:
    log = held.metrics
    log.restore("fit", [])
    assert not log.path.exists()
