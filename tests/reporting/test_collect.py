"""Collecting records: what counts, and what is named instead."""

import math
from pathlib import Path
from typing import Any

import pytest

from diffusion_dfl.reporting.collect import collect
from tests.reporting.records import summary, write


def test_own_run_takes_the_place_of_the_committed_record(tmp_path: Path) -> None:
    write(tmp_path / "published", "a/seed-0", summary("diffusion", "score", 0, 3.0))
    write(tmp_path / "runs", "a/seed-0", summary("diffusion", "score", 0, 2.0))
    (record,) = collect(tmp_path).records
    assert record.summary["test"]["task"] == 2.0
    assert not record.published
    (committed,) = collect(tmp_path, own=False).records
    assert committed.summary["test"]["task"] == 3.0


RECORD = summary("diffusion", "score", 0, 3.0)
NAMELESS = {**RECORD, "identity": {k: v for k, v in RECORD["identity"].items() if k != "seed"}}


@pytest.mark.parametrize(
    ("record", "status", "reason"),
    [
        ("{", "finished", "not JSON"),
        ({"schema": 99}, "finished", "another schema"),
        (NAMELESS, "finished", "no identity.seed"),
        (summary("diffusion", "score", 0, math.nan), "finished", "task is nan"),
        (summary("diffusion", "score", 0, None), "finished", "infinite expected cost"),
        (RECORD, "failed", "failed because"),
        (RECORD, "running", "running"),
    ],
)
def test_broken_and_unfinished_runs_are_named_not_counted(
    tmp_path: Path, record: Any, status: str, reason: str
) -> None:
    write(tmp_path / "runs", "laptop/power/a/seed-0", record, status)
    found = collect(tmp_path)
    assert found.records == []
    (left_out,) = found.left_out
    assert reason in str(left_out)
    assert str(left_out).startswith("runs/laptop/power/a/seed-0: ")
    assert left_out.concerns("power", "laptop")
    assert not left_out.concerns("power", "smoke")


def test_two_records_of_the_same_run_are_both_left_out(tmp_path: Path) -> None:
    write(tmp_path / "published", "a/seed-0", summary("diffusion", "score", 0, 3.0))
    write(tmp_path / "published", "copy/seed-0", summary("diffusion", "score", 0, 4.0))
    write(tmp_path / "published", "a/seed-1", summary("diffusion", "score", 1, 5.0))
    found = collect(tmp_path)
    assert [record.identity["seed"] for record in found.records] == [1]
    assert [str(run) for run in found.left_out] == [
        "published/a/seed-0: claims to be the same run as copy/seed-0",
        "published/copy/seed-0: claims to be the same run as a/seed-0",
    ]


def test_tuning_runs_are_counted_apart(tmp_path: Path) -> None:
    write(tmp_path / "runs", "a/seed-0", {**summary("diffusion", "score", 0, 3.0), "test": {}})
    found = collect(tmp_path)
    assert (found.records, found.left_out, found.tuning) == ([], [], 1)
