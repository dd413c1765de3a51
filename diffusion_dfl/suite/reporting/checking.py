"""Published records held against their digests, their own numbers and today's presets."""

from collections.abc import Iterator
from pathlib import Path

from diffusion_dfl.suite.reporting.archive import Archive
from diffusion_dfl.suite.reporting.collect import Collection, wrong_mean
from diffusion_dfl.suite.reporting.roles import Role, todays_role


def damaged(collection: Collection) -> Iterator[str]:
    """Published runs that are not what was published, with the reason.

    Args:
        collection: of committed records alone.

    Raises:
        UserError: a file is not what was published.
    """
    archive = collection.archive
    yield from map(str, collection.left_out)
    yield from map(str, collection.tuning)
    for record in collection.records:
        path = record.path.as_posix()
        entry, identity = archive.entries[path], record.identity
        reason = wrong_mean(archive.rows(path), record.summary["test"]["task"])
        if not archive.is_whole(path):
            reason = "is not what was published (its digest differs)"
        for name in ("source", "config_hash", "source_hash"):
            if getattr(entry, name) != identity[name]:
                reason = f"its {name} is not that of its summary"
        if reason:
            yield f"published/{path}: {reason}"


def outdated(collection: Collection) -> list[Path]:
    """Published runs that today's presets would make otherwise.

    Tables show them as they were published.
    """
    return [
        record.path
        for record in collection.records
        if record.published and todays_role(record.identity) != Role(record.role, record.preset)
    ]


def extra(archive: Archive) -> list[str]:
    """Files beside the published ones: of an earlier form, or put there by hand."""
    there = (path.relative_to(archive.folder) for path in archive.folder.rglob("*"))
    return sorted(path.as_posix() for path in there if path.name not in archive.files)
