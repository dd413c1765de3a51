"""Identities of configurations by their overrides, remembered between processes.

Composing a configuration takes a tenth of a second, and a plan asks for a hundred of them. What is
remembered lies in the cache folder (:func:`diffusion_dfl.suite.places.cache`), under a hash of
everything composition reads, so a changed preset, schema or Hydra is never answered from what was
before.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from diffusion_dfl.files import read_object, write_json
from diffusion_dfl.suite import places
from diffusion_dfl.suite.config import compose
from diffusion_dfl.suite.config.compose import Identity, compose_config, deciding_values, identify
from diffusion_dfl.suite.config.own import refuse_hidden, refuse_missing

_SOURCES = Path(__file__).resolve().parent
_CELL = {"task", "model", "grad", "scale"}


@cache
def identity_of(words: tuple[str, ...]) -> Identity:
    """Identity of the configuration that ``words`` and ``seed=0`` compose.

    Args:
        words: overrides of one run, ``key=value`` each.

    Raises:
        UserError, HydraException, OmegaConfBaseException: words no run would take.
    """
    # Within a Hydra application other folders may be searched, and a file of data can change.
    outside = GlobalHydra.instance().is_initialized() or compose.own_folder is not None
    if outside or any(word.lstrip("+").startswith("data.file=") for word in words):
        return _composed(words)
    place = places.cache() / f"identities-{_digest()}.json"
    key = json.dumps(words)
    remembered = read_object(place).get(key)
    if isinstance(remembered, dict) and remembered.keys() == Identity.__annotations__.keys():
        return Identity(**remembered)
    identity = _composed(words)
    with suppress(OSError):  # A convenience: a folder that cannot be written stays as it is.
        write_json(place, {**read_object(place), key: asdict(identity)})
    return identity


@contextmanager
def searching(folder: Path | None) -> Iterator[None]:
    """Search a folder of the user's own too, as ``--config-dir`` does for train.py; None for none.

    Raises:
        UserError: a folder that is not there, or whose files hide behind ours.
    """
    if folder is None:
        yield
        return
    refuse_missing(folder)
    refuse_hidden(folder, compose.CONFIG_DIRECTORY)
    before = compose.own_folder
    compose.own_folder = folder
    _forget()
    try:
        yield
    finally:
        compose.own_folder = before
        _forget()


def _forget() -> None:
    for remembered in (identity_of, _config, _preset, compose._preset):
        remembered.cache_clear()


def _composed(words: tuple[str, ...]) -> Identity:
    config = _config((*words, "seed=0"))
    if {word.partition("=")[0] for word in words} <= _CELL:  # A preset, its own reference.
        return identify(config, deciding_values(config))
    cell = (config.task.name, config.model.name, config.grad.name, config.scale)
    return identify(config, _preset(*cell))


@cache
def _config(words: tuple[str, ...]) -> DictConfig:
    return compose_config(words)


@cache
def _preset(task: str, model: str, grad: str, scale: str) -> dict[str, Any]:
    """Deciding values of a cell's untouched preset with seed 0: the reference of all its variants."""
    # In the order in which plans name a cell, so that it is composed once.
    words = (f"task={task}", f"scale={scale}", f"model={model}", f"grad={grad}", "seed=0")
    return deciding_values(_config(words))


@cache
def _digest() -> str:
    """Of what decides what words compose to."""
    state = hashlib.sha256()
    for name in ("hydra-core", "omegaconf"):
        state.update(f"{name} {version(name)}\0".encode())
    root = compose.CONFIG_DIRECTORY
    for path in sorted([*root.rglob("*.yaml"), *_SOURCES.glob("*.py")]):
        state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()[:16]
