"""Every run the page knows of: found, left out, or planned and not there."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pandas as pd
import yaml

from diffusion_dfl.suite.invocation import start
from diffusion_dfl.suite.reporting.collect import Collection, LeftOut, Record
from diffusion_dfl.suite.reporting.frame import PARTS
from diffusion_dfl.suite.reporting.page.privacy import cleaned, redact
from diffusion_dfl.suite.reporting.paper import ROWS, Cell
from diffusion_dfl.suite.reporting.roles import literal
from diffusion_dfl.suite.reporting.selection import Selection, kinds, of_table
from diffusion_dfl.suite.reporting.status import Planned, State

#: What a record is to its table -> in words; `""` where there is no table of its task.
STANDINGS: Mapping[str, str] = {
    "run": "in Table 1",
    "twin": "twin with decision weight 0",
    "stale": "older preset, not counted",
    "other": "beside the table",
    "": "no table",
}

_TITLES: Mapping[Cell, str] = {(model, grad): title for _, title, model, grad in ROWS}
# Those of C are ten times faster, and not everywhere.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_SEED = re.compile(r"^seed: .*\n", re.MULTILINE)
_PLACE = re.compile(r"([^/]+)/([^/]+)/([a-z]+)-([a-z_]+?)(?:-[0-9a-f]+)?/seed-(\d+)")


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        path: its directory below results/, ``published/laptop/power/gaussian-score/seed-0``.
        state: one of :data:`diffusion_dfl.suite.reporting.status.STATES`, or ``left out``.
        standing: key of `STANDINGS`; empty for what is no record.
        detail: reason or progress.
        task, model, grad, scale, source: as far as they are known.
        seed: None where it is not known.
        differs: what it changes in its preset.
        values: dotted name -> number, truth value or short text of its record.
        config: its config.yaml without the seed, as text.
        environment: its env.json as text.
    """

    path: str
    state: str
    standing: str
    detail: str
    task: str
    model: str
    grad: str
    scale: str
    source: str
    seed: int | None
    differs: Mapping[str, Any]
    values: Mapping[str, Any]
    config: str
    environment: str

    @property
    def cell(self) -> str:
        """Directory of all its seeds."""
        return self.path.rpartition("/")[0]

    @property
    def title(self) -> str:
        """Its row of the table, and what it changes."""
        name = _TITLES.get((self.model, self.grad), f"{self.model}-{self.grad}")
        changes = {**self.differs}
        changes.pop("data.source", None)
        told = ", ".join(f"{key}={_short(value)}" for key, value in sorted(changes.items()))
        return f"{name} ({told})" if told else name

    @property
    def command(self) -> str:
        """What makes it again, without the seed; empty where that is not known."""
        if not self.source:
            return ""
        words = [f"task={self.task}", f"data={self.source}"]
        words += [f"model={self.model}", f"grad={self.grad}", f"scale={self.scale}"]
        words += [
            f"{key}={literal(value)}"
            for key, value in sorted(self.differs.items())
            if key != "data.source"
        ]
        return f"{start()} {shlex.join(words)}"


def list_runs(
    collection: Collection,
    runs: pd.DataFrame,
    selections: Iterable[Selection],
    states: Mapping[Planned, State],
) -> list[Run]:
    """Runs in the order of their paths.

    Args:
        collection, runs: what was found there, and its frame.
        selections: of the tables there are.
        states: what became of planned runs.
    """
    standing: dict[tuple[bool, str], str] = {}
    for wanted in selections:
        found = of_table(runs, wanted)
        for row, kind in zip(found.to_dict("records"), kinds(found, wanted), strict=True):
            standing[(bool(row["published"]), str(row["path"]))] = kind
    planned = {run.path.as_posix(): state for run, state in states.items()}
    listed = [
        _of_record(collection, record, standing.get((record.published, record.path.as_posix()), ""))
        for record in collection.records
    ]
    listed += [_of_left_out(collection, one, planned) for one in collection.left_out]
    there = {run.path.partition("/")[2] for run in listed}
    listed += [
        _of_path(f"runs/{path}", state.name, redact(state.detail))
        for path, state in planned.items()
        if path not in there
    ]
    return sorted(listed, key=lambda run: _order(run.path))


def _of_record(collection: Collection, record: Record, standing: str) -> Run:
    identity = cleaned(record.identity)
    root = "published" if record.published else "runs"
    path = record.path.as_posix()
    differs = identity["differs"]
    config, environment = _texts(collection, path, record.published)
    return Run(
        path=f"{root}/{path}",
        state="stale" if standing == "stale" else "finished",
        standing=standing,
        detail="",
        task=str(identity["task"]),
        model=str(identity["model"]),
        grad=str(identity["grad"]),
        scale=str(identity["scale"]),
        source=str(identity["source"]),
        seed=identity["seed"] if isinstance(identity["seed"], int) else None,
        differs=differs if isinstance(differs, dict) else {},
        values={
            name: value
            for part in PARTS
            for name, value in _leaves(part, cleaned(record.summary.get(part)))
        }
        | {"config_hash": identity["config_hash"], "source_hash": identity["source_hash"]},
        config=config,
        environment=environment,
    )


def _of_left_out(collection: Collection, one: LeftOut, planned: Mapping[str, State]) -> Run:
    root = "published" if one.published else "runs"
    path = one.path.as_posix()
    state = planned.get(path)
    underway = state is not None and state.name in ("failed", "running", "interrupted")
    known = _of_path(
        f"{root}/{path}",
        state.name if state is not None and underway and not one.published else "left out",
        redact(one.reason),
    )
    config, environment = _texts(collection, path, one.published)
    return replace(known, config=config, environment=environment)


def _of_path(path: str, state: str, detail: str) -> Run:
    """A run of which only its place is known."""
    found = _PLACE.fullmatch(path.partition("/")[2])
    scale, task, model, grad, seed = found.groups() if found else ("", "", "", "", None)
    return Run(
        path, state, "", detail, task, model, grad, scale, "", None if seed is None else int(seed),
        {}, {}, "", "",
    )  # fmt: skip


def _texts(collection: Collection, path: str, published: bool) -> tuple[str, str]:
    """Configuration and environment of a run as text."""
    config = _SEED.sub("", collection.config(path, published))
    return _config(config), _environment(collection.environment(path, published))


@cache
def _config(text: str) -> str:
    """A configuration without what must not leave the machine; seeds of a cell share one."""
    if not text.strip():
        return ""
    try:
        values = yaml.load(text, _LOADER)
        if not isinstance(values, Mapping):
            raise ValueError(text)
        return yaml.dump(cleaned(values), Dumper=_DUMPER, sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, ValueError, TypeError):
        return "config.yaml is damaged: it is no YAML"


@cache
def _environment(text: str) -> str:
    values = cleaned(json.loads(text or "{}"))
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) if values else ""


def _leaves(name: str, value: Any) -> Iterable[tuple[str, Any]]:
    """Single numbers and words; lists, such as the cost of every hour, stay in the record."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{name}.{key}", item)
    elif value is not None and not isinstance(value, list):
        yield name, value


def _order(path: str) -> tuple[str, int]:
    """Seeds by number, not by letter."""
    head, _, seed = path.rpartition("seed-")
    return (head, int(seed)) if seed.isdigit() else (path, -1)


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
