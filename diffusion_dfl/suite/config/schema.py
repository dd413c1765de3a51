"""Schemas of the configuration: every key and type is checked when it is composed.

Those of parts (tasks, models, grads, the decision rule, the stages) are the signatures of what they
make: a constructor owns a knob's name, type, default and check, ``conf/`` holds what is chosen
otherwise. Only the run's own keys are declared here.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from diffusion_dfl.suite.config.signature import REQUIRED, constant, knobs
from diffusion_dfl.suite.places import CONFIG_DIRECTORY

#: The groups whose options make something, by their ``_target_``.
MADE = ("task", "model", "grad")


@dataclass
class DataConfig:
    source: str = MISSING
    root: str | None = None
    url: str | None = None
    directory: str = MISSING
    file: str | None = None
    num_days: int = MISSING


#: What a run passes to what an option makes, beside the option's keys.
SUPPLIED: dict[str, Collection[str]] = {
    "task": {"rng", *DataConfig.__annotations__},
    "model": {"context_size", "outcome_size"},
    "grad": {"num_scenarios"},
}


def _schema(
    name: str,
    target: str,
    *,
    without: Collection[str] = (),
    values: Mapping[str, Any] | None = None,
    named: bool = False,
) -> Any:
    """A dataclass of what a target takes.

    Args:
        name: of the dataclass.
        target: class or function.
        without: arguments that are no keys.
        values: defaults other than the signature's.
        named: whether it has ``name`` and ``_target_``, as an option has.
    """
    fields: list[Any] = [("name", str, MISSING), ("_target_", str, MISSING)] if named else []
    for knob in knobs(target).values():
        if knob.name in without:
            continue
        value = (values or {}).get(knob.name, knob.default)
        if value is REQUIRED:
            value = MISSING
        if isinstance(value, list):
            fields.append((knob.name, knob.kind, field(default_factory=value.copy)))
        else:
            fields.append((knob.name, knob.kind, value))
    return make_dataclass(name, fields)


_TRAINING = "diffusion_dfl.training.settings"

DecisionConfig = _schema(
    "DecisionConfig", "diffusion_dfl.training.rule.DecisionRule", without={"regularise"}
)
FitConfig = _schema("FitConfig", f"{_TRAINING}.TrainingSettings", values=constant(_TRAINING, "FIT"))
TrainConfig = _schema(
    "TrainConfig", f"{_TRAINING}.TrainingSettings", values=constant(_TRAINING, "TRAIN")
)
RefittedConfig = make_dataclass("RefittedConfig", [("refit", bool, MISSING)], bases=(FitConfig,))


@dataclass
class EvaluationConfig:
    test: bool = MISSING
    num_large: int = MISSING


@dataclass
class OutputConfig:
    root: str = MISSING


@dataclass
class LoggerConfig:
    wandb: bool = MISSING
    tensorboard: bool = MISSING
    project: str = MISSING
    entity: str | None = None
    tags: list[str] = MISSING


@dataclass
class RunConfig:
    """The whole configuration of one run."""

    seed: int = MISSING
    scale: str = MISSING
    device: str = MISSING
    threads: int = MISSING
    matmul_precision: str = MISSING
    force: bool = MISSING
    retry_failed: bool = MISSING
    accept_source_change: bool = MISSING
    task: Any = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    model: Any = MISSING
    grad: Any = MISSING
    decision: DecisionConfig = field(default_factory=DecisionConfig)  # type: ignore[valid-type]
    foundation: FitConfig = field(default_factory=FitConfig)  # type: ignore[valid-type]
    fit: RefittedConfig = field(default_factory=RefittedConfig)  # type: ignore[valid-type]
    train: TrainConfig = field(default_factory=TrainConfig)  # type: ignore[valid-type]
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def target_of(text: str) -> str | None:
    """The ``_target_`` that the text of an option names, if it is of this package."""
    found = re.search(r"^\s*_target_:\s*(diffusion_dfl\.[\w.]+)", text, re.MULTILINE)
    return found.group(1) if found else None


@cache
def register() -> None:
    """Make the schemas known to Hydra, once in a process."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    for group in MADE:
        for path in (CONFIG_DIRECTORY / group).glob("*.yaml"):
            target = target_of(path.read_text(encoding="utf-8"))
            if target is not None:
                node = _schema(path.stem, target, without=SUPPLIED[group], named=True)
                store.store(group=f"schema/{group}", name=path.stem, node=node)
