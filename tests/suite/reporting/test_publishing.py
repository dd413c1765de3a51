"""What is published, and what is not."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from diffusion_dfl.suite.config.compose import identify
from diffusion_dfl.suite.reporting.archive import Archive
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.publishing import Published, Wanted, publish
from tests.configs import composed
from tests.suite.reporting.records import place, summary, write
from tests.suite.reporting.records import publish as published

WORDS = ["task=power", "scale=laptop", "model=gaussian", "grad=two_stage"]
ROW = "laptop/power/gaussian-two_stage"


def own(results: Path, seed: int = 0, value: float = 3.0, **identity: Any) -> Path:
    """A finished run of today's preset, unless ``identity`` says another."""
    record = summary("gaussian", "two_stage", seed, value)
    record["identity"] |= {**vars(identify(composed([*WORDS, f"seed={seed}"]))), **identity}
    path = place(record["identity"])
    write(results / "runs", path, record)
    return results / "runs" / path


def run_publish(results: Path, **wanted: Any) -> Published:
    return publish(collect(results), Wanted({"power": "real"}, **wanted), results / "published")


def reasons(done: Published) -> list[str]:
    return [one.reason for one in done.refused]


def test_a_published_run_keeps_all_but_its_weights(tmp_path: Path) -> None:
    directory = own(tmp_path)
    (directory / "config.yaml").write_text("seed: 0\nfit: {learning_rate: 1.0e-05}\n")
    (directory / "env.json").write_text('{"python": "3.11"}')
    (directory / "metrics.jsonl").write_text('{"stage": "fit", "epoch": 1, "loss": 2}\nhalf a li')
    (directory / "rows.csv").write_text("row,task\n2015-01-01,2.5\n2015-01-02,3.5\n")
    (directory / "weights.pt").write_text("weights")
    done = run_publish(tmp_path)
    assert (done.paths, done.refused) == ([Path(ROW, "seed-0")], [])
    archive = Archive(tmp_path / "published")
    entry = archive.entries[f"{ROW}/seed-0"]
    assert (entry.source, entry.role) == ("real", "run")
    assert entry.preset == entry.config_hash
    kept = archive.content(entry.path)
    assert json.loads(kept.summary)["test"]["task"] == 3.0
    assert json.loads(kept.config) == {"fit": {"learning_rate": 1e-05}}
    assert json.loads(kept.environment) == {"python": "3.11"}
    assert kept.epochs == [{"stage": "fit", "epoch": 1, "loss": 2.0}]
    assert kept.rows.to_dict() == {"2015-01-01": 2.5, "2015-01-02": 3.5}


def test_rows_whose_mean_is_not_the_summarys_number_are_refused(tmp_path: Path) -> None:
    (own(tmp_path) / "rows.csv").write_text("row,task\n2015-01-01,2.5\n")
    assert reasons(run_publish(tmp_path)) == ["the mean of its rows is 2.5, and its summary says 3"]
    assert not (tmp_path / "published").exists()


def test_files_that_are_not_as_the_run_left_them_are_refused(tmp_path: Path) -> None:
    directory = own(tmp_path)
    (directory / "rows.csv").write_text("row,task\n2015-01-01,3.0\n")
    digest = hashlib.sha256((directory / "rows.csv").read_bytes()).hexdigest()
    told = {"status": "finished", "sha256": {"rows.csv": digest, "weights.pt": "elsewhere"}}
    (directory / "status.json").write_text(json.dumps(told))
    assert reasons(run_publish(tmp_path)) == []
    (directory / "rows.csv").write_text("row,task\n2015-01-02,3.0\n")
    assert reasons(run_publish(tmp_path)) == [
        "its rows.csv is not as the run left it (its digest differs)"
    ]
    (directory / "rows.csv").write_text("something,else\n")
    (directory / "status.json").write_text('{"status": "finished"}')
    assert reasons(run_publish(tmp_path)) == ["its rows.csv is no table of rows"]
    told["sha256"] = {"metrics.jsonl": "x"}
    (directory / "status.json").write_text(json.dumps(told))
    assert reasons(run_publish(tmp_path)) == ["its metrics.jsonl is not there"]


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        ({"scale": "smoke"}, "is of scale smoke, and the records are of laptop"),
        ({"source": "simulated"}, "is of data=simulated, and the records are of data=real"),
        ({"config_hash": "old"}, "is of an older preset; run it again with force=true"),
        ({"task": "mine"}, "is of task=mine, which this project does not have"),
    ],
)
def test_what_is_of_no_table_is_refused(
    tmp_path: Path, identity: dict[str, Any], reason: str
) -> None:
    own(tmp_path, **identity)
    assert reasons(run_publish(tmp_path)) == [reason]


def test_a_row_changes_its_configuration_as_a_whole(tmp_path: Path) -> None:
    """Ten seeds never give way to three, and no row is of two configurations."""
    old = {f"{ROW}/seed-{seed}": summary("gaussian", "two_stage", seed, 9.0) for seed in range(2)}
    published(tmp_path, old)
    own(tmp_path, 0)
    done = run_publish(tmp_path)
    assert reasons(done) == [
        f"{ROW} is published with another configuration; it changes when seed-1 are finished too"
    ]
    assert Archive(tmp_path / "published").hashes == dict.fromkeys(old, "h")
    own(tmp_path, 1)
    done = run_publish(tmp_path)
    assert (len(done.paths), done.replaced) == (2, list(old))
    assert "h" not in Archive(tmp_path / "published").hashes.values()


def test_records_of_older_presets_go_where_that_is_asked_for(tmp_path: Path) -> None:
    old = {f"{ROW}/seed-0": summary("gaussian", "two_stage", 0, 9.0)}
    elsewhere = {
        "laptop/inventory/gaussian-two_stage/seed-0": summary("gaussian", "two_stage", 0, 9.0)
    }
    elsewhere["laptop/inventory/gaussian-two_stage/seed-0"]["identity"]["task"] = "inventory"
    published(tmp_path, old | elsewhere)
    (tmp_path / "runs").mkdir()
    assert run_publish(tmp_path).retired == []
    assert run_publish(tmp_path, retire=True, scale="paper").retired == []
    done = run_publish(tmp_path, retire=True)
    assert (done.paths, done.retired) == ([], list(old))
    assert list(Archive(tmp_path / "published").entries) == list(elsewhere)
