"""`make search` in small: from nothing to tables and presets that compose."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts import search

SMALL = (
    "task.num_train=120",
    "task.num_validation=40",
    "decision.num_scenarios=10",
)


@pytest.fixture
def small_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from diffusion_dfl.suite.search import space

    folder = tmp_path / "spaces"
    folder.mkdir()
    (folder / "budget.yaml").write_text("default: {trials: 2, seconds: 1000}\ntasks: {}\n")
    fit = {
        "fixed": {"fit.epochs": 3, "fit.batch_size": 64, "model.width": 8},
        "knobs": {"model.dropout": [0.0, 0.1], "fit.learning_rate": {"low": 1e-3, "high": 1e-2}},
    }
    decision = {
        "fixed": {"train.epochs": 2},
        "knobs": {"grad.decision_weight": {"low": 0.1, "high": 1.0, "log": True}},
    }
    (folder / "gaussian.yaml").write_text(yaml.safe_dump({"fit": fit, "decision": decision}))
    monkeypatch.setattr(space, "FOLDER", folder)
    monkeypatch.setattr(space.read_budget, "__defaults__", (folder / "budget.yaml",))
    return folder


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["search.py", *words])
    return search.main()


@pytest.mark.slow
def test_a_fit_then_its_row_end_in_tables_and_presets(
    small_space: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, presets = tmp_path / "search", tmp_path / "preset"
    presets.mkdir()
    place = ("--root", str(root), "--preset-folder", str(presets))
    words = ("task=inventory", "model=gaussian", *SMALL)
    for grad in ("two_stage", "reparam", "score"):
        assert called(monkeypatch, *words, f"grad={grad}", *place) == 0
    with (root / "inventory-gaussian-score.csv").open() as handle:
        weights = {row["grad.decision_weight"] for row in csv.DictReader(handle)}
    with (root / "inventory-gaussian-reparam.csv").open() as handle:
        assert next(csv.DictReader(handle))["grad.decision_weight"] in weights
    told = capsys.readouterr().out
    assert "inventory-gaussian-fit: " in told
    assert "2 of 2 trials" in told
    with (root / "inventory-gaussian-reparam.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 3
    assert rows[0]["state"] == "complete"
    assert rows[-1]["trial"] == "twin"
    assert "the row less its twin, paired: " in told
    costs = json.loads(rows[0]["costs"])
    assert len(costs) == 8
    assert set(costs[0]) == {"0", "1", "2"}
    mean = sum(one[rows[0]["choice"]] for one in costs) / 8
    assert float(rows[0]["mean"]) == pytest.approx(mean, abs=1e-4)
    shared = yaml.safe_load((presets / "inventory-gaussian.yaml").read_text())
    assert shared["fit"]["keep"] == "last"
    assert 0 <= shared["fit"]["epochs"] <= 3
    assert shared["model"]["width"] == 8
    rule = yaml.safe_load((presets / "inventory-gaussian-two_stage.yaml").read_text())
    assert rule["defaults"] == ["inventory-gaussian", "_self_"]
    assert rule["decision"]["bandwidth_scale"] in (0.25, 0.5, 1.0, 1.5, 2.0, 2.5)
    row = yaml.safe_load((presets / "inventory-gaussian-reparam.yaml").read_text())
    assert row["train"]["epochs"] == int(rows[0]["choice"])
    show = (*words, "grad=two_stage", *place, "--show", "--calibration")
    assert called(monkeypatch, *show, "decision.num_scenarios=20") == 0
    assert "coverage_90: 0." in capsys.readouterr().out
    assert called(monkeypatch, *show, "model.steps=20") != 0
    assert "--calibration model.steps=20: expected a key" in capsys.readouterr().err
    # Everything is there: nothing is run again.
    assert called(monkeypatch, *words, "grad=reparam", *place, "--show") == 0


@pytest.mark.slow
def test_workers_of_a_launcher_share_a_stage(tmp_path: Path) -> None:
    words = ("task=inventory", "model=gaussian", "grad=two_stage", *SMALL, "hydra/launcher=dask")
    words += ("--workers", "2", "--trials", "2", "--root", str(tmp_path))
    words += ("--preset-folder", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "scripts/search.py", *words, f"output.root={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "inventory-gaussian-fit.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) >= 2
    workers = re.findall(r'"worker": ?"(\d+)-', next(tmp_path.rglob("*.journal")).read_text())
    assert {"0", "1"} <= set(workers)
    assert (tmp_path / "inventory-gaussian-two_stage.yaml").exists()


def test_a_row_whose_fit_was_not_searched_says_what_to_run(
    small_space: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("task=inventory", "model=gaussian", "grad=reparam", *SMALL)
    assert called(monkeypatch, *words, "--root", str(tmp_path / "search")) != 0
    assert "make search task=inventory model=gaussian" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("task=inventory",), "expected task=NAME model=NAME"),
        (("task=inventory", "model=gaussian", "what"), "expected task=NAME model=NAME"),
        (("task=inventory", "model=gaussian", "--workers", "0"), "--workers 0: expected 1 or more"),
        (("task=inventory", "model=gaussian", "--trials", "0"), "--trials 0: expected 1 or more"),
        (("task=inventory", "model=gaussian", "--workers", "2"), "workers need a launcher; add"),
        (("task=inventory", "model=gaussian", "hydra/launcher=dask"), "say how many workers"),
        (
            ("task=inventory", "model=gaussian", *SMALL, "hydra/launcher=dusk", "--workers", "2"),
            "hydra/launcher",
        ),
        (("task=inventory", "model=gaussan"), "model=gaussan: there is no such model to search"),
        (
            ("task=inventory", "model=gaussian", "grad=score_path"),
            "its grads are two_stage, reparam",
        ),
    ],
)
def test_words_that_name_no_row_are_refused(
    words: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert called(monkeypatch, *words, "--root", str(tmp_path)) != 0
    assert told in capsys.readouterr().err
