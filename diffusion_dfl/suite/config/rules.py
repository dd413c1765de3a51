"""Keys of ``data`` that were set and that nothing will read."""

import logging
from collections.abc import Collection
from functools import cache
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from diffusion_dfl.data.download import without_secrets
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
        value = config.data[key]
        word = f"data.{key}={without_secrets(value) if key == 'url' else value}"
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
