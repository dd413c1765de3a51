"""Published records on disk: what is put there is read again, always as the same bytes, and damage
shows."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.reporting.archive import Archive, Content, Entry, compact, write

SUMMARY = compact({"schema": 1, "test": {"task": 0.1, "crps": None}})
RUNS = {
    Entry(f"laptop/power/a-b/seed-{seed}", "real", "run", "h", "h", "s"): Content(
        SUMMARY,
        compact({"scale": "laptop", "fit": {"learning_rate": 1e-05}}),
        "{}",
        compact({"status": "finished"}),
        [
            {"stage": "fit", "epoch": 1, "loss": 0.1 + seed},
            {"stage": "train", "epoch": 1, "decision_cost": 1e-16, "loss": float("nan")},
        ],
        pd.Series([0.1, 0.2 + seed], index=["2015-01-01", "2015-01-02"]),
    )
    for seed in (0, 1)
}
BARE = {
    Entry("laptop/power/c-d/seed-0", "real", "variant", "h", "v", "s"): Content(
        SUMMARY, "{}", "{}", "{}"
    )
}
FILES = ["epochs.parquet", "manifest.json", "rows.parquet", "runs.parquet"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, {**BARE, **RUNS})
    return tmp_path


def test_what_is_written_is_read_again(folder: Path) -> None:
    archive = Archive(folder)
    assert list(archive.entries) == sorted(entry.path for entry in (*RUNS, *BARE))
    for entry, content in RUNS.items():
        found = archive.content(entry.path)
        assert (found.summary, found.config) == (content.summary, content.config)
        assert found.epochs[0] == content.epochs[0]
        assert str(found.epochs[1]) == str(dict(content.epochs[1]))  # NaN is not NaN
        assert found.rows.to_dict() == content.rows.to_dict()
    bare = archive.content(next(iter(BARE)).path)
    assert (bare.epochs, len(bare.rows)) == ([], 0)
    assert all(archive.is_whole(path) for path in archive.entries)


def test_the_same_runs_give_the_same_bytes_in_any_order(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    archive = Archive(folder)
    runs = {entry: archive.content(path) for path, entry in archive.entries.items()}
    write(again, dict(reversed(runs.items())))
    assert sorted(os.listdir(again)) == FILES
    for name in FILES:
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_nothing_published_is_an_empty_archive(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "nowhere")
    assert archive.entries == archive.hashes == {}
    assert archive.text("a", "summary") == "" and archive.epochs("a") == []
    assert archive.rows("a").empty


def test_a_changed_role_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"role":"variant"', '"role":"run"'))
    with pytest.raises(UserError, match=r"manifest.json is not what was published.*git checkout"):
        Archive(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "it is no JSON"),
        ("[]", "is no manifest of schema 1"),
        ('{"schema": 9}', "is no manifest of schema 1"),
        ('{"schema": 1, "runs": 3}', "lacks its runs or its files"),
    ],
)
def test_a_damaged_manifest_is_one_sentence(folder: Path, text: str, reason: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=reason):
        Archive(folder)


@pytest.mark.parametrize("name", ["runs.parquet", "epochs.parquet", "rows.parquet"])
def test_a_changed_or_absent_file_is_one_sentence(folder: Path, name: str) -> None:
    path = next(iter(RUNS)).path
    with (folder / name).open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(UserError, match=f"{name} is not what was published"):
        Archive(folder).content(path)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is not there"):
        Archive(folder).content(path)


def test_a_digest_is_of_all_that_is_kept(folder: Path) -> None:
    """Where someone wrote every file anew, digests of files too, the run's own still tells."""
    manifest = json.loads((folder / "manifest.json").read_text())
    before = {run["path"]: run["digest"] for run in manifest["runs"]}
    entry, content = next(iter(RUNS.items()))
    changed = [
        (entry, Content(**{**vars(content), "rows": content.rows + 1})),
        (entry, Content(**{**vars(content), "epochs": content.epochs[:1]})),
        (entry, Content(**{**vars(content), "config": "{}"})),
        (Entry(**{**vars(entry), "role": "twin"}), content),
    ]
    for one, other in changed:
        write(folder, {**RUNS, one: other} if one == entry else {one: other})
        assert Archive(folder).entries[entry.path].digest != before[entry.path]


def test_records_without_their_manifest_are_no_empty_archive(tmp_path: Path) -> None:
    (tmp_path / "runs.parquet").write_bytes(b"something")
    with pytest.raises(UserError, match=r"manifest.json is not there, and runs.parquet are"):
        Archive(tmp_path)
