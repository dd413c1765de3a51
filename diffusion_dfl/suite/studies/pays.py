"""Where decision-focused training pays: what it gains, on a problem whose truth is known.

One thing of ``task=inventory`` moves at a time. A model is fitted; its decision-focused stage starts from
that fit, and so does its twin, the same steps with decision weight 0. Epochs of every stage and the c of
every rule are chosen on the rows held out, none on the test, where a decision's expected cost and its
regret are exact.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import replacing
from diffusion_dfl.predictors import DecisionMaker, Predictor
from diffusion_dfl.suite.config.compose import compose_config, deciding_values, digest
from diffusion_dfl.suite.runs.compile import compiled, make_task
from diffusion_dfl.suite.search.trials import BANDWIDTH_SCALES, trial_config
from diffusion_dfl.tasks import Task, evaluate
from diffusion_dfl.tasks.inventory import InventoryTask
from diffusion_dfl.training.steps import Steps, nowhere
from diffusion_dfl.training.streams import torch_stream

#: Those that have a density and whose fit on this task was searched.
MODELS = ("gaussian", "diffusion")
GRADS = ("reparam", "score")
# Of a unit: the sample average, the fit, and every row with its twin.
_LINES = 2 + 2 * len(GRADS)
#: Twenty, without those that are kept untouched.
SEEDS = (*range(10), *range(15, 25))

TRAIN_ROWS = 1600
# Of the rows to train on, and no more: what an epoch is chosen by need not grow with them.
_HELD_OUT, _MOST_HELD_OUT = 0.25, 400
_TEST_ROWS = 500
# About twice what the searches chose at 1600 rows.
_FIT_STEPS = 3000
_TRAIN_STEPS = {"gaussian": 300, "diffusion": 75}


@dataclass(frozen=True)
class Setting:
    """What is otherwise than in the task as it is.

    Attributes:
        axis: what moves; empty for nothing.
        value: where to.
        changes: key -> value.
        noise: standard deviation of noise on the contexts that models see, in theirs.
    """

    axis: str = ""
    value: float = 0.0
    changes: Mapping[str, Any] | None = None
    noise: float = 0.0


@dataclass(frozen=True)
class Axis:
    """One thing that moves.

    Attributes:
        title: what it is.
        own: its value in the task as it is; None where that has none.
        others: its other values.
        changes: value -> what it changes; None for noise on the contexts.
    """

    title: str
    own: float | None
    others: tuple[float, ...]
    changes: Callable[[float], Mapping[str, Any]] | None = None

    @property
    def values(self) -> list[float]:
        """All of them, in order."""
        return sorted([*self.others, *([] if self.own is None else [self.own])])

    def settings(self, name: str) -> list[Setting]:
        """What is not the task as it is."""
        if self.changes is None:
            return [Setting(name, value, noise=value) for value in self.others]
        return [Setting(name, value, self.changes(value)) for value in self.others]


def _asymmetric(ratio: float) -> dict[str, Any]:
    """A newsvendor's linear costs, which sum to 40 as the task's do."""
    short = 40.0 * ratio / (1.0 + ratio)
    linear = dict.fromkeys(("c0", "q0", "rb", "rh"), 0.0)
    values = {**linear, "cb": short, "ch": 40.0 - short}
    return {f"task.{name}": value for name, value in values.items()}


AXES: Mapping[str, Axis] = {
    "rows": Axis(
        "rows to train on",
        TRAIN_ROWS,
        (50, 200, 800, 5000, 20_000),
        lambda n: {
            "task.num_train": int(n),
            "task.num_validation": min(int(_HELD_OUT * n), _MOST_HELD_OUT),
        },
    ),
    "width": Axis("units of the network", 256, (2, 8, 32, 512), lambda n: {"model.width": int(n)}),
    "modes": Axis("modes of the demand", 3, (1, 2, 5), lambda n: {"task.num_components": int(n)}),
    "asymmetry": Axis("cost of a unit short over one left", None, (1, 5, 20, 200), _asymmetric),
    "noise": Axis("noise on the contexts, in deviations", 0.0, (0.5, 1.0, 2.0)),
}

#: All, the task as it is first.
SETTINGS = (
    Setting(),
    *(setting for name, axis in AXES.items() for setting in axis.settings(name)),
)


@dataclass(frozen=True)
class Line:
    """What came of a row of a unit.

    Attributes:
        recipe: digest of the configurations of the unit.
        axis, value: of the setting.
        model, seed: of the unit.
        grad: ``two_stage``, ``reparam``, ``score``; ``saa``, the same order for all contexts.
        twin: whether its decision weight is 0.
        cost: expected cost of a decision, mean over the test rows.
        regret: less that of the best one.
        scale: c of the rule.
        epochs: of the decision-focused stage.
        seconds: of the unit so far.
    """

    recipe: str
    axis: str
    value: float
    model: str
    seed: int
    grad: str
    twin: bool
    cost: float
    regret: float
    scale: float
    epochs: int
    seconds: float


def config_of(model: str, grad: str, seed: int, setting: Setting) -> DictConfig:
    """The searched preset with the setting's changes, and as many steps whatever the rows, one epoch at
    least."""
    words = ["task=inventory", f"model={model}", f"grad={grad}", f"seed={seed}"]
    config = compose_config([*words, "fit.refit=false", f"task.num_test={_TEST_ROWS}"])
    changes = dict(setting.changes or {})
    rows = changes.get("task.num_train", TRAIN_ROWS)
    for stage, steps in (("fit", _FIT_STEPS), ("train", _TRAIN_STEPS[model])):
        batches = -(-rows // config[stage].batch_size)
        changes |= {
            f"{stage}.epochs": max(1, round(steps / batches)),
            f"{stage}.keep": "best",
            f"{stage}.patience": 0,
            f"{stage}.divergence_factor": 0.0,
        }
    return trial_config(config, changes)


def recipe(model: str, setting: Setting) -> str:
    """What tells a unit from one of other presets or another design, of all seeds the same."""
    configs = [config_of(model, grad, 0, setting) for grad in ("two_stage", *GRADS)]
    return digest([deciding_values(one) for one in configs] + [setting.noise], 12)


def task_of(config: DictConfig, noise: float) -> Task:
    """The task; contexts that models see have noise, the demand and its optimum know the true ones."""
    task = make_task(config)
    if noise:
        contexts = task.dataset.contexts
        blur = np.random.default_rng([config.seed, 1]).standard_normal(contexts.shape)
        task.dataset = replace(task.dataset, contexts=contexts + noise * blur)
    return task


def measure(model: str, seed: int, setting: Setting, device: torch.device) -> list[Line]:
    """A unit: the two-stage fit, and from it every decision-focused stage and its twin."""
    # Every stage is seeded, and goes on from there: dropout draws from the process's own generators.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return _measured(model, seed, setting, device)


def _measured(model: str, seed: int, setting: Setting, device: torch.device) -> list[Line]:
    began, lines = time.process_time(), []
    told = recipe(model, setting)

    def line(grad: str, twin: bool, steps: Steps, predictor: DecisionMaker, epochs: int) -> None:
        cost, regret, scale = _judged(steps, predictor.eval())
        lines.append(
            Line(
                told, setting.axis, setting.value, model, seed, grad, twin,
                cost, regret, scale, epochs, time.process_time() - began,
            )
        )  # fmt: skip

    config = config_of(model, "two_stage", seed, setting)
    task = task_of(config, setting.noise)
    assert isinstance(task, InventoryTask)
    test = task.dataset.test
    saa = task.judge(test, np.full((len(test), 1), task.saa))
    regret = float(saa.metrics["regret"])
    lines.append(
        Line(
            told, setting.axis, setting.value, model, seed, "saa", False, saa.task, regret, 0.0, 0, 0.0
        )
    )  # fmt: skip
    steps, fitted = _prepared(config, task, device)
    assert isinstance(fitted, Predictor)
    steps.fit(fitted)
    line("two_stage", False, steps, fitted, 0)
    for grad in GRADS:
        config = config_of(model, grad, seed, setting)
        steps, own = _prepared(config, task, device, fitted)
        epochs = _train(steps, own)
        line(grad, False, steps, own, epochs)
        same = {"grad.decision_weight": 0.0, "train.epochs": max(1, epochs), "train.keep": "last"}
        steps, twin = _prepared(trial_config(config, same), task, device, fitted)
        if epochs:
            _train(steps, twin)
        line(grad, True, steps, twin, epochs)
    return lines


def _prepared(
    config: DictConfig, task: Task, device: torch.device, fitted: Predictor | None = None
) -> tuple[Steps, DecisionMaker]:
    steps = Steps(compiled(config, task), device, nowhere)
    predictor = steps.prepare()
    if fitted is not None:
        predictor.load_state_dict(fitted.state_dict())
    return steps, predictor


def _train(steps: Steps, predictor: DecisionMaker) -> int:
    progress = steps.train(predictor, steps.experiment.estimator)
    assert progress is not None
    return progress.best_epoch


def _judged(steps: Steps, predictor: DecisionMaker) -> tuple[float, float, float]:
    """Expected cost and regret on the test rows, by the c that is best on the rows held out."""
    rules = [replace(steps.rule, bandwidth_scale=c) for c in BANDWIDTH_SCALES]
    costs = steps.validation_costs(predictor, rules)
    rule = rules[int(np.nanargmin(costs))]
    test, count = steps.task.dataset.test, rule.num_scenarios
    found = evaluate(
        predictor,
        rule.layer(steps.task.program),
        steps.rows(test),
        count,
        torch_stream(steps.seed, "test", steps.device),
        lambda decisions: steps.task.judge(test, decisions),
        num_large=count,
        progress=False,
    )
    return found.metrics["task"], found.metrics["regret"], rule.bandwidth_scale


def units(models: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, int, Setting]]:
    """All settings of a seed before the next seed, so that a study that is not at its end is balanced."""
    return itertools.product(models, seeds, SETTINGS)


def path_of(folder: Path, model: str) -> Path:
    """A file a model, so that two can be made at once."""
    return folder / f"pays-{model}.csv"


def read(path: Path) -> pd.DataFrame:
    """Lines of a file; none of one that is not there.

    Raises:
        UserError: another file, or a damaged one.
    """
    names = list(Line.__dataclass_fields__)
    if not path.exists():
        return pd.DataFrame(columns=names)
    texts = ("recipe", "axis", "model", "grad")
    empty = {name: [""] for name in names if name not in texts}
    try:
        found = pd.read_csv(
            path, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values=empty
        )
    except ValueError as error:  # What cannot be parsed or decoded.
        raise UserError(f"{path} is damaged ({error}); move it away") from error
    if list(found.columns) != names:
        raise UserError(f"{path}: it is no study of where training pays; move it away")
    if not all(pd.api.types.is_numeric_dtype(found[name]) for name in empty if name != "twin"):
        raise UserError(f"{path} is damaged (a number is none); move it away")
    return found


def check(lines: pd.DataFrame, path: Path, model: str) -> None:
    """Refuse units of other presets or another design.

    Raises:
        UserError: naming the file and the unit.
    """
    settings = {(setting.axis, setting.value): setting for setting in SETTINGS}
    for (axis, value), part in lines.groupby(["axis", "value"]):
        setting = settings.get((str(axis), float(str(value))))
        if setting is None or set(part["recipe"]) != {recipe(model, setting)}:
            raise UserError(
                f"{path}: {axis or 'the task as it is'} {value:g} was made with another recipe (a "
                "preset or the study has changed since); move the file away to begin again"
            )


def run(
    folder: Path,
    models: Sequence[str],
    seeds: Sequence[int],
    device: torch.device,
    heard: Callable[[str], None] = print,
) -> None:
    """Make the units that are not there yet; a file is whole after every one.

    Raises:
        UserError: a file with units of other presets.
    """
    for model in models:
        check(read(path_of(folder, model)), path_of(folder, model), model)
    for model, seed, setting in units(models, seeds):
        path = path_of(folder, model)
        known = read(path)
        same = (
            (known["seed"] == seed)
            & (known["axis"] == setting.axis)
            & (known["value"] == setting.value)
        )
        if same.sum() == _LINES:
            continue
        lines = measure(model, seed, setting, device)
        kept = [known[~same]] if len(known) else []
        made = pd.concat([*kept, pd.DataFrame([asdict(line) for line in lines])])
        with replacing(path) as partial:
            made.to_csv(partial, index=False, float_format="%.6g")
        heard(
            f"{model} seed {seed} {setting.axis or 'as it is'} {setting.value:g}: regret "
            + ", ".join(f"{x.grad}{' twin' if x.twin else ''} {x.regret:.3f}" for x in lines)
            + f" ({lines[-1].seconds:.0f} s)"
        )
