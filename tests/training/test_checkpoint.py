"""Checkpoints: damage of every kind is recovered from the older generation or refused by name."""

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import DamagedFile
from diffusion_dfl.training.checkpoint import Checkpoint, read_tensors, write_tensors

CPU = torch.device("cpu")


def value(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "weights": {"a": torch.arange(50.0) + epoch}, "names": ["x", None]}


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(share * len(content))]


def flip(seed: int) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        bit = random.Random(seed).randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        return bytes(changed)

    return damage


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut to {share}": cut(share) for share in (0.01, 0.3, 0.6, 0.9, 0.99, 0.9999)},
    **{f"bit {seed}": flip(seed) for seed in range(24)},
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "foreign text": lambda content: b"epoch: 3\n",
    "foreign image": lambda content: b"\x89PNG\r\n\x1a\n" + content,
    "longer": lambda content: content + b"\x00",
    "twice": lambda content: content + content[:-1],
}


def damaged(path: Path, kind: str) -> None:
    path.write_bytes(DAMAGE[kind](path.read_bytes()))


def two_generations(path: Path) -> Checkpoint:
    checkpoint = Checkpoint(path / "checkpoint.pt", "me")
    checkpoint.save(value(1))
    checkpoint.save(value(2))
    return checkpoint


def test_generations_take_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]

    def written(*given: Any) -> None:
        clock[0] += 2.0

    monkeypatch.setattr("diffusion_dfl.training.checkpoint.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("diffusion_dfl.training.checkpoint.write_tensors", written)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt")
    assert checkpoint.due
    checkpoint.save(value(1))
    clock[0] += 39.0
    assert not checkpoint.due
    clock[0] += 1.0
    assert checkpoint.due


def test_the_last_generation_is_read_and_the_one_before_is_kept(tmp_path: Path) -> None:
    checkpoint = two_generations(tmp_path)
    assert checkpoint.load(CPU)["epoch"] == 2
    assert read_tensors(checkpoint.previous, CPU)["epoch"] == 1
    checkpoint.save(value(3))
    assert [
        read_tensors(path, CPU)["epoch"] for path in (checkpoint.path, checkpoint.previous)
    ] == [3, 2]
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        "checkpoint.previous.pt",
        "checkpoint.pt",
    ]


def test_other_programs_read_the_file_as_any_other(tmp_path: Path) -> None:
    write_tensors(tmp_path / "weights.pt", value(1))
    plain = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert torch.equal(plain["weights"]["a"], value(1)["weights"]["a"])
    assert zipfile.ZipFile(tmp_path / "weights.pt").testzip() is None


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_recovered_from_the_generation_before(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = two_generations(tmp_path)
    damaged(checkpoint.path, kind)
    content = checkpoint.path.read_bytes()
    assert checkpoint.load(CPU)["epoch"] == 1
    assert "checkpoint.pt is damaged" in caplog.text
    # Nothing is lost, and the good generation is not pushed out by the bad one.
    assert (tmp_path / "checkpoint.pt.damaged").read_bytes() == content
    checkpoint.save(value(2))
    assert checkpoint.load(CPU)["epoch"] == 2
    assert read_tensors(checkpoint.previous, CPU)["epoch"] == 1


@pytest.mark.parametrize("kind", DAMAGE)
def test_where_both_are_damaged_both_are_named(tmp_path: Path, kind: str) -> None:
    checkpoint = two_generations(tmp_path)
    for path in (checkpoint.path, checkpoint.previous):
        damaged(path, kind)
    with pytest.raises(
        UserError, match=r"checkpoint\.pt is .*checkpoint\.previous\.pt is .*force=true"
    ):
        checkpoint.load(CPU)


@pytest.mark.parametrize("kind", DAMAGE)
def test_weights_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    write_tensors(tmp_path / "weights.pt", value(0))
    damaged(tmp_path / "weights.pt", kind)
    with pytest.raises(DamagedFile, match=r"weights\.pt is damaged"):
        read_tensors(tmp_path / "weights.pt", CPU)


def test_an_older_generation_that_is_damaged_is_not_missed(tmp_path: Path) -> None:
    checkpoint = two_generations(tmp_path)
    damaged(checkpoint.previous, "empty")
    assert checkpoint.load(CPU)["epoch"] == 2
    checkpoint.save(value(3))
    assert read_tensors(checkpoint.previous, CPU)["epoch"] == 2


def test_the_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    two_generations(tmp_path)
    with pytest.raises(UserError, match=r"checkpoint\.pt is the checkpoint of me, not of you"):
        Checkpoint(tmp_path / "checkpoint.pt", "you").load(CPU)
    # Weights under the name of a checkpoint.
    write_tensors(tmp_path / "checkpoint.pt", value(2))
    with pytest.raises(UserError, match="the checkpoint of something else"):
        Checkpoint(tmp_path / "checkpoint.pt", "me").load(CPU)


def test_without_hard_links_generations_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    checkpoint = two_generations(tmp_path)
    assert checkpoint.load(CPU)["epoch"] == 2
    assert read_tensors(checkpoint.previous, CPU)["epoch"] == 1
