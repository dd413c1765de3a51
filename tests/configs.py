"""Configurations that need not be composed anew for every value of a key."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.config.own import with_settings
from diffusion_dfl.suite.places import CONFIG_DIRECTORY


def composed(words: Sequence[str]) -> DictConfig:
    """What ``compose_config(words)`` gives: the files of a choice of groups are read once.

    Words that give values are read and set by the parts of Hydra that read and set them there.
    """
    chosen = [word for word in words if _chooses(word.split("=")[0])]
    values = [word for word in words if word not in chosen]
    config = _files(*chosen).copy()
    overrides = OverridesParser.create().parse_overrides(values)
    ConfigLoaderImpl._apply_overrides_to_config(overrides, config)
    return config


def by_keys(make: Callable[..., Any], *sizes: int, **keys: Any) -> Any:
    """What is made of keys as a configuration has them: ``eta=0.5`` for ``sampling=Sampling(eta=0.5)``."""
    return make(*sizes, **with_settings(make, keys))


def _chooses(key: str) -> bool:
    """Whether it is a group of files, or of Hydra's own, which composing alone can set."""
    return key.startswith("hydra") or (CONFIG_DIRECTORY / key).is_dir()


@cache
def _files(*words: str) -> DictConfig:
    return compose_config(words)
