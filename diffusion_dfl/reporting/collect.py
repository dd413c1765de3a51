"""Run records on disk -> a list of whole ones and the reasons the others were left out."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1

_TUNING = "was not evaluated on test days"


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        path: its directory, relative to the root it was found under.
        published: whether it was read from the committed records.
        summary: summary.json.
    """

    path: Path
    published: bool
    summary: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        return self.summary["identity"]

    @property
    def cell(self) -> tuple[str, str]:
        """(model, grad)."""
        return self.identity["model"], self.identity["grad"]


@dataclass(frozen=True)
class Collection:
    """What was found: usable records, ``path: reason`` for every run that is not one, and how many
    finished tuning runs left the test days unseen on purpose."""

    records: list[Record]
    left_out: list[str]
    tuning: int = 0


def collect(results: Path, own: bool = True) -> Collection:
    """Read ``results/published`` and ``results/runs``.

    A run of the user's own takes the place of the committed record of the same path. Failed,
    running, unreadable and foreign records are left out and named. With ``own`` false only the
    committed records are read.
    """
    found: dict[Path, Record] = {}
    left_out: list[str] = []
    tuning = 0
    for folder, published in (("published", True), ("runs", False)):
        if not published and not own:
            continue
        root = results / folder
        for directory in sorted(path.parent for path in root.rglob("config.yaml")):
            relative = directory.relative_to(root)
            if ".old-" in directory.name:
                continue
            record = _read(directory, relative, published)
            if isinstance(record, Record):
                found[relative] = record
            elif record == _TUNING:
                tuning += 1
            else:
                left_out.append(f"{folder}/{relative}: {record}")
    return Collection(list(found.values()), left_out, tuning)


def _read(directory: Path, relative: Path, published: bool) -> Record | str:
    if not published:
        try:
            status = json.loads((directory / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "never started"
        if status.get("status") != "finished":
            return f"{status.get('status')} {status.get('reason', '')}".strip()
    try:
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    except OSError:
        return "has no summary.json"
    except ValueError:
        return "summary.json is not JSON"
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA:
        return "summary.json has another schema"
    if not summary.get("test"):
        return _TUNING
    value = summary["test"].get("task")
    if not isinstance(value, int | float) or not math.isfinite(value):
        return f"test task is {value}"
    return Record(relative, published, summary)
