"""Tasks, models and grads of a user's own YAML: found, held against signatures, part of the identity."""

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import diffusion_dfl as ddfl
from diffusion_dfl.suite.config.arguments import normalise
from diffusion_dfl.suite.config.compose import compose_config, fit_path, identify
from diffusion_dfl.suite.config.identities import searching
from diffusion_dfl.suite.reporting.console import announce
from diffusion_dfl.suite.runs.compile import make_predictor, stages
from diffusion_dfl.suite.runs.deployed import load_run
from diffusion_dfl.suite.runs.run import run
from tests.processes import ROOT, forked

MODULE = '''
from dataclasses import dataclass

import diffusion_dfl as ddfl
from tests.own.test_train import frame, stock

def make_task(rng, limit=11.0, capacity=1.0):
    return ddfl.task_from_frame(
        "shop", stock(limit), frame(), context=["heat", "room"], outcome=["a", "b"]
    )

def with_file(rng, file):
    return make_task(rng)

def needs_more(rng, wage):
    return make_task(rng)

def no_task(rng):
    return frame()

def fails(rng):
    return {}["price"]

class Net(ddfl.GaussianPredictor):
    """A Gaussian of the user's own."""

class Blind(ddfl.GaussianPredictor):
    has_density = False

@dataclass(frozen=True)
class Stretch:
    stretch: float = 1.0
    power: float = 1.0

    def __post_init__(self):
        if not self.stretch > 0:
            raise ValueError(f"stretch={self.stretch} must be a number > 0")

class Stretched(ddfl.GaussianPredictor):
    def __init__(self, context_size, outcome_size, parts=Stretch(power=2.0), width=8):
        super().__init__(context_size, outcome_size, width=width)
        self.parts = parts

class Plain:
    decision_focused = True
    def __init__(self, num_scenarios, step=1.0):
        self.inner = ddfl.Reparam(num_scenarios)
    def __call__(self, *arguments):
        return self.inner(*arguments)

class Nameless:
    def __call__(self, *arguments):
        return None
'''
SMALL = [
    "scale=smoke",
    "fit.epochs=1",
    "train.epochs=1",
    "decision.num_scenarios=6",
    "evaluation.num_large=12",
    "device=cpu",
    "threads=1",
]
TASK = {"name": "shop", "_target_": "own_shop.make_task", "limit": 11.0}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes the module and YAML files into a folder that is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_shop.py").write_text(MODULE, encoding="utf-8")

    def files(own_data: bool = True, **groups: dict[str, Any]) -> Path:
        for group, keys in groups.items():
            path = tmp_path / "mine" / group / f"{keys.pop('FILE', keys.get('name'))}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            head = ""
            if group == "task" and own_data:
                head = "defaults:\n  - override /data@_global_.data: own\n  - _self_\n"
            lines = [f"{key}: {json.dumps(value)}\n" for key, value in keys.items()]
            path.write_text(head + "".join(lines), encoding="utf-8")
        return tmp_path / "mine"

    yield files
    sys.modules.pop("own_shop", None)


def made(folder: Path, *words: str) -> dict[str, Any]:
    with searching(folder):
        return run(compose_config([*SMALL, f"output.root={folder.parent}/results", *words]))


def test_an_own_task_model_and_grad_make_a_run(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(
        task={**TASK},
        model={"name": "net", "_target_": "own_shop.Net", "width": 8},
        grad={"name": "plain", "_target_": "own_shop.Plain", "step": 2.0},
    )
    summary = made(folder, "task=shop", "model=net", "grad=plain")
    identity = summary["identity"]
    assert [identity[key] for key in ("task", "model", "grad", "source")] == [
        "shop", "net", "plain", "own",
    ]  # fmt: skip
    assert set(identity["differs"]) == {
        "decision.num_scenarios", "evaluation.num_large", "fit.epochs", "train.epochs",
    }  # fmt: skip
    assert summary["test"]["baselines"].keys() == {"saa", "knn_saa"}
    announce(summary)
    assert "shop net-plain seed 0 (own data, scale smoke)" in capsys.readouterr().out
    again = made(folder, "task=shop", "model=net", "grad=plain")
    assert again == summary  # It was finished.


def test_code_of_a_run_runs_only_from_a_folder_that_is_named(write: Callable[..., Path]) -> None:
    folder = write(task={**TASK}, model={"name": "net", "_target_": "own_shop.Net", "width": 8})
    made(folder, "task=shop", "model=net", "grad=two_stage")
    (path,) = (one.parent for one in folder.parent.glob("results/runs/*/shop/net-*/*/summary.json"))
    refused = r"task='own_shop.make_task' is no task of this package.*--trust-code FOLDER"
    with pytest.raises(ddfl.UserError, match=refused):
        load_run(path)
    with pytest.raises(ddfl.UserError, match=r"--trust-code .* does not hold it"):
        load_run(path, trust=path)
    run_of_mine = load_run(path, trust=folder.parent, data=True)
    task = run_of_mine.task
    assert task is not None
    assert run_of_mine.decide(task.dataset.contexts[:3]).made.all()


@pytest.mark.slow
@pytest.mark.parametrize("refit", [False, True])
def test_a_run_and_the_function_train_give_the_same_numbers(
    refit: bool, write: Callable[..., Path]
) -> None:
    folder = write(task={**TASK})
    words = ["task=shop", "model=gaussian", "grad=score", "model.width=8"]
    words.append(f"fit.refit={str(refit).lower()}")
    summary = made(folder, *words)
    sys.path.append(str(folder.parent))
    import own_shop

    with searching(folder):
        config = compose_config([*SMALL, *words])
    made_of = stages(config)
    options = {key: value for key, value in config.grad.items() if key not in ("name", "_target_")}
    torch.set_num_threads(1)
    fitted = ddfl.train(
        own_shop.make_task(None),
        partial(ddfl.GaussianPredictor, width=8, layers=2, dropout=config.model.dropout),
        ddfl.Score(6, **options),
        decision=ddfl.DecisionRule(6),
        device="cpu",
        refit=refit,
        foundation=made_of.foundation,
        fit=made_of.fit,
        train=made_of.train,
    )
    assert fitted.validation_cost == summary["validation"]["task"]
    assert fitted.evaluate(num_large=12).metrics["task"] == summary["test"]["task"]
    assert fitted.baselines() == summary["test"]["baselines"]


@pytest.mark.slow
def test_another_version_of_the_code_is_neither_skipped_nor_mixed_in(
    write: Callable[..., Path],
) -> None:
    folder = write(task={**TASK})
    words = ["task=shop", "model=gaussian", "grad=two_stage", "model.width=8"]
    summary = made(folder, *words)
    with searching(folder):
        before = fit_path(compose_config([*SMALL, *words]))
    module = folder.parent / "own_shop.py"
    module.write_text(MODULE + "\n# another version\n", encoding="utf-8")
    with pytest.raises(ddfl.UserError, match=r"task\._code_ \('own_shop.py sha256 .*force=true"):
        made(folder, *words)
    with searching(folder):
        config = compose_config([*SMALL, *words])
        assert fit_path(config) != before
        assert identify(config).config_hash != summary["identity"]["config_hash"]
    assert made(folder, *words, "force=true")["test"] == summary["test"]


def test_a_key_of_an_own_model_that_is_named_as_one_of_ours_counts(
    write: Callable[..., Path],
) -> None:
    """That `base` joined our models late, with a value that keeps what was, is nothing to this one."""
    words = ["task=shop", "model=net", "grad=two_stage"]
    paths = []
    for node in ({}, {"base": "gaussian"}):
        folder = write(
            task={**TASK}, model={"name": "net", "_target_": "own_shop.Net", "width": 8, **node}
        )
        with searching(folder):
            paths.append(fit_path(compose_config(words)))
    assert paths[0] != paths[1]


def test_every_key_of_an_own_task_counts_in_the_name_of_its_fit(write: Callable[..., Path]) -> None:
    # `capacity` of our own task is the program's and does not; of this one nothing is known.
    folder = write(task={**TASK, "capacity": 1.0})
    words = ["task=shop", "model=gaussian", "grad=two_stage"]
    with searching(folder):
        one, other = (
            fit_path(compose_config([*words, f"task.capacity={value}"])) for value in (1.0, 2.0)
        )
    assert one != other


def test_fields_of_a_dataclass_that_is_a_default_are_keys(write: Callable[..., Path]) -> None:
    folder = write(
        task={**TASK}, model={"name": "net", "_target_": "own_shop.Stretched", "stretch": 3.0}
    )
    with searching(folder):
        config = compose_config(["task=shop", "model=net", "grad=score"])
        changed = compose_config(["task=shop", "model=net", "grad=score", "model.stretch=4"])
        assert identify(changed).config_hash != identify(config).config_hash
    predictor = make_predictor(config, 2, 2)
    # What is not given is as the default has it, which need not be as the dataclass has it.
    assert (predictor.parts.stretch, predictor.parts.power) == (3.0, 2.0)


def test_an_argument_of_its_own_name_is_no_field_of_a_dataclass(write: Callable[..., Path]) -> None:
    inner = {"_target_": "own_shop.Stretch", "stretch": 5.0}
    folder = write(
        task={**TASK},
        model={"name": "net", "_target_": "own_shop.Stretched", "parts": inner, "width": 6},
    )
    with searching(folder):
        config = compose_config(["task=shop", "model=net", "grad=score"])
    predictor = make_predictor(config, 2, 2)
    assert (predictor.parts.stretch, predictor.network[0].out_features) == (5.0, 6)


@pytest.mark.parametrize(
    ("group", "keys", "message"),
    [
        (
            "task",
            {"limt": 9.0},
            r"task\.limt=9.0: own_shop.make_task takes no limt; did you mean limit\? It takes: limit",
        ),
        ("task", {"rng": 3}, r"task\.rng=3: own_shop.make_task is given rng by the run"),
        ("task", {"_target_": "own_shop.needs_more"}, r"task\.wage is missing: .*wage: VALUE"),
        ("task", {"_target_": "own_shop.no_task"}, "no_task returned DataFrame; expected a"),
        ("task", {"_target_": "own_shop.fails"}, r"KeyError: 'price' \(own_shop.py, line \d+\)"),
        ("task", {"_target_": "own_shop.mak_task"}, "own_shop.mak_task"),
        ("task", {"_target_": "no_such_shop.make_task"}, "neither installed nor in the working"),
        ("task", {"_target_": "make_task"}, "expected module.name, as in my_module.make_task"),
        ("task", {"_target_": None}, "its YAML has no _target_"),
        ("task", {"name": None, "FILE": "shop"}, "its YAML has no name; add `name: "),
        (
            "model",
            {"name": "net", "_target_": "own_shop.Net", "widht": 8},
            r"model\.widht=8: own_shop.Net takes no widht; did you mean width\?",
        ),
        (
            "model",
            {"name": "net", "_target_": "own_shop.Stretched", "strech": 2.0},
            r"takes no strech; did you mean stretch\? It takes: stretch, power, width",
        ),
        (
            "model",
            {"name": "net", "_target_": "own_shop.Stretched", "stretch": 0.0},
            r"^model\.stretch=0\.0 must be a number > 0",
        ),
        (
            "model",
            {"name": "net", "_target_": "own_shop.Plain"},
            r"Plain|num_scenarios",
        ),
        (
            "model",
            {"name": "net", "_target_": "own_shop.Blind", "width": 8},
            "model=net grad=score: Score needs a log-density, and Blind says has_density = False",
        ),
        (
            "grad",
            {"name": "plain", "_target_": "own_shop.Plain", "stp": 1.0},
            r"grad\.stp=1.0: own_shop.Plain takes no stp; did you mean step\?",
        ),
        (
            "grad",
            {"name": "plain", "_target_": "own_shop.Nameless"},
            "no attribute decision_focused",
        ),
    ],
)
def test_a_part_that_cannot_be_used_is_refused_before_anything_is_on_disk(
    write: Callable[..., Path], group: str, keys: dict[str, Any], message: str
) -> None:
    parts = {"task": {**TASK}}
    parts[group] = {**parts.get(group, {}), **keys}
    if "limit" in parts["task"] and "_target_" in keys and group == "task":
        del parts["task"]["limit"]
    parts[group] = {key: value for key, value in parts[group].items() if value is not None}
    words = ["task=shop", "model=gaussian", "grad=score"]
    if group != "task":
        words = [word for word in words if not word.startswith(group)]
        words.append(f"{group}={keys['name']}")
    folder = write(**parts)
    with pytest.raises(ddfl.UserError, match=message):
        made(folder, *words)
    assert list(folder.parent.rglob("*.pt")) == []


def test_data_a_task_of_ones_own_has_no_use_for_is_refused(write: Callable[..., Path]) -> None:
    folder = write(task={**TASK})
    cell = ["task=shop", "model=gaussian", "grad=two_stage"]
    with pytest.raises(ddfl.UserError, match=r"data=real: task=shop brings its own data"):
        made(folder, *cell, "data=real")
    with pytest.raises(
        ddfl.UserError, match=r"data\.file=x\.csv: own_shop.make_task takes no file"
    ):
        made(folder, *cell, "data.file=x.csv")
    unsaid = write(own_data=False, task={**TASK})
    with pytest.raises(ddfl.UserError, match=r"override /data@_global_\.data: own"):
        made(unsaid, *cell)
    with pytest.raises(ddfl.UserError, match=r"data=own"):
        made(folder, "task=synthetic", *cell[1:], "data=own")


def test_the_content_of_an_own_file_is_part_of_what_a_run_is(write: Callable[..., Path]) -> None:
    folder = write(task={"name": "shop", "_target_": "own_shop.with_file"})
    data = folder.parent / "demand.csv"
    hashes = set()
    for content in ("a,b\n1,2\n", "a,b\n1,3\n"):
        data.write_text(content, encoding="utf-8")
        with searching(folder):
            words = ["task=shop", "model=gaussian", "grad=two_stage", "data.file=demand.csv"]
            hashes.add(identify(compose_config(words)).config_hash)
    assert len(hashes) == 2


def test_a_file_that_hides_behind_one_of_ours_is_refused(write: Callable[..., Path]) -> None:
    folder = write(task={**TASK, "name": "power"})
    for words in (["--config-dir", str(folder)], [f"--config-dir={folder}"], ["-cd", str(folder)]):
        with pytest.raises(ddfl.UserError, match="task/power.yaml has the name of a file of this"):
            normalise(["task=power", *words])
    with pytest.raises(ddfl.UserError, match="there is no such folder"), searching(folder / "no"):
        pass


def test_a_name_that_is_not_the_files_is_refused_by_the_command(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write(task={**TASK, "FILE": "corner"})
    result = forked(ROOT / "train.py", "--config-dir", str(folder), "task=corner", folder=tmp_path)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(r"task=corner: its YAML says name: shop.*`name: corner`", line)
    assert not (tmp_path / "results" / "runs").exists()
