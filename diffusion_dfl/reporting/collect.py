"""Run records on disk -> a list of whole ones and the reasons the others were left out."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_dfl.files import sha256_of

SCHEMA = 1

_IDENTITY = (
    "task",
    "model",
    "grad",
    "scale",
    "source",
    "seed",
    "config_hash",
    "source_hash",
    "differs",
)
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


@dataclass(frozen=True)
class LeftOut:
    """A run that is no usable record.

    Attributes:
        path: its directory, relative to the root it was found under.
        published: whether it stands among the committed records.
        reason: why it does not count.
    """

    path: Path
    published: bool
    reason: str

    def __str__(self) -> str:
        return f"{'published' if self.published else 'runs'}/{self.path}: {self.reason}"

    def concerns(self, task: str, scale: str) -> bool:
        """Whether its place says it is a run of this task and scale."""
        return self.path.parts[:2] == (scale, task)


@dataclass(frozen=True)
class Collection:
    """What was found.

    Attributes:
        records: usable records.
        left_out: every run that is not one, with the reason.
        tuning: how many finished tuning runs left the test days unseen on purpose.
    """

    records: list[Record]
    left_out: list[LeftOut]
    tuning: int = 0


def collect(results: Path, own: bool = True) -> Collection:
    """Read ``results/published`` and ``results/runs``.

    A run of the user's own takes the place of the committed record of the same path. Failed,
    running, unreadable and foreign records are left out and named, as are two records that claim
    to be the same run. With ``own`` false only the committed records are read.
    """
    found: dict[Path, Record] = {}
    left_out: list[LeftOut] = []
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
                left_out.append(LeftOut(relative, published, record))
    records, twice = _without_duplicates(list(found.values()))
    return Collection(records, left_out + twice, tuning)


def _read(directory: Path, relative: Path, published: bool) -> Record | str:
    try:
        status = json.loads((directory / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        status = None
    if not isinstance(status, dict):
        if not published:
            return "never started"
        status = {"status": "finished"}
    if status.get("status") != "finished":
        return f"{status.get('status')} {status.get('reason', '')}".strip()
    path = directory / "summary.json"
    try:
        digest = sha256_of(path)
        summary = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError:
        return "has no summary.json"
    except ValueError as error:
        return str(error) if isinstance(error, _NotFinite) else "summary.json is not JSON"
    kept = status.get("sha256")
    if isinstance(kept, dict) and kept.get("summary.json", digest) != digest:
        return "summary.json is not as the run left it (its digest differs)"
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA:
        schema = summary.get("schema") if isinstance(summary, dict) else None
        return f"summary.json has schema {schema}, not {SCHEMA}; run it again with force=true"
    identity = summary.get("identity")
    missing = [key for key in _IDENTITY if not isinstance(identity, dict) or key not in identity]
    if missing:
        return f"summary.json has no identity.{missing[0]}"
    assert isinstance(identity, dict)
    misplaced = _misplaced(relative, identity)
    if misplaced:
        return misplaced
    if not summary.get("test"):
        return _TUNING
    value = summary["test"].get("task")
    if value is None:
        return "test task is not finite: no decision, or one of infinite expected cost"
    if not isinstance(value, int | float) or not math.isfinite(value):
        return f"test task is {value}"
    return Record(relative, published, summary)


class _NotFinite(ValueError):
    """JSON with a constant that JSON does not have."""


def _refuse_constant(name: str) -> float:
    raise _NotFinite(f"summary.json holds {name}")


def _misplaced(relative: Path, identity: Mapping[str, Any]) -> str:
    """Why a record is not of the run its directory is of; empty where it is."""
    cell = f"{identity['model']}-{identity['grad']}"
    place = Path(identity["scale"], identity["task"], cell, f"seed-{identity['seed']}")
    parts = relative.parts
    same = len(parts) == 4 and f"{parts[2]}-".startswith(f"{cell}-")
    if same and (parts[0], parts[1], parts[3]) == (*place.parts[:2], place.parts[3]):
        return ""
    return f"its summary.json is of {place.as_posix()}: copied, or of another scale or protocol"


def _without_duplicates(records: list[Record]) -> tuple[list[Record], list[LeftOut]]:
    """Records that are the only one of their run, and the others: none of them can be trusted."""
    runs: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        what = {key: record.identity[key] for key in _IDENTITY if key != "source_hash"}
        runs[json.dumps(what, sort_keys=True)].append(record)
    single = [same[0] for same in runs.values() if len(same) == 1]
    twice = [
        LeftOut(
            record.path,
            record.published,
            "claims to be the same run as "
            + ", ".join(str(other.path) for other in same if other is not record),
        )
        for same in runs.values()
        if len(same) > 1
        for record in same
    ]
    return single, twice
