"""Composing configurations, and the identity that decides where a run lives."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.data.portfolio import DAYS
from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config import own
from diffusion_dfl.suite.config.arguments import check_cell
from diffusion_dfl.suite.config.keys import keyed
from diffusion_dfl.suite.config.schema import register
from diffusion_dfl.suite.config.signature import knobs
from diffusion_dfl.suite.invocation import start
from diffusion_dfl.suite.places import CONFIG_DIRECTORY
from diffusion_dfl.training.settings import TrainingSettings

# These say where and how a run happens, not what its numbers are.
_INCIDENTAL = (
    "device",
    "force",
    "retry_failed",
    "accept_source_change",
    "output",
    "logger",
    "data.root",
    "data.url",
    "data.directory",
)

# Keys that joined later, at the value that keeps what was before: there they leave a run's hash
# alone, so that committed records stay current.
NEUTRAL = {
    "decision.solver": "auto",
    "decision.curvature": "convolved",
    "model.base": "gaussian",
    "model.base_leaf_rows": 5,
    "model.antithetic_scenarios": False,
    "matmul_precision": "highest",
    **{f"{stage}.keep": "best" for stage in ("foundation", "fit", "train")},
    **{f"{stage}.decay_epochs": 0 for stage in ("foundation", "fit", "train")},
}

# As torch.set_float32_matmul_precision knows them.
_MATMUL_PRECISIONS = ("highest", "high", "medium")

# What the two-stage fit does not read: the program, how scenarios are drawn, the surrogate of the score.
_NOT_FITTED = (
    "task.shortage",
    "task.excess",
    "task.ramp",
    "task.kink_mask",
    "task.capacity",
    "task.risk_aversion",
    "task.service_level",
    "task.storage",
    *(f"task.{name}" for name in ("c0", "q0", "cb", "rb", "ch", "rh", "z_max")),
    *(f"model.{name}" for name in knobs("diffusion_dfl.predictors.Sampling")),
    *(f"model.{name}" for name in knobs("diffusion_dfl.predictors.ElboSurrogate")),
    "model.chunk_rows",
)


#: A folder of the user's own that is searched after ``conf/`` outside of a Hydra application, which
#: has its own from ``--config-dir``; set by :func:`diffusion_dfl.suite.config.identities.searching`.
own_folder: Path | None = None


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/config.yaml`` with overrides, inside a Hydra application or outside of one."""
    register()
    words = list(overrides)
    if GlobalHydra.instance().is_initialized():
        return compose("config", overrides=words)
    if own_folder is not None:
        place = json.dumps(f"file://{own_folder.resolve()}")
        words.append(f"hydra.searchpath=[{place}]")
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        return compose("config", overrides=words)


def reference_config(config: DictConfig) -> DictConfig:
    """The untouched preset of the same cell, scale and seed."""
    return compose_config(
        [
            f"task={config.task.name}",
            f"model={config.model.name}",
            f"grad={config.grad.name}",
            f"scale={config.scale}",
            f"seed={config.seed}",
        ]
    )


def preset_values(config: DictConfig) -> dict[str, Any]:
    """Deciding values of :func:`reference_config`."""
    if GlobalHydra.instance().is_initialized() or own_folder is not None:
        return deciding_values(reference_config(config))  # of files that may change
    cell = (config.task.name, config.model.name, config.grad.name, config.scale)
    return {**_preset(CONFIG_DIRECTORY, *cell), "seed": config.seed}


@cache
def _preset(directory: Path, task: str, model: str, grad: str, scale: str) -> dict[str, Any]:
    """Deciding values of a cell's untouched preset of our own with seed 0."""
    words = (f"task={task}", f"model={model}", f"grad={grad}", f"scale={scale}", "seed=0")
    return deciding_values(compose_config(words))


def deciding_values(config: DictConfig) -> dict[str, Any]:
    """The flat ``key -> value`` pairs that decide a run's numbers."""
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    flat = dict(_flatten("", container))
    if flat.get("data.file"):
        flat["data.file"] = name_of_file(flat["data.file"])
    if flat.get("task.name") == "portfolio" and flat.get("data.source") != "csv":
        # As records have them that were made when every day was named.
        flat |= {f"task.{key}": day for key, day in DAYS.items() if not flat.get(f"task.{key}")}
    for group in own.GROUPS:
        code = code_of(config, group)
        if code is not None:
            flat[f"{group}.{own.CODE}"] = code
    return {
        key: value
        for key, value in sorted(flat.items())
        if not any(key == name or key.startswith(name + ".") for name in _INCIDENTAL)
    }


def code_of(config: DictConfig, group: str) -> str | None:
    """The user's own code behind ``group``, by name and content; None for a part of this package.

    A stored configuration has it from when it ran.
    """
    node = config[group]
    target = node.get("_target_")
    if not own.is_own(target):
        return None
    if own.CODE in node:
        return str(node[own.CODE])
    file = own.source_file(target)
    return None if file is None else name_of_file(str(file))


def name_of_file(path: str) -> str:
    """The user's file by its name and content, not by its place: ``prices.csv sha256 1a2b3c4d``.

    What is no file is left as it is, without its folder.

    Raises:
        UserError: a file that cannot be read.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        return file.name
    try:
        with file.open("rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"data.file={path}: it cannot be read ({error.strerror}); make it readable or name another file"
        ) from error
    return f"{file.name} sha256 {content[:8]}"


def _flatten(prefix: str, value: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        path = f"{prefix}{key}"
        if isinstance(item, dict):
            yield from _flatten(path + ".", item)
        elif isinstance(item, float):
            # -0.0 is 0.0, and JSON knows no infinity.
            yield path, item + 0.0 if math.isfinite(item) else str(item)
        else:
            yield path, item


def digest(value: Any, length: int) -> str:
    """Hexadecimal hash of a JSON value; numbers that are equal hash alike."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Identity:
    """What names a run.

    Attributes:
        task, model, grad, scale, seed: the cell.
        source: data source.
        differs: keys whose values are not the preset's.
        config_hash: of all deciding values but the seed.
    """

    task: str
    model: str
    grad: str
    scale: str
    seed: int
    source: str
    differs: dict[str, Any]
    config_hash: str

    @property
    def path(self) -> Path:
        """``<scale>/<task>/<model>-<grad>[-<hash>]/seed-<n>``."""
        cell = f"{self.model}-{self.grad}"
        if self.differs:
            cell += "-" + digest(self.differs, 8)
        return Path(self.scale, self.task, cell, f"seed-{self.seed}")


def identify(config: DictConfig, reference: Mapping[str, Any] | None = None) -> Identity:
    """Identity of a composed configuration.

    Args:
        config: composed.
        reference: deciding values of :func:`reference_config`, where they are known already; None
            composes it.

    Raises:
        UserError: model and grad that make no sense together, or a key that no schema knows.
    """
    check_names(config)
    check_cell(config.model.name, config.grad.name)
    values = deciding_values(config)
    if reference is None:
        reference = preset_values(config)
    unknown = sorted(values.keys() - reference.keys())
    if unknown:  # `+key=value` gets past the schemas.
        raise UserError(
            f"{unknown[0]}={values[unknown[0]]}: there is no such key; "
            f"`{start()} --cfg job` shows every key"
        )
    differs = {
        key: values.get(key)
        for key in sorted(values.keys() | reference.keys())
        if values.get(key) != reference.get(key)
    }
    return Identity(
        task=config.task.name,
        model=config.model.name,
        grad=config.grad.name,
        scale=config.scale,
        seed=config.seed,
        source=config.data.source,
        differs=differs,
        config_hash=digest({k: v for k, v in _hashed(values).items() if k != "seed"}, 16),
    )


def check_names(config: DictConfig) -> None:
    """Refuse a task, model or grad whose ``name`` is not that of the file it comes from.

    Raises:
        UserError: naming the file and the mend.
    """
    choices: dict[str, str] = {}
    if GlobalHydra.instance().is_initialized() and HydraConfig.initialized():
        found = HydraConfig.get().runtime.choices
        choices = {group: str(found[group]) for group in own.GROUPS if group in found}
    own.check_names({group: config[group] for group in own.GROUPS}, choices)


def fit_values(config: DictConfig) -> dict[str, Any]:
    """What the two-stage fit reads, flat, without the seed.

    What a user's own task or model reads of its keys is not known: each of them counts.
    """
    values = deciding_values(config)
    own_groups = tuple(group for group in own.GROUPS if own.is_own(config[group]._target_))
    parts = ["task", "data", "model", "fit", "threads", "matmul_precision"]
    if values.get("model.outcome_scaling") == "residual" or "model.law" in values:
        parts.append("foundation")
    return {
        key: value
        for key, value in _hashed(values).items()
        if key.split(".")[0] in parts and (key not in _NOT_FITTED or key.startswith(own_groups))
    }


def _hashed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Deciding values without the neutral ones; a bootstrap had its base from the first, and a key of a
    user's own model is none of ours."""
    own_base = "model.law" in values or f"model.{own.CODE}" in values
    return {
        key: value
        for key, value in values.items()
        if NEUTRAL.get(key) != value or (key == "model.base" and own_base)
    }


def fit_path(config: DictConfig) -> Path:
    """Where the two-stage weights live: a function of :func:`fit_values`, and of nothing else."""
    name = f"{config.model.name}-{digest(fit_values(config), 8)}"
    return Path(config.scale, config.task.name, "_fits", name, f"seed-{config.seed}")


def validate(config: DictConfig) -> None:
    """Refuse values of a run's own keys that it could not work with; the rest its parts refuse
    (:mod:`diffusion_dfl.suite.runs.compile`).

    Raises:
        UserError: naming the key, the value and the mend.
    """
    check_names(config)
    check_cell(config.model.name, config.grad.name)
    checks = [
        ("seed", config.seed >= 0, "an integer >= 0"),
        ("threads", config.threads >= 1, "an integer >= 1"),
        (
            "matmul_precision",
            config.matmul_precision in _MATMUL_PRECISIONS,
            f"one of {', '.join(_MATMUL_PRECISIONS)}",
        ),
        (
            "device",
            config.device in ("auto", "cpu") or config.device.startswith("cuda"),
            "auto, cpu or cuda",
        ),
        (
            "evaluation.num_large",
            config.evaluation.num_large >= config.decision.num_scenarios,
            f"at least decision.num_scenarios={config.decision.num_scenarios}",
        ),
    ]
    checks += [(key, value != "nan", "a number") for key, value in deciding_values(config).items()]
    for key, good, mend in checks:
        if not good:
            raise UserError(f"{key}={OmegaConf.select(config, key)} must be {mend}")
    stage_settings(config)


def stage_settings(config: DictConfig) -> dict[str, TrainingSettings]:
    """Stage -> its knobs.

    Raises:
        UserError: a value out of range.
    """
    found: dict[str, TrainingSettings] = {}
    for stage in ("foundation", "fit", "train"):
        values = OmegaConf.to_container(config[stage])
        assert isinstance(values, dict)
        values.pop("refit", None)  # Of the training as a whole.
        with keyed({stage: [str(key) for key in values]}):
            found[stage] = TrainingSettings(**{str(key): value for key, value in values.items()})
    return found
