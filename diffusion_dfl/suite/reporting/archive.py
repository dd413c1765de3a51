"""Published records on disk: three parquet files, and a manifest that says what each run is.

manifest.json   a line a run: path, role, preset, configuration, source version, digest; the sha256 of
                every file, and of these lines
runs.parquet    a run a row: its summary, configuration, environment and status as JSON text
epochs.parquet  metrics.jsonl of every run
rows.parquet    headline number of every test row

What a run is to the tables was decided when it was published, so no configuration is composed to read
it. :mod:`diffusion_dfl.suite.reporting.publishing` is the only writer.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import DamagedFile, read_json, replacing, sha256_of, write_text

SCHEMA = 1
MANIFEST = "manifest.json"

_RUNS, _EPOCHS, _ROWS = "runs.parquet", "epochs.parquet", "rows.parquet"
_TEXTS = ("summary", "config", "environment", "status")


@dataclass(frozen=True)
class Entry:
    """A run's line of the manifest.

    Attributes:
        path: ``<scale>/<task>/<model>-<grad>[-<hash>]/seed-<n>``: its table, row and seed.
        source: data source of its table.
        role: ``run`` of the table, its ``twin`` or a ``variant``.
        preset: hash of the preset it is a run or a variation of.
        config_hash: of its own configuration.
        source_hash: of the version of the source that made it.
        digest: of all that is kept of it.
    """

    path: str
    source: str
    role: str
    preset: str
    config_hash: str
    source_hash: str
    digest: str = ""


@dataclass(frozen=True)
class Content:
    """What is kept of a run.

    Attributes:
        summary, environment, status: summary.json, env.json, status.json as compact JSON.
        config: config.yaml without the seed, as compact JSON.
        epochs: its epochs, ``stage``, ``epoch`` and numbers.
        rows: headline number of every test row by its label; empty where the run wrote none.
    """

    summary: str
    config: str
    environment: str
    status: str
    epochs: list[dict[str, Any]] = field(default_factory=list)
    rows: pd.Series = field(default_factory=lambda: pd.Series(dtype=float))


def compact(value: Any) -> str:
    """JSON without spaces; constants that JSON does not have are kept, to be refused by who reads."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def digest(entry: Entry, content: Content) -> str:
    """Of a run's line of the manifest and of everything that is kept of it."""
    state = hashlib.sha256()
    told = {**asdict(entry), "digest": ""}
    texts = [getattr(content, name) for name in _TEXTS]
    for text in (compact(told), *texts, compact(content.epochs), *content.rows.index.astype(str)):
        state.update(text.encode() + b"\0")
    state.update(content.rows.to_numpy(dtype="<f8").tobytes())
    return state.hexdigest()[:16]


class Archive:
    """Published records of a folder; empty where there is no manifest.

    Attributes:
        entries: path -> line of the manifest.
        files: name -> sha256.

    Raises:
        UserError: a manifest or a file that is not what was published. Files are read when they are
            first asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self.files: Mapping[str, str] = {}
        if not (folder / MANIFEST).exists():
            left = sorted(path.name for path in folder.glob("*.parquet"))
            if left:
                raise self._damaged(MANIFEST, f"is not there, and {', '.join(left)} are")
            return
        told = read_json(folder / MANIFEST)
        if not isinstance(told, dict) or told.get("schema") != SCHEMA:
            raise self._damaged(MANIFEST, f"is no manifest of schema {SCHEMA}")
        names = {one.name for one in fields(Entry)}
        runs, files = told.get("runs"), told.get("files")
        if not isinstance(runs, list) or not isinstance(files, dict):
            raise self._damaged(MANIFEST, "lacks its runs or its files")
        if files.get(MANIFEST) != _sha256_of_lines(runs):
            raise self._damaged(MANIFEST, "is not what was published (its digest differs)")
        for run in runs:
            if not (
                isinstance(run, dict)
                and run.keys() == names
                and all(isinstance(value, str) for value in run.values())
            ):
                raise self._damaged(MANIFEST, f"has a line that is no run: {compact(run)[:80]}")
            self.entries[run["path"]] = Entry(**run)
        if len(self.entries) < len(runs):
            raise self._damaged(MANIFEST, "has two lines of one path")
        self.files = files

    @property
    def hashes(self) -> dict[str, str]:
        """Path -> hash of the configuration, of every run."""
        return {path: entry.config_hash for path, entry in self.entries.items()}

    def text(self, path: str, name: str) -> str:
        """``summary``, ``config``, ``environment`` or ``status`` of a run; empty for none."""
        return str(self._texts.get(path, {}).get(name, ""))

    def epochs(self, path: str) -> list[dict[str, Any]]:
        """metrics.jsonl of a run."""
        if path not in self._epoch_places:
            return []
        start, stop = self._epoch_places[path]
        part = self._epochs.slice(start, stop - start)
        known = [name for name in part.column_names if part[name].null_count < len(part)]
        found = part.select([name for name in known if name != "path"]).to_pylist()
        return [{key: value for key, value in one.items() if value is not None} for one in found]

    def rows(self, path: str) -> pd.Series:
        """Headline number of every test row of a run; empty where there are none."""
        if path not in self._row_places:
            return pd.Series(dtype=float)
        start, stop = self._row_places[path]
        part = self._rows.slice(start, stop - start)
        labels = pd.Index(part["row"].to_pandas(), name="row")
        return pd.Series(part["task"].to_numpy(), index=labels, name="task")

    def content(self, path: str) -> Content:
        """All that is kept of a run."""
        texts = {name: self.text(path, name) for name in _TEXTS}
        return Content(**texts, epochs=self.epochs(path), rows=self.rows(path))

    def is_whole(self, path: str) -> bool:
        """Whether a run is what was published."""
        entry = self.entries[path]
        return path in self._texts and digest(entry, self.content(path)) == entry.digest

    @cached_property
    def _texts(self) -> dict[str, dict[str, Any]]:
        runs = self._read(_RUNS).to_pylist()
        found = {run["path"]: run for run in runs}
        if len(found) < len(runs):
            raise self._damaged(_RUNS, "has two rows of one path")
        return found

    @cached_property
    def _epochs(self) -> pa.Table:
        return self._read(_EPOCHS)

    @cached_property
    def _rows(self) -> pa.Table:
        return self._read(_ROWS)

    @cached_property
    def _epoch_places(self) -> dict[str, tuple[int, int]]:
        return _places(self._epochs)

    @cached_property
    def _row_places(self) -> dict[str, tuple[int, int]]:
        return _places(self._rows)

    def _read(self, name: str) -> pa.Table:
        if not self.entries:
            return pa.table({"path": pa.array([], pa.string())})
        place = self.folder / name
        if not place.exists():
            raise self._damaged(name, "is not there")
        if sha256_of(place) != self.files.get(name):
            raise self._damaged(name, "is not what was published (its digest differs)")
        try:
            return pq.read_table(place, read_dictionary=["path"])
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(name, f"cannot be read ({error})") from None

    def _damaged(self, name: str, what: str) -> UserError:
        return DamagedFile(f"{self.folder / name} {what}; `git checkout {self.folder}` restores it")


def write(folder: Path, runs: Mapping[Entry, Content]) -> None:
    """Replace what a folder publishes; the same runs give the same bytes."""
    ordered = sorted(runs.items(), key=lambda run: run[0].path)
    entries = [
        Entry(**{**asdict(entry), "digest": digest(entry, content)}) for entry, content in ordered
    ]
    contents = {entry.path: content for entry, content in ordered}
    tables = {
        _RUNS: _run_table(contents),
        _EPOCHS: _epoch_table(contents),
        _ROWS: _row_table(contents),
    }
    files = {}
    for name, table in tables.items():
        with replacing(folder / name) as partial:
            pq.write_table(table, partial, compression="zstd", compression_level=19)
        files[name] = sha256_of(folder / name)
    told = [asdict(entry) for entry in entries]
    files[MANIFEST] = _sha256_of_lines(told)
    lines = ",\n".join(map(compact, told))
    head = f'{{"schema": {SCHEMA},\n"files": {json.dumps(files, indent=1)},\n"runs": [\n'
    write_text(folder / MANIFEST, f"{head}{lines}\n]}}\n")


def _sha256_of_lines(runs: list[Any]) -> str:
    return hashlib.sha256("\n".join(map(compact, runs)).encode()).hexdigest()


def _run_table(contents: Mapping[str, Content]) -> pa.Table:
    columns = {name: [getattr(one, name) for one in contents.values()] for name in _TEXTS}
    return pa.table({"path": list(contents), **columns})


def _epoch_table(contents: Mapping[str, Content]) -> pa.Table:
    told = [{"path": path, **epoch} for path, one in contents.items() for epoch in one.epochs]
    head = {"path": pa.string(), "stage": pa.string(), "epoch": pa.int64()}
    names = sorted({name for epoch in told for name in epoch} - head.keys())
    schema = pa.schema([*head.items(), *((name, pa.float64()) for name in names)])
    return pa.Table.from_pylist(told, schema=schema)


def _row_table(contents: Mapping[str, Content]) -> pa.Table:
    paths = np.repeat(list(contents), [len(one.rows) for one in contents.values()])
    labels = [label for one in contents.values() for label in one.rows.index.astype(str)]
    values = [one.rows.to_numpy(dtype=float) for one in contents.values()]
    return pa.table(
        {
            "path": pa.array(paths.tolist(), pa.string()),
            "row": pa.array(labels, pa.string()),
            "task": np.concatenate([np.array([], dtype=float), *values]),
        }
    )


def _places(table: pa.Table) -> dict[str, tuple[int, int]]:
    """First row and the one behind the last of every path; those of a path stand together."""
    column = table["path"].combine_chunks()
    if not len(column):
        return {}
    column = column if isinstance(column, pa.DictionaryArray) else column.dictionary_encode()
    codes = column.indices.to_numpy()
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    names = column.dictionary.to_pylist()
    stops = [*starts[1:], len(codes)]
    return {
        names[codes[start]]: (int(start), int(stop))
        for start, stop in zip(starts, stops, strict=True)
    }


def flat(config: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted key and value of every leaf of a configuration."""
    for key, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
