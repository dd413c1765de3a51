"""Records of runs that never were, for the tests of reports."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from diffusion_dfl.suite.reporting.archive import Archive, Content, Entry, compact
from diffusion_dfl.suite.reporting.archive import write as write_archive
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.roles import RUN, role_name
from diffusion_dfl.suite.reporting.selection import Selection

TWIN = {"grad.decision_weight": 0.0}


def summary(
    model: str,
    grad: str,
    seed: int,
    value: float | None,
    test: Mapping[str, Any] | None = None,
    **identity: Any,
) -> dict[str, Any]:
    """summary.json of a run, of ``task=power`` unless ``identity`` says another; ``value`` is its test task."""
    return {
        "schema": 1,
        "identity": {
            "task": "power",
            "model": model,
            "grad": grad,
            "scale": "laptop",
            "source": "real",
            "seed": seed,
            "config_hash": "h",
            "source_hash": "s",
            "differs": {},
            **identity,
        },
        "test": {
            "task": value,
            "rmse_scenario": 0.1,
            "crps": None,
            "coverage_90": 0.9,
            "solver_failures": 2,
            "higher_is_better": False,
            **(test or {}),
        },
        "validation": {"task": 1.0, "diverged": False},
        "timing": {"total": 60.0},
        "resources": {"device": "cpu"},
    }


def write(root: Path, name: str, record: Any, status: str = "finished") -> None:
    """A run directory of the user's own."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    (folder / "status.json").write_text(json.dumps({"status": status, "reason": "because"}))
    text = record if isinstance(record, str) else json.dumps(record)
    (folder / "summary.json").write_text(text)


def write_all(
    root: Path, records: list[dict[str, Any]], rows: Mapping[int, pd.Series] | None = None
) -> None:
    """Published runs in cells of their own, one a record; ``rows`` by the record's number."""
    publish(
        root,
        {place(record["identity"], number): record for number, record in enumerate(records)},
        {place(records[number]["identity"], number): one for number, one in (rows or {}).items()},
    )


def publish(
    root: Path, records: Mapping[str, Any], rows: Mapping[str, pd.Series] | None = None
) -> None:
    """Add published runs, path -> record; a text is put there as it is."""
    contents = {
        name: Content(
            record if isinstance(record, str) else compact(record),
            "{}",
            "{}",
            "{}",
            rows=(rows or {}).get(name, pd.Series(dtype=float)),
        )
        for name, record in records.items()
    }
    put(root, {entry_of(name, record): contents[name] for name, record in records.items()})


def put(root: Path, runs: Mapping[Entry, Content]) -> None:
    """Add runs to those a results folder publishes."""
    archive = Archive(root / "published")
    paths = {entry.path for entry in runs}
    there = {e: archive.content(path) for path, e in archive.entries.items() if path not in paths}
    write_archive(root / "published", {**there, **runs})


def unpublish(root: Path, path: str) -> None:
    """Take a run out of those a results folder publishes."""
    archive = Archive(root / "published")
    kept = {entry: archive.content(name) for name, entry in archive.entries.items() if name != path}
    write_archive(root / "published", kept)


def entry_of(name: str, record: Any) -> Entry:
    """The manifest's line of a record whose preset has the hash ``h``."""
    identity = record.get("identity", {}) if isinstance(record, dict) else {}
    told = {"source": "real", "config_hash": "h", "source_hash": "s", "differs": {}, **identity}
    role = role_name(told["differs"])
    preset = told["config_hash"] if role == RUN else "h"
    return Entry(name, told["source"], role, preset, told["config_hash"], told["source_hash"])


def place(identity: Mapping[str, Any], number: int = 0) -> str:
    """Where a run with this identity lives, in a cell of its own."""
    cell = f"{identity['model']}-{identity['grad']}" + (f"-{number:08x}" if number else "")
    return f"{identity['scale']}/{identity['task']}/{cell}/seed-{identity['seed']}"


def frame_of(root: Path, records: list[dict[str, Any]]) -> pd.DataFrame:
    """The frame of records that are written to disk and read again."""
    write_all(root, records)
    return frame(collect(root))


def wanted(task: str = "power", source: str = "real", compare: bool = True) -> Selection:
    """The table of a task."""
    return Selection(task, "laptop", source, compare=compare)
