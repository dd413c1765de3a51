"""Composing configurations, and the identity that decides where a run lives."""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.config.arguments import check_cell
from diffusion_dfl.config.schema import register
from diffusion_dfl.errors import UserError
from diffusion_dfl.layers.decision import CURVATURES, LAYER_SOLVERS
from diffusion_dfl.layers.failures import ON_FAILURE

logger = logging.getLogger(__name__)

CONFIG_DIRECTORY = Path(__file__).resolve().parents[2] / "conf"

# These say where and how a run happens, not what its numbers are.
_INCIDENTAL = (
    "device",
    "force",
    "retry_failed",
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
    "matmul_precision": "highest",
    **{f"{stage}.keep": "best" for stage in ("foundation", "fit", "train")},
}

# As torch.set_float32_matmul_precision knows them.
_MATMUL_PRECISIONS = ("highest", "high", "medium")

# What the two-stage fit does not read: the program, the sampler, the surrogate of its score.
_NOT_FITTED = (
    "task.shortage",
    "task.excess",
    "task.ramp",
    "task.kink_mask",
    "task.capacity",
    "task.risk_aversion",
    *(f"task.{name}" for name in ("c0", "q0", "cb", "rb", "ch", "rh", "z_max")),
    "model.num_sampling_steps",
    "model.spacing",
    "model.sampler",
    "model.eta",
    "model.variance",
    "model.clip",
    "model.final_noise",
    "model.num_elbo_timesteps",
    "model.elbo_steps",
    "model.elbo_weighting",
    "model.elbo_timesteps",
    "model.elbo_mixing",
    "model.antithetic",
    "model.common_noise",
    "model.chunk_rows",
)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/config.yaml`` with overrides, inside a Hydra application or outside of one."""
    register()
    if GlobalHydra.instance().is_initialized():
        return compose("config", overrides=list(overrides))
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        return compose("config", overrides=list(overrides))


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


def deciding_values(config: DictConfig) -> dict[str, Any]:
    """The flat ``key -> value`` pairs that decide a run's numbers."""
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    flat = dict(_flatten("", container))
    if flat.get("data.file"):
        flat["data.file"] = name_of_file(flat["data.file"])
    return {
        key: value
        for key, value in sorted(flat.items())
        if not any(key == name or key.startswith(name + ".") for name in _INCIDENTAL)
    }


def name_of_file(path: str) -> str:
    """The user's file by its name and content, not by its place: ``prices.csv sha256 1a2b3c4d``.

    What is no file is left as it is, without its folder.
    """
    file = Path(path)
    if not file.is_file():
        return file.name
    with file.open("rb") as handle:
        content = hashlib.file_digest(handle, "sha256").hexdigest()
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


def identify(config: DictConfig) -> Identity:
    """Identity of a composed configuration.

    Raises:
        UserError: model and grad that make no sense together, or a key that no schema knows.
    """
    check_cell(config.model.name, config.grad.name)
    values = deciding_values(config)
    reference = deciding_values(reference_config(config))
    unknown = sorted(values.keys() - reference.keys())
    if unknown:  # `+key=value` gets past the schemas.
        raise UserError(
            f"{unknown[0]}={values[unknown[0]]}: there is no such key; "
            "`python train.py --cfg job` shows every key"
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
        config_hash=digest(
            {k: v for k, v in values.items() if k != "seed" and NEUTRAL.get(k) != v}, 16
        ),
    )


def fit_path(config: DictConfig) -> Path:
    """Where the two-stage weights live: a function of what their fit reads, and of nothing else."""
    values = deciding_values(config)
    parts = ["task", "data", "model", "fit", "threads", "matmul_precision"]
    if values.get("model.outcome_scaling") == "residual":
        parts.append("foundation")
    read = {
        key: value
        for key, value in values.items()
        if key.split(".")[0] in parts and key not in _NOT_FITTED and NEUTRAL.get(key) != value
    }
    name = f"{config.model.name}-{digest(read, 8)}"
    return Path(config.scale, config.task.name, "_fits", name, f"seed-{config.seed}")


def validate(config: DictConfig) -> None:
    """Refuse values no run could work with, before anything starts.

    Raises:
        UserError: naming the key, the value and the mend.
    """
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
        ("decision.num_scenarios", config.decision.num_scenarios >= 1, "an integer >= 1"),
        ("decision.bandwidth_scale", config.decision.bandwidth_scale >= 0, "a number >= 0"),
        *(
            (f"decision.{name}", config.decision[name] in known, f"one of {', '.join(known)}")
            for name, known in (
                ("curvature", CURVATURES),
                ("solver", LAYER_SOLVERS),
                ("on_failure", ON_FAILURE),
            )
        ),
        ("decision.max_failure_share", 0 <= config.decision.max_failure_share <= 1, "in 0..1"),
        (
            "evaluation.num_large",
            config.evaluation.num_large >= config.decision.num_scenarios,
            f"at least decision.num_scenarios={config.decision.num_scenarios}",
        ),
    ]
    if config.task.name == "power":
        for key in ("task.shortage", "task.excess", "task.ramp"):
            checks.append((key, OmegaConf.select(config, key) >= 0, "a number >= 0"))
    for stage in ("foundation", "fit", "train"):
        settings = config[stage]
        checks += [
            (f"{stage}.epochs", settings.epochs >= 0, "an integer >= 0"),
            (f"{stage}.batch_size", settings.batch_size >= 1, "an integer >= 1"),
            (f"{stage}.learning_rate", settings.learning_rate > 0, "a number > 0"),
            (f"{stage}.weight_decay", settings.weight_decay >= 0, "a number >= 0"),
            (f"{stage}.decay", settings.decay in ("constant", "cosine"), "constant or cosine"),
            (f"{stage}.gradient_clip", settings.gradient_clip >= 0, "a number >= 0"),
            (f"{stage}.ema_decay", 0 <= settings.ema_decay < 1, "in [0, 1)"),
            (f"{stage}.context_noise", settings.context_noise >= 0, "a number >= 0"),
            (f"{stage}.patience", settings.patience >= 0, "an integer >= 0"),
            (f"{stage}.validate_every", settings.validate_every >= 1, "an integer >= 1"),
            (f"{stage}.divergence_factor", settings.divergence_factor >= 0, "a number >= 0"),
            (f"{stage}.keep", settings.keep in ("best", "last"), "best or last"),
            (
                f"{stage}.patience",
                settings.patience == 0 or settings.keep == "best",
                f"0 with {stage}.keep=last, which waits for no better score",
            ),
        ]
    if config.grad.name == "reparam":
        kind, steps = config.grad.backpropagation, config.model.get("num_sampling_steps")
        within = f"at most model.num_sampling_steps={steps}"
        checks += [
            (
                "grad.backpropagation",
                kind == "full" or steps is not None,
                f"full: model={config.model.name} has no sampler of many steps",
            ),
            ("grad.last_steps", steps is None or config.grad.last_steps <= steps, within),
        ]
    checks += [(key, value != "nan", "a number") for key, value in deciding_values(config).items()]
    for key, good, mend in checks:
        if not good:
            raise UserError(f"{key}={OmegaConf.select(config, key)} must be {mend}")
    if config.grad.name == "score_path":
        _check_path(config)


def _check_path(config: DictConfig) -> None:
    """Refuse paths without a density: every step of the sampler must add noise."""
    model = config.model
    if config.train.dropout and model.dropout > 0 and config.grad.decision_weight > 0:
        raise UserError(
            "grad=score_path with train.dropout=true: a path is drawn under one dropout mask and would "
            "be judged under another; set train.dropout=false or model.dropout=0"
        )
    for key, noisy, mend in (
        ("model.sampler", model.sampler != "dpm_solver", "model.sampler=ancestral"),
        ("model.eta", model.sampler != "ddim" or model.eta > 0, "model.eta=1"),
        ("model.final_noise", model.final_noise, "model.final_noise=true"),
    ):
        if not noisy:
            raise UserError(
                f"grad=score_path with {key}={OmegaConf.select(config, key)}: a step of this sampler "
                f"adds no noise, so its path has no density; set {mend}"
            )


def check_decision_rule(config: DictConfig, kinked: bool) -> None:
    """Refuse decision rules that have no gradient, or no solver.

    Args:
        config: composed and valid.
        kinked: whether the task's program has kinks; a smooth one is never convolved.

    Raises:
        UserError: naming the key, the value and the mend.
    """
    decision = config.decision
    convolved = kinked and decision.curvature == "convolved" and decision.bandwidth_scale > 0
    scored = config.grad.name in ("score", "score_path")
    if scored and kinked and not convolved and decision.curvature != "paper":
        key = "curvature" if decision.curvature == "saa" else "bandwidth_scale"
        mend = (
            "set decision.curvature=convolved"
            if key == "curvature"
            else "set decision.bandwidth_scale above 0 (1.5 is a good start)"
        )
        raise UserError(
            f"grad={config.grad.name} with decision.{key}={decision[key]}: the optimum of the exact sample "
            "program sits on scenarios and does not move with their weights, so its score gradient "
            f"is zero; {mend} or use grad=reparam"
        )
    if scored and decision.num_scenarios < 2:
        raise UserError(
            f"grad={config.grad.name} with decision.num_scenarios={decision.num_scenarios}: the "
            "weights of one scenario are zero; take at least 2, better 100"
        )
    if convolved and decision.solver in ("cvxpy", "cvxpylayers"):
        raise UserError(
            f"decision.solver={decision.solver}: the convolved cost has no conic form; set "
            "decision.curvature=saa with it, or decision.solver=auto"
        )
    if convolved and decision.on_failure == "reference":
        raise UserError(
            "decision.on_failure=reference: the reference solves exact programs only; set "
            "decision.curvature=saa with it, or decision.on_failure=retry"
        )
    if decision.solver == "cvxpylayers" and (scored or decision.curvature == "paper"):
        raise UserError(
            "decision.solver=cvxpylayers differentiates the exact program in its scenarios only; "
            "use it with grad=reparam and decision.curvature=saa"
        )
    if decision.solver == "cvxpy" and (scored or config.grad.name == "reparam"):
        logger.warning("decision.solver=cvxpy solves one instance at a time: expect minutes a step")
