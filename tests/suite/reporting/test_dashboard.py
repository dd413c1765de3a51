"""The W&B dashboard is built from code, and shows numbers that runs log."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from diffusion_dfl.suite.config.compose import identify
from diffusion_dfl.suite.reporting.dashboard import dashboard
from diffusion_dfl.suite.reporting.layout import LAYOUTS
from diffusion_dfl.suite.runs.run import run
from tests.configs import composed
from tests.processes import ROOT, forked
from tests.suite.loggers.test_mirrors import TINY, read_offline


def test_every_task_has_its_curves_and_numbers() -> None:
    view = dashboard("team")
    names = [section.name for section in view.sections]
    assert len(names) == 2 * len(LAYOUTS) + 1
    assert all(section.panels for section in view.sections)
    # What would be uploaded.
    text = view._to_model().model_dump_json()
    assert json.loads(text)["project"] == "diffusion-dfl"


def test_what_the_panels_of_a_task_show_is_what_a_run_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = composed([*TINY, f"output.root={tmp_path}", "logger=wandb"])
    run(config)
    (folder,) = (tmp_path / "runs" / identify(config).path / "wandb").glob("offline-run-*")
    found = read_offline(folder)
    logged = {key for row in found["history"] for key in row} | found["summary"].keys()
    text = dashboard("team")._to_model().model_dump_json()
    shown = set(re.findall(r"power/(?:fit|train|test)/\w+", text))
    shown |= set(re.findall(r"(?:resources|timing)/\w+", text))
    assert {"power/train/validation_score", "power/test/task", "timing/total"} <= shown
    assert shown <= logged


def sync(*words: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "WANDB_MODE": "online"}
    return forked(ROOT / "scripts" / "wandb_sync.py", *words, environment=environment)


def test_syncing_without_runs_or_a_key_says_what_is_missing(tmp_path: Path) -> None:
    nothing = sync("--results", str(tmp_path))
    assert nothing.returncode == 1
    assert "train with logger=wandb" in nothing.stderr
    (tmp_path / "runs/a/seed-0/wandb/offline-run-x").mkdir(parents=True)
    dry = sync("--results", str(tmp_path), "--dry-run")
    assert dry.returncode == 0 and "1 offline runs" in dry.stdout
    keyless = sync("--results", str(tmp_path))
    assert keyless.returncode == 2
    assert "WANDB_API_KEY" in keyless.stderr
