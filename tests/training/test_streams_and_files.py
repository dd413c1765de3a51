"""Random streams and the writing of files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_dfl import files
from diffusion_dfl.training.checkpoint import read_tensors, write_tensors
from diffusion_dfl.training.streams import numpy_stream, stream_seed, torch_stream

STREAMS = (
    "split",
    "initialisation",
    "fit",
    "training",
    "validation",
    "test",
    "foundation",
    "folds",
)
CPU = torch.device("cpu")


def test_streams_are_what_they_have_always_been() -> None:
    """A change here changes every published number: old records could not be repeated."""
    assert [stream_seed(0, name) for name in STREAMS] == [  # type: ignore[arg-type]
        7896617691693857887,
        2918264622725855778,
        8597659618385908031,
        3291213472928352369,
        2494635221133837528,
        6102389744414414618,
        3656545308831359172,
        4625441644015172652,
    ]
    assert stream_seed(7, "test") == 4346648539189822640
    assert numpy_stream(0, "split").integers(1000, size=3).tolist() == [246, 819, 267]
    torch.testing.assert_close(
        torch.rand(2, generator=torch_stream(0, "fit", CPU)),
        torch.tensor([0.5797, 0.0888]),
        rtol=0,
        atol=1e-4,
    )


def test_no_two_streams_of_any_seed_are_alike() -> None:
    seeds = [stream_seed(seed, name) for seed in range(50) for name in STREAMS]  # type: ignore[arg-type]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_are_not_correlated() -> None:
    draws = np.stack(
        [
            torch.randn(20_000, generator=torch_stream(seed, name, CPU)).numpy()
            for seed in (0, 1)
            for name in ("fit", "training", "test")
        ]
    )
    correlation = np.corrcoef(draws) - np.eye(6)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


def test_a_stream_starts_afresh_on_every_call() -> None:
    first, second = (torch.rand(3, generator=torch_stream(3, "test", CPU)) for _ in range(2))
    assert torch.equal(first, second)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.json"
    files.write_json(path, {"a": [1, 2.5, None]})
    assert files.read_json(path) == {"a": [1, 2.5, None]}
    files.write_json(path, {"b": 1})
    assert files.read_json(path) == {"b": 1}
    assert [item.name for item in path.parent.iterdir()] == ["record.json"]


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")

    def write_half() -> None:
        with files.replacing(path) as partial:
            partial.write_text("half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["record.json"]


def test_a_crash_before_the_exchange_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")

    def crash(*arguments: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        files.write_text(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_that_readers_disagree_about_is_not_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "record.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": value})
    assert json.loads(path.read_text()) == {}


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    value = {"a": torch.arange(3), "b": {"c": [1, None, 2.5, "text", True]}}
    write_tensors(tmp_path / "state.pt", value)
    read = read_tensors(tmp_path / "state.pt", CPU)
    assert torch.equal(read["a"], value["a"])  # type: ignore[arg-type]
    assert read["b"] == value["b"]


class Payload:
    """What an attacker would put in a checkpoint."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_a_checkpoint_that_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Payload()}, tmp_path / "state.pt")
    with pytest.raises(files.DamagedFile, match=r"state\.pt is damaged: it has no checksum"):
        read_tensors(tmp_path / "state.pt", CPU)
    # Even one that was written by this program is not unpickled.
    write_tensors(tmp_path / "state.pt", {"a": Payload()})
    with pytest.raises(files.DamagedFile, match=r"state\.pt holds more than tensors"):
        read_tensors(tmp_path / "state.pt", CPU)
    assert not (tmp_path / "pwned").exists()
