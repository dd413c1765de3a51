"""Which finished runs belong among the published records, and how they get there.

What a run is to the tables (:mod:`diffusion_dfl.suite.reporting.roles`) is decided here, by the presets of
the day, and kept with it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusion_dfl.files import read_object
from diffusion_dfl.suite.reporting import run_files
from diffusion_dfl.suite.reporting.archive import Archive, Content, Entry, compact, write
from diffusion_dfl.suite.reporting.checking import outdated
from diffusion_dfl.suite.reporting.collect import Collection, LeftOut, Record
from diffusion_dfl.suite.reporting.roles import STALE, VARIANT, todays_role
from diffusion_dfl.suite.reporting.selection import choices


@dataclass(frozen=True)
class Wanted:
    """What is published.

    Attributes:
        sources: task -> data source of its records.
        scale: of the records.
        variants: whether runs with changes in their preset are, too, beside twins and those that were
            published before.
        retire: whether what today's presets would make otherwise is published no longer.
    """

    sources: Mapping[str, str]
    scale: str = "laptop"
    variants: bool = False
    retire: bool = False


@dataclass(frozen=True)
class Published:
    """What became of the runs.

    Attributes:
        paths: those that are published now.
        replaced: published before, of another configuration; they gave way.
        retired: published before, of older presets.
        passed_over: variants that were not asked for.
        refused: what does not belong, with the reason.
    """

    paths: list[Path]
    replaced: list[str]
    retired: list[str]
    passed_over: list[Path]
    refused: list[LeftOut]


def publish(collection: Collection, wanted: Wanted, folder: Path) -> Published:
    """Add the finished runs of ``results/runs`` that belong to a folder's records.

    Args:
        collection: everything found in the results folder.
        wanted: which runs.
        folder: of the records.

    Raises:
        UserError: the records are not what was published.
    """
    archive = Archive(folder)
    chosen: dict[Entry, Content] = {}
    passed_over: list[Path] = []
    own = [one for one in (*collection.left_out, *collection.tuning) if not one.published]
    refused = [one for one in own if one.path.parts[1:2] and one.path.parts[1] in wanted.sources]
    for record in collection.records:
        task = record.identity["task"]
        if record.published or (task not in wanted.sources and task in choices("task")):
            continue
        directory = collection.results / "runs" / record.path
        reason = _foreign(record, wanted)
        if reason:
            refused.append(LeftOut(record.path, False, reason))
            continue
        # By today's presets, whatever a published run of the same configuration was.
        role = todays_role(record.identity)
        asked = wanted.variants or record.path.as_posix() in archive.entries
        if role.name == VARIANT and not asked:
            passed_over.append(record.path)
        else:
            try:
                content = content_of(directory)
            except ValueError as error:
                refused.append(LeftOut(record.path, False, str(error)))
                continue
            chosen[_entry(record, role.name, role.preset)] = content
    few = _too_few(archive.entries.values(), chosen)
    refused += [LeftOut(Path(entry.path), False, few[entry]) for entry in chosen if entry in few]
    added = {entry: content for entry, content in chosen.items() if entry not in few}
    replaced = _replaced(archive.entries.values(), added)
    paths = {entry.path for entry in added}
    retired = [path for path in _outdated(collection, wanted) if path not in {*replaced, *paths}]
    if added or retired:
        gone = {*replaced, *retired, *paths}
        kept = {e: archive.content(path) for path, e in archive.entries.items() if path not in gone}
        write(folder, {**kept, **added})
    return Published([Path(path) for path in paths], replaced, retired, passed_over, refused)


def _outdated(collection: Collection, wanted: Wanted) -> list[str]:
    """Published runs that are retired; none where that was not asked for."""
    if not wanted.retire:
        return []
    asked = {(task, wanted.scale, source) for task, source in wanted.sources.items()}
    known = {
        record.path: tuple(record.identity[key] for key in ("task", "scale", "source"))
        for record in collection.records
        if record.published
    }
    return [path.as_posix() for path in outdated(collection) if known[path] in asked]


def content_of(directory: Path) -> Content:
    """What is kept of a finished run."""
    config = run_files.config(directory)
    config.pop("seed", None)
    names = ("summary.json", "env.json", "status.json")
    summary, environment, status = (compact(read_object(directory / name)) for name in names)
    epochs, _ = run_files.epochs(directory)
    return Content(summary, compact(config), environment, status, epochs, run_files.rows(directory))


def _entry(record: Record, role: str, preset: str) -> Entry:
    identity = record.identity
    hashes = identity["config_hash"], identity["source_hash"]
    return Entry(record.path.as_posix(), identity["source"], role, preset, *hashes)


def _foreign(record: Record, wanted: Wanted) -> str:
    """Why a run is of no published table; empty where it is of one."""
    identity = record.identity
    if identity["task"] not in wanted.sources:
        return f"is of task={identity['task']}, which this project does not have"
    source = wanted.sources[identity["task"]]
    if identity["scale"] != wanted.scale:
        return f"is of scale {identity['scale']}, and the records are of {wanted.scale}"
    if identity["source"] != source:
        return f"is of data={identity['source']}, and the records are of data={source}"
    role = todays_role(identity).name
    if role == STALE:
        return "is of an older preset; run it again with force=true"
    return "" if role else "is of a model or grad that this project does not have"


def _too_few(before: Iterable[Entry], chosen: Iterable[Entry]) -> dict[Entry, str]:
    """Runs that would replace a configuration by another one of fewer seeds."""
    reasons = {}
    for cell, (old, new) in _changed(before, chosen).items():
        lacking = {Path(entry.path).name for entry in old} - {Path(e.path).name for e in new}
        if lacking:
            names = ", ".join(sorted(lacking))
            for entry in new:
                reasons[entry] = (
                    f"{cell} is published with another configuration; it changes when {names} "
                    "are finished too"
                )
    return reasons


def _replaced(before: Iterable[Entry], added: Iterable[Entry]) -> list[str]:
    """Published runs of a configuration that gives way to another one."""
    return [entry.path for old, _ in _changed(before, added).values() for entry in old]


def _changed(
    before: Iterable[Entry], new: Iterable[Entry]
) -> dict[str, tuple[list[Entry], list[Entry]]]:
    """Cell -> published runs of another configuration or preset than the new ones, and the new ones."""
    cells: dict[str, list[Entry]] = {}
    for entry in new:
        cells.setdefault(entry.path.rpartition("/")[0], []).append(entry)
    changed: dict[str, tuple[list[Entry], list[Entry]]] = {}
    for entry in before:
        cell = entry.path.rpartition("/")[0]
        there = cells.get(cell)
        if there and (there[0].config_hash, there[0].preset) != (entry.config_hash, entry.preset):
            changed.setdefault(cell, ([], there))[0].append(entry)
    return changed
