"""The tidy table of runs that every table and figure is made from."""

import json
from collections.abc import Iterator
from sys import intern
from typing import Any

import pandas as pd

from diffusion_dfl.suite.reporting.collect import Collection, Record
from diffusion_dfl.suite.runs.form import is_mixed

#: Parts of a record that become columns ``part.name``.
PARTS = ("test", "validation", "timing", "resources")


def frame(collection: Collection) -> pd.DataFrame:
    """One row a run.

    Columns: the identity (``task``, ``model``, ``grad``, ``scale``, ``source``, ``seed``,
    ``config_hash``, ``source_hash``), ``differs`` as JSON text, ``path``, ``published``, ``mixed``
    (whether sources that compute otherwise made it together), ``role`` and ``preset``
    (:mod:`diffusion_dfl.suite.reporting.roles`), ``config`` (key -> value), and every leaf of the
    record's ``test``, ``validation``, ``timing`` and ``resources`` under its dotted name:
    ``test.task``, ``test.baselines.saa``, ``test.hourly.0``. A number a record does not have, or has
    as null, is NaN; rows are sorted by path.
    """
    rows = [_row(record) for record in sorted(collection.records, key=lambda r: str(r.path))]
    table = pd.DataFrame(rows)
    for name in table.columns:
        # A column of nulls alone is a column of missing numbers.
        if name.startswith(PARTS) and table[name].isna().all():
            table[name] = float("nan")
    return table


def differs_text(differs: dict[str, Any]) -> str:
    """What a run changed, as JSON that is equal where the changes are."""
    return json.dumps(differs, sort_keys=True)


def _row(record: Record) -> dict[str, Any]:
    summary = record.summary
    row = {key: value for key, value in record.identity.items() if key != "differs"}
    row["differs"] = differs_text(record.identity["differs"])
    row["path"] = record.path.as_posix()
    row["published"], row["mixed"] = record.published, is_mixed(summary)
    row |= {"role": record.role, "preset": record.preset, "config": record.config}
    for part in PARTS:
        row.update(_leaves(part, summary.get(part)))
    return row


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(intern(f"{name}.{key}"), item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(intern(f"{name}.{number}"), item)
    else:
        yield name, value
