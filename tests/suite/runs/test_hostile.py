"""Run directories made to do harm: they are data, so nothing in them runs (docs/security.md)."""

import json
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diffusion_dfl.data import download
from diffusion_dfl.errors import UserError
from diffusion_dfl.files import sha256_of
from diffusion_dfl.suite.config.compose import identify
from diffusion_dfl.suite.runs.deployed import load_run
from diffusion_dfl.suite.runs.mirroring import makers, mirror
from diffusion_dfl.suite.runs.run import run
from diffusion_dfl.training.checkpoint import write_tensors
from tests.configs import composed
from tests.suite.runs.test_deployed import SMALL

Run = tuple[Path, Path]
Change = Callable[[Run], object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    config = composed([*SMALL, "model=gaussian", "grad=reparam", f"output.root={root}"])
    run(config)
    return root / "runs" / identify(config).path


@pytest.fixture
def places(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the run, and a folder with a file that has to outlive it."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("whole")
    # A module that tells when it is imported, where a user may have started the command.
    (tmp_path / "hostile_module.py").write_text(f"open({str(victim / 'run')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("hostile_module", None)
    return Path(shutil.copytree(finished, tmp_path / "run")), victim


def _config(change: Callable[[dict[str, Any], Path], object]) -> Change:
    def apply(places: Run) -> None:
        file = places[0] / "config.yaml"
        told = yaml.safe_load(file.read_text())
        change(told, places[1])
        file.write_text(yaml.safe_dump(told))

    return apply


def _text(text: str) -> Change:
    """At the end of config.yaml."""

    def apply(places: Run) -> None:
        with (places[0] / "config.yaml").open("a") as file:
            file.write(text.replace("VICTIM", str(places[1])))

    return apply


def _target(group: str, target: str, **arguments: Any) -> Change:
    def change(told: dict[str, Any], victim: Path) -> None:
        node = {"name": told[group]["name"], "_target_": target}
        told[group] = node | {
            key: str(victim / "run") if value == "VICTIM" else value
            for key, value in arguments.items()
        }

    return _config(change)


def _nested(place: str, **node: Any) -> Change:
    """A part within an argument of a part of ours."""

    def change(told: dict[str, Any], victim: Path) -> None:
        *parents, last = place.split(".")
        inner = told
        for name in parents:
            inner = inner[name]
        inner[last] = {
            key: str(victim / "run") if value == "VICTIM" else value for key, value in node.items()
        }

    return _config(change)


def _interface(**program: Any) -> Change:
    def apply(places: Run) -> None:
        file = places[0] / "interface.json"
        told = json.loads(file.read_text())
        told["program"] = {
            key: str(places[1]) if value == "VICTIM" else value for key, value in program.items()
        }
        file.write_text(json.dumps(told))

    return apply


def _interface_text(text: str) -> Change:
    return lambda places: (places[0] / "interface.json").write_text(text)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {os.environ['VICTIM']}/run",)


def _pickle(places: Run) -> None:
    os.environ["VICTIM"] = str(places[1])
    (places[0] / "weights.pt").write_bytes(pickle.dumps(_Bomb()))


def _sealed_pickle(places: Run) -> None:
    os.environ["VICTIM"] = str(places[1])
    write_tensors(places[0] / "weights.pt", {"contexts.mean": _Bomb()})


def _no_predictor(places: Run) -> None:
    write_tensors(places[0] / "weights.pt", {"contexts.mean": torch.zeros(2, 2)})


def _fifo(name: str) -> Change:
    def apply(places: Run) -> None:
        (places[0] / name).unlink()
        os.mkfifo(places[0] / name)

    return apply


def _link(name: str, to: str) -> Change:
    def apply(places: Run) -> None:
        (places[0] / name).unlink()
        (places[0] / name).symlink_to(to)

    return apply


_PLUS = "diffusion_dfl.predictors.gaussian.GaussianPredictor"
_DEEP = "x: " + "[" * 200 + "]" * 200 + "\n"
_LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
HARM: dict[str, Change] = {
    "task is a call of the system": _target("task", "os.system", command="touch VICTIM/run"),
    "model is a call of the system": _target("model", "os.system", command="touch VICTIM/run"),
    "grad is a call of the system": _target("grad", "os.system", command="touch VICTIM/run"),
    "model removes a folder": _target("model", "shutil.rmtree", path="VICTIM"),
    "model opens a file": _target("model", "builtins.open", file="VICTIM", mode="w"),
    "model evaluates": _target("model", "builtins.eval", source="open('run','w')"),
    "model executes": _target("model", "builtins.exec", source="open('run','w')"),
    "model makes a folder": _target("model", "os.mkdir", path="VICTIM"),
    "model starts a process": _target("model", "subprocess.run", args=["touch", "VICTIM"]),
    "model is a method of a path": _target("model", "pathlib.Path.touch", self="VICTIM"),
    "model is Hydra's own call": _target("model", "hydra.utils.instantiate", config={}),
    "model is a loader of pickles": _target("model", "torch.load", f="VICTIM"),
    "model is a module of the working directory": _target("model", "hostile_module.Net"),
    "task is a module of the working directory": _target("task", "hostile_module.make"),
    "grad is a module of the working directory": _target("grad", "hostile_module.Grad"),
    "a package is imported to look": _target("model", "hostile_module.deep.deeper.Net"),
    "model is a task of ours": _target("model", "diffusion_dfl.tasks.power.power_task"),
    "grad is a function of ours": _target("grad", "diffusion_dfl.files.write_text", path="VICTIM"),
    "model is a module through ours": _target("model", "diffusion_dfl.files.os.system"),
    "model is no text": _target("model", ["os.system"]),  # type: ignore[arg-type]
    "an argument of the model": _nested("model.width", _target_="os.mkdir", path="VICTIM"),
    "an argument of the task": _nested("task.ramp", _target_="os.mkdir", path="VICTIM"),
    "an argument of the grad": _nested("grad.fit_weight", _target_="os.mkdir", path="VICTIM"),
    "a part of ours within a part": _nested("model.width", _target_=_PLUS),
    "a setting of the rule": _nested("decision.solver", _target_="os.mkdir", path="VICTIM"),
    "a setting of a stage": _nested("fit.epochs", _target_="os.mkdir", path="VICTIM"),
    "a place of the data": _nested("data.root", _target_="os.mkdir", path="VICTIM"),
    "a target in a list": _target("model", ["hostile_module.Net"]),  # type: ignore[arg-type]
    "a target in a mapping": _target("model", {"a": "hostile_module.Net"}),  # type: ignore[arg-type]
    "a list of parts": _config(
        lambda told, victim: told["model"].update(
            width=[{"_target_": "os.mkdir", "path": str(victim / "run")}]
        )
    ),
    "further arguments by place": _config(
        lambda told, _: told["model"].update(_args_=[{"_target_": "os.getcwd"}])
    ),
    "a partial": _config(lambda told, _: told["model"].update(_partial_=True)),
    "a variable of the environment": _config(
        lambda told, _: told["model"].update(width="${oc.env:HOME}")
    ),
    "a decoded text": _config(lambda told, _: told["decision"].update(solver="${oc.decode:1}")),
    "a tag of Python": _text("x: !!python/object/apply:os.system ['touch VICTIM/run']\n"),
    "a tag of Python's names": _text("x: !!python/name:os.system\n"),
    "aliases of aliases": _text(_LAUGHS),
    "many levels": _text(_DEEP),
    "a long file": _text("# " + "x" * 2**21),
    "no mapping": lambda places: (places[0] / "config.yaml").write_text("- 1\n"),
    "no configuration": lambda places: (places[0] / "config.yaml").write_text("a: 1\n"),
    "a pipe for a configuration": _fifo("config.yaml"),
    "a pipe for weights": _fifo("weights.pt"),
    "a pipe for an interface": _fifo("interface.json"),
    "a device for weights": _link("weights.pt", "/dev/zero"),
    "a link for a configuration": _link("config.yaml", "/etc/hosts"),
    "a word that is no boolean": _text("x: !!bool abc\n"),
    "a moment": _text("x: !!timestamp 2020-01-01\n"),
    "very many keys": _text("".join(f"k{number}: []\n" for number in range(30_000))),
    "half a character": _interface_text(
        '{"features": ["\\ud800"], "decisions": [], "program": null}'
    ),
    "no threads": _config(lambda told, _: told.update(threads="many")),
    "program removes a folder": _interface(_target_="shutil.rmtree", path="VICTIM"),
    "program of the working directory": _interface(_target_="hostile_module.Program"),
    "program is a function of ours": _interface(_target_="diffusion_dfl.files.clear_partials"),
    "program of nested parts": _interface(
        _target_="diffusion_dfl.programs.power.PowerProgram", ramp={"_target_": "os.getcwd"}
    ),
    "program of another size": _interface(
        _target_="diffusion_dfl.programs.power.PowerProgram", num_decisions=10**6
    ),
    "names that are no list": _interface_text('{"features": 3, "decisions": [], "program": null}'),
    "a deep interface": _interface_text("[" * 100_000 + "]" * 100_000),
    "a pickle for weights": _pickle,
    "a sealed pickle for weights": _sealed_pickle,
    "weights of nothing": _no_predictor,
}


def _with_digests(path: Path) -> None:
    """Who makes a run to do harm says that it is whole."""
    names = ("config.yaml", "weights.pt", "interface.json")
    kept = {name: sha256_of(path / name) for name in names if (path / name).is_file()}
    (path / "status.json").write_text(json.dumps({"status": "finished", "sha256": kept}))


@pytest.mark.parametrize("kind", HARM)
def test_nothing_runs_and_nothing_goes(
    kind: str, places: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, victim = places
    monkeypatch.setenv("VICTIM", str(victim))
    HARM[kind](places)
    _with_digests(path)
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    started = time.process_time()
    with pytest.raises(UserError) as raised:
        load_run(path)
    assert time.process_time() - started < 5
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500
    assert [file.name for file in victim.iterdir()] == ["precious"]
    assert "hostile_module" not in sys.modules
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == before


def test_the_run_as_it_was_loads(places: Run) -> None:
    _with_digests(places[0])
    assert load_run(places[0]).interface.features


@pytest.mark.parametrize("module", ["os", "elsewhere"])
def test_trust_in_a_folder_is_trust_in_no_other(module: str, places: Run) -> None:
    path, victim = places
    _target("model", f"{module}.system", command=f"touch {victim}/run")(places)
    _with_digests(path)
    trusted = victim.parent / "trusted"
    trusted.mkdir()
    (trusted / "os.py").write_text("def system(command): open(command, 'w')\n")
    with pytest.raises(UserError, match=r"--trust-code .* does not hold it"):
        load_run(path, trust=trusted)
    assert [file.name for file in victim.iterdir()] == ["precious"]


@pytest.mark.parametrize("target", ["mine.os.system", "mine.system", "mine.np.load"])
def test_what_a_trusted_module_imports_is_not_trusted(target: str, places: Run) -> None:
    path, victim = places
    trusted = victim.parent / "trusted"
    trusted.mkdir()
    (trusted / "mine.py").write_text("import os\nimport numpy as np\nfrom os import system\n")
    sys.modules.pop("mine", None)
    _interface(_target_=target, command=f"touch {victim}/run")(places)
    _with_digests(path)
    with pytest.raises(UserError, match=r"--trust-code .* does not hold it"):
        load_run(path, trust=trusted)
    assert [file.name for file in victim.iterdir()] == ["precious"]


def test_nothing_is_fetched_from_where_a_run_says(
    places: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = places
    monkeypatch.delenv("DIFFUSION_DFL_DATA", raising=False)
    asked: list[str] = []

    def fetched(name: str, url: str, *rest: object) -> Path:
        asked.append(url)
        raise UserError("not here")

    monkeypatch.setattr(download, "fetch_own", fetched)
    _config(lambda told, _: told["data"].update(source="real", url="http://localhost:9/x"))(places)
    (path / "interface.json").unlink()
    _with_digests(path)
    with pytest.raises(UserError):
        load_run(path)
    assert not any("localhost" in url for url in asked)


MIRRORED: dict[str, Change] = {
    "its code is in the working directory": _target("model", "hostile_module.deep.Net"),
    "its mirror is a link": lambda places: (places[0] / "tensorboard").symlink_to(places[1]),
    "a digest of a device": lambda places: None,
    "metrics are a pipe": _fifo("metrics.jsonl"),
    "epochs that are none": lambda places: (places[0] / "metrics.jsonl").write_text(
        '{"stage": "fit", "epoch": null}\n[[1]]\n{"stage": "\\ud800", "epoch": 1}\n'
    ),
}


@pytest.mark.parametrize("kind", MIRRORED)
def test_a_mirror_of_a_hostile_run_touches_nothing_else(kind: str, places: Run) -> None:
    path, victim = places
    MIRRORED[kind](places)
    names = ("config.yaml", "summary.json")
    kept = {name: sha256_of(path / name) for name in names}
    kept["/dev/zero"] = "0"
    (path / "status.json").write_text(json.dumps({"status": "finished", "sha256": kept}))
    with suppress(UserError):
        mirror(path, makers(["tensorboard"], "x"))
    assert [file.name for file in victim.iterdir()] == ["precious"]
    assert "hostile_module" not in sys.modules
