"""What the records of scripts share: where they were made, and numbers as json has them."""

import math
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from diffusion_dfl.suite.runs.environment import describe_environment


def environment(packages: Iterable[str]) -> dict[str, Any]:
    """Versions, those of ``packages`` too, and threads; no names of machines, users or paths."""
    described = describe_environment(torch.device("cpu"), torch.get_num_threads())
    for name in packages:
        try:
            described["versions"][name] = version(name)
        except PackageNotFoundError:
            described["versions"][name] = "missing"
    return described


def plain(value: Any, digits: int) -> Any:
    """Numbers json has no word for become null; the rest keeps ``digits`` significant digits."""
    if isinstance(value, dict):
        return {key: plain(entry, digits) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry, digits) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
