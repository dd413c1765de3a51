"""Published records held against their digests, their numbers and today's presets."""

from pathlib import Path

import pandas as pd

from diffusion_dfl.suite.config.compose import identify
from diffusion_dfl.suite.reporting.archive import Content, compact
from diffusion_dfl.suite.reporting.checking import damaged, extra, outdated
from diffusion_dfl.suite.reporting.collect import collect
from tests.configs import composed
from tests.suite.reporting.records import entry_of, place, publish, put, summary


def test_rows_of_older_presets_and_files_that_do_not_belong_are_named(tmp_path: Path) -> None:
    words = ["task=power", "scale=laptop", "model=gaussian", "grad=two_stage"]
    today = identify(composed(words)).config_hash
    current = summary("gaussian", "two_stage", 0, 3.0, config_hash=today)
    older = summary("gaussian", "score", 0, 3.0)
    publish(tmp_path, {place(one["identity"]): one for one in (current, older)})
    (tmp_path / "published" / "notes.txt").write_text("mine")
    found = collect(tmp_path, own=False)
    assert list(damaged(found)) == []
    assert outdated(found) == [Path("laptop/power/gaussian-score/seed-0")]
    assert extra(found.archive) == ["notes.txt"]


def test_a_run_that_is_not_what_its_manifest_says_is_named(tmp_path: Path) -> None:
    record = summary("gaussian", "score", 0, 3.0)
    path = place(record["identity"])
    other = {**record["identity"], "source_hash": "other"}
    content = Content(compact({**record, "identity": other}), "{}", "{}", "{}")
    put(tmp_path, {entry_of(path, record): content})
    assert list(damaged(collect(tmp_path, own=False))) == [
        f"published/{path}: its source_hash is not that of its summary"
    ]


def test_rows_that_are_not_those_of_the_number_are_named(tmp_path: Path) -> None:
    record = summary("gaussian", "score", 0, 3.0)
    path = place(record["identity"])
    publish(tmp_path, {path: record}, {path: pd.Series([1.0, 2.0], index=["a", "b"])})
    assert list(damaged(collect(tmp_path, own=False))) == [
        f"published/{path}: the mean of its rows is 1.5, and its summary says 3"
    ]
