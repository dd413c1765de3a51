"""Where a run ran: device, versions, source. No names of users, machines or paths."""

import ast
import hashlib
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from diffusion_dfl import __version__
from diffusion_dfl.files import read_object, write_json
from diffusion_dfl.suite import places
from diffusion_dfl.suite.places import INSTALLED, PACKAGE, REPOSITORY
from diffusion_dfl.training.checkpoint import Version

_RECORDED = ("torch", "numpy", "pandas", "hydra-core", "omegaconf", "scoringrules")


@cache
def source_hash() -> str:
    """Hash of the package's Python files, 16 hexadecimal digits; read once a process."""
    state = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        state.update(str(path.relative_to(PACKAGE).as_posix()).encode() + b"\0")
        state.update(path.read_bytes() + b"\0")
    return state.hexdigest()[:16]


@cache
def source_version() -> Version:
    """Of the package that runs; what decides numbers is the library, without its docstrings.

    Parsing it takes seconds, so what was found is remembered under the hash of the files.
    """
    place = places.cache() / "source.json"
    key = f"{source_hash()} of Python {platform.python_version()}"
    numbers = read_object(place).get(key)
    if not isinstance(numbers, str):
        numbers = _library_hash()
        with suppress(OSError):  # A convenience: a folder that cannot be written stays as it is.
            write_json(place, {key: numbers})
    return Version(source_hash(), numbers)


def _library_hash() -> str:
    state = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        if name.parts[0] == "suite":
            continue
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = None
        state.update(name.as_posix().encode() + b"\0" + ast.dump(tree).encode() + b"\0")
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
    if INSTALLED:
        return f"v{__version__}"  # A repository around it would be somebody else's.
    commit = _git("describe", "--always", "--abbrev=12")
    if not commit:
        return "unknown"
    changed = _git("status", "--porcelain", "--", "diffusion_dfl", "conf", "train.py")
    return f"{commit}-dirty" if changed else commit


def _git(*words: str) -> str:
    try:
        result = subprocess.run(
            ["git", *words],
            cwd=REPOSITORY,
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
