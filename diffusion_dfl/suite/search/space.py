"""Search spaces, ``conf/search/<model>.yaml``: what a stage of a row's search may change.

fit:                              # the predictor's own fit, shared by all its rows
  fixed: {fit.epochs: 200}        # what every trial sets
  knobs:
    model.dropout: [0.0, 0.1]     # a choice
    fit.learning_rate: {low: 3.0e-4, high: 3.0e-3, log: true}   # a range
decision: ...                     # the decision-focused stage, one search a row
tasks:                            # what is otherwise for a task
  inventory: {fit: {knobs: {...}}}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import optuna
import yaml
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.compose import digest
from diffusion_dfl.suite.invocation import start
from diffusion_dfl.suite.places import CONFIG_DIRECTORY

StageOfSearch = Literal["fit", "decision"]
FoldKind = Literal["blocks", "ahead"]

#: Where spaces and budgets are.
FOLDER = CONFIG_DIRECTORY / "search"

_RANGE = {"low", "high", "log"}


@dataclass(frozen=True)
class Budget:
    """What a search may spend and what its trials are judged on, the same for every row of a task.

    Attributes:
        trials: at most, failed and pruned ones among them.
        seconds: of processor time, of all trials together; more where fewer than four were judged in them.
        folds: the days held out: blocks at random, or ahead of all that is fitted on.
    """

    trials: int
    seconds: float
    folds: FoldKind = "blocks"


@dataclass(frozen=True)
class Space:
    """What the trials of a study choose from.

    Attributes:
        name: of the file.
        fixed: key -> value of every trial.
        knobs: key -> choices, or ``{low, high, log}``.
        overrides: words that the configuration of all trials was composed with.
    """

    name: str
    fixed: Mapping[str, Any]
    knobs: Mapping[str, Any]
    overrides: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What tells a study of this space from one of another."""
        told: dict[str, Any] = {"fixed": dict(self.fixed), "knobs": dict(self.knobs)}
        if self.overrides:
            told["overrides"] = sorted(self.overrides)
        return digest(told, 16)

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Values of a trial."""
        found: dict[str, Any] = {}
        for key, choice in self.knobs.items():
            if isinstance(choice, list):
                # As text: optuna takes no lists, and warns of what is no plain value.
                found[key] = json.loads(
                    trial.suggest_categorical(key, [json.dumps(value) for value in choice])
                )
            else:
                found[key] = trial.suggest_float(
                    key, choice["low"], choice["high"], log=choice.get("log", False)
                )
        return found

    def start(self, config: DictConfig) -> dict[str, Any]:
        """The present values of the knobs, as far as the space has them: the first trial."""
        found: dict[str, Any] = {}
        for key, choice in self.knobs.items():
            value = OmegaConf.select(config, key)
            if isinstance(choice, list):
                for candidate in choice:
                    if candidate == value:
                        found[key] = json.dumps(candidate)
            elif choice["low"] <= value <= choice["high"]:
                found[key] = float(value)
        return found

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What a finished trial's parameters stand for."""
        return {
            key: json.loads(params[key]) if isinstance(choice, list) else params[key]
            for key, choice in self.knobs.items()
        }

    def check(self, config: DictConfig) -> None:
        """Refuse keys that the composed configuration does not have.

        Raises:
            UserError: naming the key.
        """
        for key in (*self.fixed, *self.knobs):
            if OmegaConf.select(config, key, throw_on_missing=False) is None:
                raise UserError(
                    f"{self.name}: {key}: there is no such key for task={config.task.name} model="
                    f"{config.model.name} grad={config.grad.name}; `{start()} --cfg job` with "
                    "these shows every key"
                )


def read_space(model: str, stage: StageOfSearch, task: str, grad: str) -> Space:
    """The space of a stage of a row.

    ``tasks.<task>``, ``grads.<grad>`` and ``tasks.<task>.grads.<grad>`` in a stage take the place of its
    keys of the same name; a knob set to null is left out.

    Raises:
        UserError: no space for the model, or one that cannot be read.
    """
    path = FOLDER / f"{model}.yaml"
    name = f"conf/search/{path.name}"
    try:
        whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(
            f"model={model}: there is no {name}; write one, as docs/search.md shows (there are: {known})"
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"{name} is no YAML: {error}") from error
    if not isinstance(whole, dict) or stage not in whole:
        raise UserError(f"{name}: there is no stage {stage}; it has {', '.join(whole or ())}")
    part = dict(whole[stage])
    fixed, knobs = dict(part.get("fixed", {})), dict(part.get("knobs", {}))
    of_task = part.get("tasks", {}).get(task, {})
    of_grad, of_both = (where.get("grads", {}).get(grad, {}) for where in (part, of_task))
    for special in (of_task, of_grad, of_both):
        fixed.update(special.get("fixed", {}))
        knobs.update(special.get("knobs", {}))
    knobs = {key: choice for key, choice in knobs.items() if choice is not None}
    for key in knobs.keys() & fixed.keys():
        del fixed[key]
    for key, choice in knobs.items():
        _check_choice(name, key, choice)
    return Space(name, fixed, knobs)


def _check_choice(name: str, key: str, choice: Any) -> None:
    if isinstance(choice, list) and choice:
        return
    ranged = isinstance(choice, dict) and {"low", "high"} <= choice.keys() <= _RANGE
    if ranged and choice["low"] < choice["high"]:
        return
    raise UserError(
        f"{name}: {key}: {choice!r} is no choice; write a list of values, or a range as in "
        "{low: 1.0e-4, high: 1.0e-2, log: true}"
    )


def read_budget(task: str, path: Path = FOLDER / "budget.yaml") -> Budget:
    """The budget of every stage of every row of a task."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = values["tasks"].get(task, values["default"])
    folds = found.get("folds", "blocks")
    if folds not in get_args(FoldKind):
        raise UserError(
            f"conf/search/{path.name}: {task}: folds={folds}: choose {' or '.join(get_args(FoldKind))}"
        )
    return Budget(int(found["trials"]), float(found["seconds"]), folds)
