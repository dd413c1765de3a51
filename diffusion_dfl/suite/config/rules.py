"""Combinations of keys that have no gradient, no density or no solver, refused by name."""

import logging
from collections.abc import Collection
from functools import cache
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config import own
from diffusion_dfl.suite.config.options import read_option
from diffusion_dfl.suite.places import CONFIG_DIRECTORY

logger = logging.getLogger(__name__)

_DOWNLOADED = ("root", "url", "directory")

#: What a source reads of ``data``; of a task of the user's own, its function says so.
READS: dict[str, tuple[str, ...]] = {
    "real": _DOWNLOADED,
    "sp500": _DOWNLOADED,
    "skfolio": (),
    "csv": ("file",),
    "quandl": ("url", "directory"),
    "simulated": ("num_days",),
}


def check_data(config: DictConfig, takes: Collection[str]) -> None:
    """Refuse keys of ``data`` that were set and that nothing will read.

    In a sweep, which may be of several tasks, a key other than ``file`` that a task has no argument for
    is told and passed over.

    Args:
        config: composed.
        takes: names of the arguments of the task's function.

    Raises:
        UserError: naming the key, the value and the mend.
    """
    name, source, target = config.task.name, config.data.source, config.task._target_
    for key in _set_keys(config):
        word = f"data.{key}={config.data[key]}"
        if own.is_own(target):
            if key not in takes:
                raise UserError(
                    f"{word}: {target} takes no {key}; leave it out, or give the function an argument "
                    "of that name"
                )
            continue
        reads = READS.get(source)
        if reads is None or (key in reads and ("source" in takes or key in takes)):
            continue  # An unknown source is the task's to refuse.
        if key != "file" and key not in takes and _in_a_sweep():
            _warn_once(f"{word}: task={name} does not read data.{key}")
            continue
        readers = [one for one, keys in READS.items() if key in keys] if key in takes else []
        mend = f"write data={readers[0]} {word}, or leave it out" if readers else "leave it out"
        raise UserError(f"{word}: task={name} with data={source} does not read data.{key}; {mend}")


@cache
def _warn_once(text: str) -> None:
    logger.warning(text)


def _in_hydra() -> bool:
    return GlobalHydra.instance().is_initialized() and HydraConfig.initialized()


def _in_a_sweep() -> bool:
    return _in_hydra() and HydraConfig.get().mode == RunMode.MULTIRUN


def _set_keys(config: DictConfig) -> list[str]:
    """Keys of ``data`` with another value than the source's own, or typed on the command line."""
    typed: set[str] = set()
    if _in_hydra():
        words = HydraConfig.get().overrides.task
        typed = {word.lstrip("+").partition("=")[0] for word in words}
    usual = _usual(config.data.source)
    return [
        str(key)
        for key, value in config.data.items()
        if key != "source"
        and value is not None
        and (f"data.{key}" in typed or value != usual.get(str(key), value))
    ]


@cache
def _usual(source: str) -> dict[str, Any]:
    """Values of the source's file in ``conf/data``; none for a source that has none."""
    if not (CONFIG_DIRECTORY / "data" / f"{source}.yaml").exists():
        return {}
    entries = read_option(CONFIG_DIRECTORY, "data", source).entries
    return {key.partition(".")[2]: yaml.safe_load(entry.value) for key, entry in entries.items()}


def check_path(config: DictConfig) -> None:
    """Refuse paths without a density: every step of the sampler must add noise.

    Raises:
        UserError: naming the key, the value and the mend.
    """
    model = config.model
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


def check_refit(config: DictConfig) -> None:
    """Refuse a refit of nothing, and one that leaves nothing to be judged by.

    Raises:
        UserError: naming the key, the value and the mend.
    """
    if not config.fit.refit:
        return
    stages = [] if config.model.name == "policy" else ["fit"]
    if config.model.get("outcome_scaling") == "residual" or "law" in config.model:
        stages.append("foundation")
    if config.grad.name != "two_stage":
        stages.append("train")
    if all(config[stage].epochs == 0 for stage in stages):
        raise UserError(
            f"fit.refit=true with {', '.join(f'{stage}.epochs=0' for stage in stages)}: no epoch is "
            "chosen that could be repeated on more rows; set epochs above 0, or fit.refit=false"
        )
    if not config.evaluation.test and all(config[stage].keep == "last" for stage in stages):
        raise UserError(
            f"evaluation.test=false with fit.refit=true and {stages[-1]}.keep=last: all rows before the "
            "test are trained on and the test is not looked at, so nothing would be measured; add "
            "fit.refit=false, which keeps the validation rows out"
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
