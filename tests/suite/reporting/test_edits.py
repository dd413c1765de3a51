"""Edits to committed records: every one is refused, or named by the check of the records."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.reporting.checking import damaged
from diffusion_dfl.suite.reporting.collect import collect
from tests.suite.reporting.records import publish, summary

Edit = Callable[[Path], object]
PLACES = [
    f"laptop/power/{cell}/seed-{seed}"
    for cell in ("gaussian-score", "gaussian-reparam")
    for seed in (0, 1)
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    records, rows = {}, {}
    for number, place in enumerate(PLACES):
        model, grad = place.split("/")[2].split("-")
        seed = int(place[-1])
        records[place] = summary(model, grad, seed, 3.0 + number, {"num_rows": 2})
        rows[place] = pd.Series([2.5 + number, 3.5 + number], index=["2015-01-01", "2015-01-02"])
    publish(tmp_path, records, rows)
    return tmp_path


def _bytes(name: str, change: Callable[[bytes], bytes]) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return edit


def _manifest(change: Callable[[dict[str, Any]], object]) -> Edit:
    def edit(folder: Path) -> None:
        file = folder / "manifest.json"
        told = json.loads(file.read_text())
        change(told)
        file.write_text(json.dumps(told))

    return edit


def _table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame], knowing: bool) -> Edit:
    """An edit of a table, by who knows of its digest or not."""

    def edit(folder: Path) -> None:
        file = folder / name
        frame = change(pq.read_table(file).to_pandas())
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file)
        if knowing:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            _manifest(lambda told: told["files"].update({name: digest}))(folder)

    return edit


def _text(column: str, old: str, new: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame[column] = [frame[column][0].replace(old, new), *frame[column][1:]]
        return frame

    return change


def _value(column: str, value: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**{column: [value, *frame[column][1:]]})


def _swapped(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**{column: [*frame[column][1:], frame[column][0]]})


_TABLES: dict[str, tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "a better number": ("runs.parquet", _text("summary", '"task":5.0', '"task":1.0')),
    "another seed": ("runs.parquet", _text("summary", '"seed":0', '"seed":7')),
    "another model": ("runs.parquet", _text("summary", '"gaussian"', '"diffusion"')),
    "another direction": ("runs.parquet", _text("summary", "false", "true")),
    "another status": ("runs.parquet", _text("status", "{", '{"x":1,')),
    "another configuration": ("runs.parquet", _text("config", "{", '{"x":1,')),
    "another environment": ("runs.parquet", _text("environment", "{", '{"x":1,')),
    "a summary of another run": ("runs.parquet", _swapped("summary")),
    "a run less": ("runs.parquet", lambda frame: frame[1:]),
    "a run twice": ("runs.parquet", lambda frame: pd.concat([frame, frame[:1]])),
    "rows of another run": ("rows.parquet", _swapped("task")),
    "a row less": ("rows.parquet", lambda frame: frame[1:]),
    "a better row": ("rows.parquet", _value("task", 0.0)),
    "another day": ("rows.parquet", lambda frame: frame.assign(row="2016-01-01")),
    "no rows": ("rows.parquet", lambda frame: frame[:0]),
}  # fmt: skip
EDITS: dict[str, Edit] = {
    **{f"{name}, unknowing": _table(*one, False) for name, one in _TABLES.items()},
    **{f"{name}, knowing": _table(*one, True) for name, one in _TABLES.items()},
    "runs cut off": _bytes("runs.parquet", lambda content: content[:-9]),
    "rows cut off": _bytes("rows.parquet", lambda content: content[: len(content) // 2]),
    "a bit": _bytes("runs.parquet", lambda content: content[:50] + b"\xff" + content[51:]),
    "nothing in a table": _bytes("rows.parquet", lambda content: b""),
    "no rows file": lambda folder: (folder / "rows.parquet").unlink(),
    "no runs file": lambda folder: (folder / "runs.parquet").unlink(),
    "epochs for rows": lambda folder: shutil.copy(
        folder / "epochs.parquet", folder / "rows.parquet"
    ),
    "a line less": _manifest(lambda told: told["runs"].pop()),
    "a line twice": _manifest(lambda told: told["runs"].append(told["runs"][0])),
    "another role": _manifest(lambda told: told["runs"][0].update(role="twin")),
    "another preset": _manifest(lambda told: told["runs"][0].update(preset="x")),
    "another place": _manifest(lambda told: told["runs"][0].update(path="x/y/z-w/seed-0")),
    "another source": _manifest(lambda told: told["runs"][0].update(source_hash="x")),
    "another digest": _manifest(lambda told: told["runs"][0].update(digest="x")),
    "lines in another order": _manifest(lambda told: told["runs"].reverse()),
    "another schema": _manifest(lambda told: told.update(schema=2)),
    "no digests": _manifest(lambda told: told.update(files={})),
    "a cut manifest": _bytes("manifest.json", lambda content: content[:-20]),
    "a manifest of many levels": _bytes("manifest.json", lambda _: b"[" * 100_000),
}


def test_as_published_nothing_is_named(results: Path) -> None:
    found = collect(results)
    assert len(found.records) == len(PLACES)
    assert list(damaged(found)) == []


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_refused_or_named(name: str, results: Path) -> None:
    EDITS[name](results / "published")
    try:
        found = collect(results)
        for record in found.records:
            found.rows(record.path.as_posix(), True)
        named = list(damaged(found))
    except UserError as error:
        named = [str(error)]
    assert named
    assert all("\n" not in one and len(one) < 400 for one in named)
