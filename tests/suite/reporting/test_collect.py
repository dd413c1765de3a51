"""Collecting records: what counts, and what is named instead."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from diffusion_dfl.suite.reporting.collect import collect
from tests.suite.reporting.records import place, publish, summary, write

RECORD = summary("diffusion", "score", 0, 3.0)
OTHER = summary("diffusion", "score", 1, 5.0)
COPY = place(RECORD["identity"], 1)


def test_own_run_takes_the_place_of_the_committed_record(tmp_path: Path) -> None:
    publish(tmp_path, {place(RECORD["identity"]): RECORD})
    write(tmp_path / "runs", place(RECORD["identity"]), summary("diffusion", "score", 0, 2.0))
    (record,) = collect(tmp_path).records
    assert record.summary["test"]["task"] == 2.0
    assert not record.published
    # Of the published configuration, so of its row, whatever today's preset is.
    assert (record.role, record.preset) == ("run", "h")
    (committed,) = collect(tmp_path, own=False).records
    assert committed.summary["test"]["task"] == 3.0


def test_own_run_of_another_configuration_stands_beside_the_committed_record(
    tmp_path: Path,
) -> None:
    publish(tmp_path, {place(RECORD["identity"]): RECORD})
    other = summary("diffusion", "score", 0, 2.0, config_hash="other")
    write(tmp_path / "runs", place(RECORD["identity"]), other)
    committed, own = collect(tmp_path).records
    assert (committed.published, own.published) == (True, False)
    assert own.role == "stale"  # It is of no preset of today either.


NAMELESS = {**RECORD, "identity": {k: v for k, v in RECORD["identity"].items() if k != "seed"}}


@pytest.mark.parametrize(
    ("record", "status", "reason"),
    [
        ("{", "finished", "not JSON"),
        ({"schema": 99}, "finished", "has schema 99, not 1; run it again"),
        (NAMELESS, "finished", "no identity.seed"),
        (summary("diffusion", "score", 0, math.nan), "finished", "holds NaN"),
        (summary("diffusion", "score", 0, None), "finished", "infinite expected cost"),
        (RECORD, "failed", "failed because"),
        (RECORD, "running", "running"),
    ],
)
def test_broken_and_unfinished_runs_are_named_not_counted(
    tmp_path: Path, record: Any, status: str, reason: str
) -> None:
    write(tmp_path / "runs", "laptop/power/diffusion-score/seed-0", record, status)
    found = collect(tmp_path)
    assert found.records == []
    (left_out,) = found.left_out
    assert reason in str(left_out)
    assert str(left_out).startswith("runs/laptop/power/diffusion-score/seed-0: ")
    assert left_out.concerns("power", "laptop")
    assert not left_out.concerns("power", "smoke")


def test_two_records_of_the_same_run_are_both_left_out(tmp_path: Path) -> None:
    records = {place(RECORD["identity"]): RECORD, COPY: summary("diffusion", "score", 0, 4.0)}
    publish(tmp_path, {**records, place(OTHER["identity"]): OTHER})
    found = collect(tmp_path)
    one = place(RECORD["identity"])
    assert [record.identity["seed"] for record in found.records] == [1]
    assert [str(run) for run in found.left_out] == [
        f"published/{COPY}: claims to be the same run as {one}",
        f"published/{one}: claims to be the same run as {COPY}",
    ]


def test_tuning_runs_are_counted_apart(tmp_path: Path) -> None:
    write(
        tmp_path / "runs",
        place(RECORD["identity"]),
        {**summary("diffusion", "score", 0, 3.0), "test": {}},
    )
    found = collect(tmp_path)
    assert (found.records, found.left_out, len(found.tuning)) == ([], [], 1)


def test_a_record_that_is_not_as_the_run_left_it_is_named(tmp_path: Path) -> None:
    """One digit changed is still JSON; the digest the run kept tells."""
    where = place(RECORD["identity"])
    write(tmp_path / "runs", where, RECORD)
    folder = tmp_path / "runs" / where
    digest = hashlib.sha256((folder / "summary.json").read_bytes()).hexdigest()
    status = {"status": "finished", "sha256": {"summary.json": digest}}
    (folder / "status.json").write_text(json.dumps(status))
    assert len(collect(tmp_path).records) == 1
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(text.replace("3.0", "2.0", 1))
    (left_out,) = collect(tmp_path).left_out
    assert "not as the run left it" in str(left_out)


@pytest.mark.parametrize(
    "where",
    [
        "smoke/power/diffusion-score/seed-0",
        "laptop/power_released/diffusion-score/seed-0",
        "laptop/power/diffusion-score_path/seed-0",
        "laptop/power/diffusion-score/seed-7",
        "diffusion-score/seed-0",
    ],
)
def test_a_record_in_the_place_of_another_run_is_named(tmp_path: Path, where: str) -> None:
    publish(tmp_path, {where: RECORD})
    found = collect(tmp_path)
    assert found.records == []
    assert "is of laptop/power/diffusion-score/seed-0" in str(found.left_out[0])
