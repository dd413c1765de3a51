"""Where a sweep stands: the runs it plans, and what became of each, also of those never started."""

import json
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import printable, read_object, read_text
from diffusion_dfl.suite.config.arguments import normalise
from diffusion_dfl.suite.config.identities import identity_of
from diffusion_dfl.suite.invocation import start
from diffusion_dfl.suite.reporting import run_files
from diffusion_dfl.suite.reporting.columns import aligned
from diffusion_dfl.suite.reporting.paper import ROWS
from diffusion_dfl.suite.runs.lease import in_use

#: States of a run, in the order they are told.
STATES = ("finished", "running", "interrupted", "failed", "stale", "missing")

# How many completing commands an overview has.
_MOST = 10

_NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Planned:
    """A run of a plan.

    Attributes:
        words: the overrides that name it, without its seed.
        seed: its seed.
        path: its directory below ``results/runs``.
        config_hash: of its configuration as it is now.
    """

    words: tuple[str, ...]
    seed: int
    path: Path
    config_hash: str

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
        published: whether only the committed record says so.
        age: how long ago a running or interrupted one last said something.
    """

    name: str
    detail: str = ""
    published: bool = False
    age: str = ""


def plan(words: Sequence[str], every_pair: bool = True) -> list[Planned]:
    """The runs that ``python train.py WORDS -m`` would make.

    Args:
        words: overrides as typed, ``task=power,portfolio seed=0-9``.
        every_pair: whether words without any ``model`` and ``grad`` mean every row of a task's table, not
            the default pair.

    Raises:
        UserError, HydraException: words no sweep would take.
    """
    keys = {word.split("=", 1)[0] for word in words}
    if not every_pair or keys & {"model", "grad"}:
        cells = [tuple(words)]
    else:
        cells = [(*words, f"model={model}", f"grad={grad}") for _, _, model, grad in ROWS]
    runs: dict[Path, Planned] = {}
    for cell in cells:
        overrides = [word for word in normalise([*cell, "-m"]) if word != "-m"]
        for chosen in product(*(_values(word) for word in overrides)):
            seeds = [word for word in chosen if word.startswith("seed=")] or ["seed=0"]
            rest = tuple(word for word in chosen if not word.startswith("seed="))
            seed = _seed(seeds[-1])
            identity = identity_of(rest)
            path = identity.path.with_name(f"seed-{seed}")
            runs.setdefault(path, Planned(rest, seed, path, identity.config_hash))
    return list(runs.values())


def _seed(word: str) -> int:
    """Of ``seed=N``."""
    value = word.removeprefix("seed=")
    try:
        number = int(value)
    except ValueError:
        raise UserError(f"{word} must be an integer, as in seed=0") from None
    if number < 0:
        raise UserError(f"{word} must be an integer >= 0")
    return number


def _values(word: str) -> list[str]:
    """``key=a,b`` -> ``key=a``, ``key=b``."""
    (override,) = OverridesParser.create().parse_overrides([word])
    if isinstance(override.value(), Glob):
        raise UserError(f"{word}: name the values of a plan, as in {override.key_or_group}=a,b")
    if not override.is_sweep_override():
        return [word]
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def state(results: Path, run: Planned, published: Mapping[str, str] = _NONE) -> State:
    """What became of a run, by its directory or its committed record.

    Args:
        results: the folder with ``runs/``.
        run: planned.
        published: path -> hash of the configuration, of the committed records that count.
    """
    directory = results / "runs" / run.path
    told = read_object(directory / "status.json")
    name = told.get("status")
    done = _record_hash(directory) if name == "finished" else None
    if done == run.config_hash:
        return State("finished")
    if in_use(directory):
        return _underway("running", directory)
    committed = published.get(run.path.as_posix())
    if committed == run.config_hash:
        return State("finished", published=True)
    if done is not None:
        return State("stale", "finished with another configuration")
    if name == "failed":
        return State("failed", printable(str(told.get("reason", "")).split("\n")[0]))
    if name in ("running", "interrupted"):
        return _underway("interrupted", directory)
    return State("missing" if committed is None else "stale", published=committed is not None)


def _record_hash(directory: Path) -> str | None:
    """Hash of the configuration a whole record was made with."""
    identity = read_object(directory / "summary.json").get("identity")
    found = identity.get("config_hash") if isinstance(identity, dict) else None
    return None if found is None else str(found)


def _underway(name: str, directory: Path) -> State:
    """With ``train epoch 3/6`` and ``2 min since``, as far as the run has said."""
    metrics = directory / "metrics.jsonl"
    try:
        lines = read_text(metrics).splitlines()
        last = json.loads(lines[-1])
        epochs = run_files.config(directory)[last["stage"]]["epochs"]
        minutes = max(time.time() - metrics.stat().st_mtime, 0) / 60
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return State(name, "before its first epoch")
    progress = printable(f"{last['stage']} epoch {last['epoch']}/{epochs}", 80)
    return State(name, progress, age=f"{minutes:.0f} min since")


def yours(results: Path) -> str:
    """What became of the user's runs, a line a cell, of whatever plan; empty where there are none."""
    cells: dict[str, Counter[str]] = {}
    for directory in sorted((results / "runs").glob("*/*/*/seed-*")):
        cell = directory.parent.relative_to(results / "runs")
        told = read_object(directory / "status.json").get("status")
        if told is None or ".old-" in directory.name or cell.parts[2] == "_fits":
            continue
        if told not in ("finished", "failed"):
            told = "running" if in_use(directory) else "interrupted"
        cells.setdefault(printable(cell.as_posix()), Counter())[str(told)] += 1
    if not cells:
        return ""
    width = max(map(len, cells))
    lines = [f"Yours, in {results / 'runs'}:"]
    lines += [
        f"  {cell:<{width}}  "
        + ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
        for cell, counts in cells.items()
    ]
    return "\n".join(lines)


def overview(states: Mapping[Planned, State], every: str | None = None) -> str:
    """Finished of the planned runs, a row a method and a column a task; then every run that needs a
    word, then what completes the plan.

    Args:
        states: of the plan.
        every: command that lists what completes it, for where that is long; None lists it here.
    """
    counts: dict[Path, dict[str, int]] = {}
    for run, found in states.items():
        cell = counts.setdefault(run.cell, dict.fromkeys(STATES, 0))
        cell[found.name] += 1
    columns = list(dict.fromkeys(path.parent for path in counts))
    rows = [
        [name, *(_counted(counts.get(column / name)) for column in columns)]
        for name in dict.fromkeys(path.name for path in counts)
    ]
    lines = [aligned(["finished of planned", *(column.as_posix() for column in columns)], rows)]
    finished = sum(cell["finished"] for cell in counts.values())
    lines += ["", f"{finished} of {len(states)} runs are finished"]
    told = [found.name for found in states.values() if found.published]
    if "finished" in told:
        lines[-1] += f", {told.count('finished')} of them as committed records only"
    if "stale" in told:
        lines.append(
            f"{told.count('stale')} committed records are of older presets; tables show them until "
            "`make publish` has put others in their place"
        )
    lines += [
        f"{found.name}: {run.path.as_posix()}: {found.detail}" + (found.age and f", {found.age}")
        for run, found in states.items()
        if found.detail
    ]
    commands = list(completing(states))
    if commands:
        lines += ["", "What completes it (a running one is left to its process):"]
        shown = len(commands) if every is None else _MOST
        lines += commands[:shown]
        if len(commands) > shown:
            lines.append(f"and {len(commands) - shown} commands more: `{every}`")
    return "\n".join(lines)


def _counted(cell: Mapping[str, int] | None) -> str:
    """``7/10, 2 running, 1 failed``; missing ones are what is left."""
    if cell is None:
        return ""
    told = [f"{cell['finished']}/{sum(cell.values())}"]
    told += [f"{cell[name]} {name}" for name in STATES[1:-1] if cell[name]]
    return ", ".join(told)


def completing(states: Mapping[Planned, State], each: bool = False) -> Iterator[str]:
    """Commands for the runs that are neither finished nor running, one a configuration.

    A stale run of one's own is started over, which keeps the old one aside. With ``each`` they are one a run, as
    an array job takes them.
    """
    seeds: dict[tuple[str, ...], list[int]] = {}
    for run, found in states.items():
        if found.name not in ("finished", "running"):
            force = ("force=true",) if found.name == "stale" and not found.published else ()
            seeds.setdefault((*run.words, *force), []).append(run.seed)
    for words, open_ in seeds.items():
        line = f"{start()} {shlex.join(words)}"
        if each:
            yield from (f"{line} seed={seed}" for seed in sorted(open_))
        else:
            yield f"{line} -m seed={','.join(map(str, sorted(open_)))}"
