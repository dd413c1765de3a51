"""Where a run ran: device, versions, source. No names of users, machines or paths."""

import hashlib
import platform
import resource
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from diffusion_dfl.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
_RECORDED = ("torch", "numpy", "pandas", "hydra-core", "omegaconf", "scoringrules")


def resolve_device(name: str, worker: int = 0) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:N`` or ``auto`` as a device.

    ``cuda`` and ``auto`` take the visible devices in turn, by the number of the worker.

    Raises:
        UserError: a CUDA device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name} is no device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(
                f"device={name}: {count} CUDA devices are visible to this torch build; "
                "use device=cpu or device=auto, or install a CUDA build of torch"
            )
        if device.index is None and count > 1:
            return torch.device("cuda", worker % count)
    return device


@cache
def source_hash() -> str:
    """Hash of the package's Python files, 16 hexadecimal digits; read once a process."""
    state = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        state.update(str(path.relative_to(_PACKAGE).as_posix()).encode() + b"\0")
        state.update(path.read_bytes() + b"\0")
    return state.hexdigest()[:16]


def describe_environment(device: torch.device, threads: int) -> dict[str, Any]:
    """What env.json holds."""
    versions = {}
    for name in _RECORDED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "versions": versions,
        "source_hash": source_hash(),
        "git": _git_describe(),
        "device": device.type,
        "hardware": hardware,
        "threads": threads,
    }


def _git_describe() -> str:
    """The commit, with ``-dirty`` where what decides numbers differs from it (results do not)."""
    commit = _git("describe", "--always", "--abbrev=12")
    if not commit:
        return "unknown"
    changed = _git("status", "--porcelain", "--", ".", "../conf", "../train.py")
    return f"{commit}-dirty" if changed else commit


def _git(*words: str) -> str:
    try:
        result = subprocess.run(
            ["git", *words],
            cwd=_PACKAGE,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory of the process (CPU) or of the allocator on a CUDA device, so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
