"""Run records on disk -> a list of whole ones and the reasons the others were left out."""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from diffusion_dfl.files import MOST_BYTES, is_plain, parse_json, printable, read_object
from diffusion_dfl.suite.reporting import run_files
from diffusion_dfl.suite.reporting.archive import Archive, compact, flat
from diffusion_dfl.suite.reporting.roles import Role, todays_role
from diffusion_dfl.suite.runs.form import IDENTITY, check_record
from diffusion_dfl.suite.runs.trust import parse_yaml

# Files that no table reads, and that may be elsewhere.
_WEIGHTS = ("weights.pt", "interface.json")
_TEXTS = ("summary.json", "config.yaml")
_SEED = re.compile(r"^seed: .*\n?", re.MULTILINE)
# Metrics by the names that older records have for them.
_RENAMED = {"task_at_500": "task_large", "task_exact_at_500": "task_exact_large"}
_TUNING = "was not evaluated on test days"


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        path: its directory, relative to the root it was found under.
        published: whether it was read from the committed records.
        identity: of its summary.
        text: summary.json; many parsed ones take ten times its memory.
        config: key -> value of its configuration, but the seed.
        role, preset: what it is to the tables (:class:`diffusion_dfl.suite.reporting.roles.Role`).
    """

    path: Path
    published: bool
    identity: dict[str, Any]
    text: str
    config: Mapping[str, Any] = field(default_factory=dict)
    role: str = ""
    preset: str = ""

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json with today's names, parsed at every call."""
        told: dict[str, Any] = json.loads(self.text)
        told["test"] = {_RENAMED.get(name, name): value for name, value in told["test"].items()}
        return told


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
        root = "published" if self.published else "runs"
        return f"{root}/{printable(str(self.path))}: {printable(self.reason)}"

    def concerns(self, task: str, scale: str) -> bool:
        """Whether its place says it is a run of this task and scale."""
        return self.path.parts[:2] == (scale, task)


@dataclass(frozen=True)
class Collection:
    """What was found.

    Attributes:
        records: usable records.
        left_out: every run that is not one, with the reason.
        tuning: finished tuning runs, which left the test days unseen on purpose.
        results: the folder that was read.
    """

    records: list[Record]
    left_out: list[LeftOut]
    tuning: list[LeftOut]
    results: Path

    @cached_property
    def archive(self) -> Archive:
        return Archive(self.results / "published")

    def rows(self, path: str, published: bool) -> pd.Series:
        """Headline number of every test row of a run by its label; empty where there are none."""
        if published:
            return self.archive.rows(path)
        return run_files.rows(self.results / "runs" / path)

    def epochs(self, path: str, published: bool) -> tuple[list[dict[str, Any]], int]:
        """Epochs of a run, and how many lines of its metrics.jsonl are none."""
        if published:
            return self.archive.epochs(path), 0
        return run_files.epochs(self.results / "runs" / path)

    def config(self, path: str, published: bool) -> str:
        """Configuration of a run as text; empty where it is not there."""
        if published:
            return self.archive.text(path, "config")
        try:
            place = self.results / "runs" / path / "config.yaml"
            return place.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def environment(self, path: str, published: bool) -> str:
        """env.json of a run; empty where it is not there."""
        if published:
            return self.archive.text(path, "environment")
        return compact(read_object(self.results / "runs" / path / "env.json"))


def collect(results: Path, own: bool = True) -> Collection:
    """Read ``results/published`` and ``results/runs``.

    A run of the user's own takes the place of the committed record of the same path and
    configuration. Failed, running, unreadable and foreign records are left out and named, as are two
    records that claim to be the same run. With ``own`` false only the committed records are read.

    Raises:
        UserError: the committed records are not what was published.
    """
    empty = Collection([], [], [], results)
    found: dict[tuple[Path, str], Record] = {}
    left_out: list[LeftOut] = []
    tuning: list[LeftOut] = []
    read = list(_published(empty.archive))
    if own:
        read += _with_roles(_own(results / "runs"), read)
    for record in read:
        if isinstance(record, Record):
            found[record.path, record.identity["config_hash"]] = record
        elif record.reason == _TUNING:
            tuning.append(record)
        else:
            left_out.append(record)
    records, twice = _without_duplicates(list(found.values()))
    return replace(empty, records=records, left_out=left_out + twice, tuning=tuning)


def _published(archive: Archive) -> Iterator[Record | LeftOut]:
    configs: dict[str, Mapping[str, Any]] = {}
    for path, entry in archive.entries.items():
        place = Path(path)
        try:
            told = archive.text(path, "summary")
            summary = _summary(place, told)
        except _NoRecord as error:
            yield LeftOut(place, True, str(error))
            continue
        text = archive.text(path, "config")
        if text not in configs:
            configs[text] = dict(flat(_object(text)))
        identity = summary["identity"]
        yield Record(place, True, identity, told, configs[text], entry.role, entry.preset)


def _own(root: Path) -> Iterator[Record | LeftOut]:
    configs: dict[str, Mapping[str, Any]] = {}
    for directory in sorted(path.parent for path in root.rglob("config.yaml")):
        if ".old-" in directory.name:
            continue
        place = directory.relative_to(root)
        try:
            str(place).encode()  # A name that nothing can write is no run's.
            texts, whole = _finished(directory)
            summary = _summary(place, texts["summary.json"])
            if not whole:  # Nothing else says that its rows are its own.
                reason = wrong_mean(run_files.rows(directory), summary["test"]["task"])
                if reason:
                    raise _NoRecord(reason)
        except (_NoRecord, ValueError) as error:
            yield LeftOut(place, False, str(error))
            continue
        # Seeds of a configuration share one.
        text = _SEED.sub("", texts.get("config.yaml", ""))
        if text not in configs:
            configs[text] = dict(flat(_mapping(text)))
        yield Record(place, False, summary["identity"], texts["summary.json"], configs[text])


def _with_roles(
    own: Iterable[Record | LeftOut], published: Iterable[Record | LeftOut]
) -> Iterator[Record | LeftOut]:
    """The user's own runs with their roles: those of published ones of the same configuration, or
    what today's presets say."""
    known = {
        _configuration(one): Role(one.role, one.preset)
        for one in published
        if isinstance(one, Record)
    }
    for record in own:
        if isinstance(record, Record):
            configuration = _configuration(record)
            if configuration not in known:
                known[configuration] = todays_role(record.identity)
            role = known[configuration]
            record = replace(record, role=role.name, preset=role.preset)
        yield record


def _configuration(record: Record) -> str:
    """What the seeds of a configuration have in common."""
    identity = record.identity
    return compact([identity[key] for key in IDENTITY if key not in ("seed", "source_hash")])


def _object(text: str) -> dict[str, Any]:
    """A JSON object; an empty one for what is none."""
    try:
        told = parse_json(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


class _NoRecord(Exception):
    """Why a run does not count."""


def _mapping(text: str) -> dict[str, Any]:
    """YAML of plain values; an empty mapping for what is none."""
    try:
        return parse_yaml(text)
    except ValueError:
        return {}


def _finished(directory: Path) -> tuple[dict[str, str], bool]:
    """summary.json and config.yaml of a finished run, and whether it told the digest of its rows."""
    status = read_object(directory / "status.json")
    if not status:
        raise _NoRecord("never started")
    if status.get("status") != "finished":
        raise _NoRecord(f"{status.get('status')} {status.get('reason', '')}".strip())
    kept = status.get("sha256")
    digests = kept if isinstance(kept, dict) else {}
    texts = {}
    for name in [*_TEXTS, *(name for name in digests if name not in (*_TEXTS, *_WEIGHTS))]:
        content = _content(directory / name)
        if content is None and name in digests:
            raise _NoRecord(f"its {name} is not there")
        if content is None:
            raise _NoRecord(f"has no {name}")
        if name in digests and hashlib.sha256(content).hexdigest() != digests[name]:
            raise _NoRecord(f"its {name} is not as the run left it (its digest differs)")
        if name in _TEXTS:
            texts[name] = content.decode(errors="replace")
    return texts, "rows.csv" in digests


def _content(file: Path) -> bytes | None:
    """A file's bytes; None for what is no plain file of a bearable size."""
    try:
        if is_plain(file) and file.stat().st_size <= MOST_BYTES:
            return file.read_bytes()
    except OSError:
        pass
    return None


def wrong_mean(rows: pd.Series, told: float) -> str:
    """Why rows are not those of a summary; empty where they are. Rows are kept to six digits."""
    mean = float(rows.mean())
    if rows.empty or math.isclose(mean, told, rel_tol=1e-6, abs_tol=1e-6):
        return ""
    return f"the mean of its rows is {mean:.6g}, and its summary says {told:.6g}"


def _summary(place: Path, text: str) -> dict[str, Any]:
    """summary.json that counts."""
    try:
        summary: dict[str, Any] = parse_json(text)
    except ValueError as error:
        raise _NoRecord(f"summary.json is not JSON: {error}") from None
    try:
        check_record(summary)
    except ValueError as error:
        raise _NoRecord(str(error)) from None
    identity = summary["identity"]
    misplaced = _misplaced(place, identity)
    if misplaced:
        raise _NoRecord(misplaced)
    if not summary.get("test"):
        raise _NoRecord(_TUNING)
    value = summary["test"].get("task")
    if value is None:
        raise _NoRecord("test task is not finite: no decision, or one of infinite expected cost")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _NoRecord(f"test task is {value}")
    return summary


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
        what = {key: record.identity[key] for key in IDENTITY if key != "source_hash"}
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
