"""Every file of a finished run damaged in turn: the run makes it good, or refuses it by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.compose import fit_path, identify
from diffusion_dfl.suite.runs.run import run
from tests.configs import composed

TINY = [
    "data=simulated",
    "data.num_days=150",
    "scale=smoke",
    "model=diffusion",
    "grad=score",
    "model.width=8",
    "model.base_folds=2",
    "model.base_width=8",
    "foundation.epochs=1",
    "fit.epochs=2",
    "train.epochs=2",
    "decision.num_scenarios=5",
    "evaluation.num_large=10",
    "device=cpu",
]


def _flip(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 4
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "flipped": _flip,
    "empty": lambda content: b"",
    "foreign": lambda content: b'{"a": [1, 2]}\n',
    "binary": lambda content: b"\x80\x04\x95\x00\xff" * 20,
}

#: Files of a run that it makes good by itself, and the one it must not touch.
RECOVERED = (
    "status.json",
    "summary.json",
    "metrics.jsonl",
    "rows.csv",
    "env.json",
    "checkpoint.pt",
    "checkpoint.previous.pt",
    "weights.pt",
    "interface.json",
    "run.log",
)


def _config(root: Path) -> Any:
    return composed([*TINY, f"output.root={root}"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    run(_config(root))
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def _numbers(summary: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in summary.items() if key not in ("timing", "resources")}
    return kept


#: One kind is for the fast tests; the others take as long again.
KINDS = [
    kind if kind == "flipped" else pytest.param(kind, marks=pytest.mark.slow) for kind in DAMAGE
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RECOVERED)
@pytest.mark.slow
def test_a_damaged_file_of_a_run_is_made_good(
    root: Path, finished: Path, name: str, kind: str
) -> None:
    folder = root / "runs" / identify(_config(root)).path
    whole = finished / "runs" / identify(_config(root)).path
    (folder / name).write_bytes(DAMAGE[kind]((folder / name).read_bytes()))
    again = run(_config(root))
    assert _numbers(again) == _numbers(json.loads((whole / "summary.json").read_text()))
    for kept in ("metrics.jsonl", "rows.csv"):
        assert (folder / kept).read_text() == (whole / kept).read_text()
    assert json.loads((folder / "status.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_configuration_is_refused_and_left(root: Path, kind: str) -> None:
    path = root / "runs" / identify(_config(root)).path / "config.yaml"
    bad = DAMAGE[kind](path.read_bytes())
    path.write_bytes(bad)
    with pytest.raises(UserError, match=f"{path.parent}.*force=true"):
        run(_config(root))
    assert path.read_bytes() == bad


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["checkpoint.pt", "foundation-1.pt", "metrics.jsonl"])
def test_a_damaged_file_of_the_shared_fit_is_made_good(
    root: Path, finished: Path, name: str, kind: str
) -> None:
    folder = root / "runs" / fit_path(_config(root))
    (folder / name).write_bytes(DAMAGE[kind]((folder / name).read_bytes()))
    shutil.rmtree(root / "runs" / identify(_config(root)).path)
    again = run(_config(root))
    whole = finished / "runs" / identify(_config(root)).path / "summary.json"
    assert _numbers(again) == _numbers(json.loads(whole.read_text()))


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_fit_whose_generations_are_both_damaged_is_named(root: Path, kind: str) -> None:
    folder = root / "runs" / fit_path(_config(root))
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (folder / name).write_bytes(DAMAGE[kind]((folder / name).read_bytes()))
    shutil.rmtree(root / "runs" / identify(_config(root)).path)
    with pytest.raises(UserError, match=r"checkpoint\.pt is damaged.*move what is damaged away"):
        run(_config(root))
