"""Where a sweep stands: the runs it plans, and what became of each, also of those never started."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from omegaconf import OmegaConf

from diffusion_dfl.config.arguments import CELLS, normalise
from diffusion_dfl.config.compose import compose_config, identify
from diffusion_dfl.errors import UserError

#: States of a run, in the order they are told.
STATES = ("finished", "running", "interrupted", "failed", "missing")


@dataclass(frozen=True)
class Planned:
    """A run of a plan.

    Attributes:
        words: the overrides that name it, without its seed.
        seed: its seed.
        path: its directory below ``results/runs``.
    """

    words: tuple[str, ...]
    seed: int
    path: Path

    @property
    def cell(self) -> Path:
        """``<scale>/<task>/<model>-<grad>[-<hash>]``."""
        return self.path.parent


@dataclass(frozen=True)
class State:
    """What became of a run.

    Attributes:
        name: one of `STATES`.
        detail: progress of a running or interrupted one, reason of a failed one.
        published: whether only the committed record says that it is finished.
    """

    name: str
    detail: str = ""
    published: bool = False


def plan(words: Sequence[str]) -> list[Planned]:
    """The runs that ``python train.py WORDS -m`` would make.

    Args:
        words: overrides as typed, ``task=power,portfolio seed=0-9``. Without any ``model`` and
            ``grad`` every pair that makes sense is planned.

    Raises:
        UserError, HydraException: words no sweep would take.
    """
    keys = {word.split("=", 1)[0] for word in words}
    if keys & {"model", "grad"}:
        cells = [tuple(words)]
    else:
        cells = [
            (*words, f"model={model}", f"grad={grad}")
            for model, grads in CELLS.items()
            for grad in grads
        ]
    runs: dict[Path, Planned] = {}
    for cell in cells:
        overrides = [word for word in normalise([*cell, "-m"]) if word != "-m"]
        for chosen in product(*(_values(word) for word in overrides)):
            seeds = [word for word in chosen if word.startswith("seed=")] or ["seed=0"]
            rest = tuple(word for word in chosen if not word.startswith("seed="))
            seed = int(seeds[-1].removeprefix("seed="))
            cell_path = _cell_path(rest)
            path = cell_path / f"seed-{seed}"
            runs.setdefault(path, Planned(rest, seed, path))
    return list(runs.values())


_known: dict[tuple[str, ...], Path] = {}


def _cell_path(words: tuple[str, ...]) -> Path:
    """Directory of a configuration without its seed; composed once, since composing is slow."""
    if words not in _known:
        _known[words] = identify(compose_config([*words, "seed=0"])).path.parent
    return _known[words]


def _values(word: str) -> list[str]:
    """``key=a,b`` -> ``key=a``, ``key=b``."""
    (override,) = OverridesParser.create().parse_overrides([word])
    if isinstance(override.value(), Glob):
        raise UserError(f"{word}: name the values of a plan, as in {override.key_or_group}=a,b")
    if not override.is_sweep_override():
        return [word]
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def state(results: Path, path: Path) -> State:
    """What became of the run of a directory below ``results/runs``, or of its committed record."""
    directory = results / "runs" / path
    told = _told(directory)
    name = told.get("status")
    if name == "finished" and (directory / "summary.json").is_file():
        return State("finished")
    if _held(directory):
        return State("running", _progress(directory))
    if (results / "published" / path / "summary.json").is_file():
        return State("finished", published=True)
    if name == "failed":
        return State("failed", str(told.get("reason", "")).split("\n")[0])
    if name in ("running", "interrupted"):
        return State("interrupted", _progress(directory))
    return State("missing")


def _told(directory: Path) -> Mapping[str, Any]:
    try:
        told = json.loads((directory / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _held(directory: Path) -> bool:
    """Whether a process is in the directory now; one that was killed holds no lock."""
    lock = directory / ".lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _progress(directory: Path) -> str:
    """``train epoch 3/6, 2 min since``, as far as the run has said."""
    metrics = directory / "metrics.jsonl"
    try:
        lines = metrics.read_text(encoding="utf-8").splitlines()
        last = json.loads(lines[-1])
        epochs = OmegaConf.load(directory / "config.yaml")[last["stage"]]["epochs"]
        minutes = max(time.time() - metrics.stat().st_mtime, 0) / 60
    except (OSError, ValueError, LookupError, TypeError):
        return "before its first epoch"
    return f"{last['stage']} epoch {last['epoch']}/{epochs}, {minutes:.0f} min since"


def overview(results: Path, runs: Sequence[Planned]) -> str:
    """Counts a cell, then every run that is not finished, then what completes the plan."""
    states = {run: state(results, run.path) for run in runs}
    counts: dict[Path, dict[str, int]] = {}
    for run, found in states.items():
        cell = counts.setdefault(run.cell, dict.fromkeys(STATES, 0))
        cell[found.name] += 1
    width = max((len(cell.as_posix()) for cell in counts), default=4)
    lines = [f"{'cell':<{width}}  planned  " + "  ".join(STATES)]
    for path, cell in counts.items():
        numbers = "  ".join(f"{cell[name]:>{len(name)}}" for name in STATES)
        lines.append(f"{path.as_posix():<{width}}  {sum(cell.values()):>7}  {numbers}")
    totals = {name: sum(cell[name] for cell in counts.values()) for name in STATES}
    lines += ["", f"{totals['finished']} of {len(runs)} runs are finished"]
    published = sum(found.published for found in states.values())
    if published:
        lines[-1] += f", {published} of them as committed records only"
    for run, found in states.items():
        if found.name in ("running", "interrupted", "failed"):
            lines.append(f"{found.name}: {run.path.as_posix()}: {found.detail}")
    commands = list(completing(results, runs))
    if commands:
        lines += ["", "What completes it (a running one is left to its process):", *commands]
    return "\n".join(lines)


def completing(results: Path, runs: Sequence[Planned], each: bool = False) -> Iterator[str]:
    """Commands for the runs that are neither finished nor running, one a configuration.

    With ``each`` they are one a run, as an array job takes them.
    """
    seeds: dict[tuple[str, ...], list[int]] = {}
    for run in runs:
        if state(results, run.path).name not in ("finished", "running"):
            seeds.setdefault(run.words, []).append(run.seed)
    for words, open_ in seeds.items():
        if each:
            yield from (f"python train.py {' '.join(words)} seed={seed}" for seed in sorted(open_))
            continue
        yield f"python train.py {' '.join(words)} -m seed={','.join(map(str, sorted(open_)))}"
