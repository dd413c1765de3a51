"""Records of runs that never were, for the tests of reports."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from diffusion_dfl.reporting.collect import collect
from diffusion_dfl.reporting.frame import frame
from diffusion_dfl.reporting.paper import ROWS
from diffusion_dfl.reporting.selection import Preset, Selection

TWIN = {"grad.decision_weight": 0.0}


def summary(
    model: str,
    grad: str,
    seed: int,
    value: float | None,
    test: Mapping[str, Any] | None = None,
    **identity: Any,
) -> dict[str, Any]:
    """summary.json of a run, of ``task=power`` unless ``identity`` says another; ``value`` is its test task."""
    return {
        "schema": 1,
        "identity": {
            "task": "power",
            "model": model,
            "grad": grad,
            "scale": "laptop",
            "source": "real",
            "seed": seed,
            "config_hash": "h",
            "source_hash": "s",
            "differs": {},
            **identity,
        },
        "test": {
            "task": value,
            "rmse_scenario": 0.1,
            "crps": None,
            "coverage_90": 0.9,
            "solver_failures": 2,
            "higher_is_better": False,
            **(test or {}),
        },
        "validation": {"task": 1.0, "diverged": False},
        "timing": {"total": 60.0},
        "resources": {"device": "cpu"},
    }


def write(root: Path, name: str, record: Any, status: str = "finished") -> None:
    """A run directory."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    (folder / "status.json").write_text(json.dumps({"status": status, "reason": "because"}))
    text = record if isinstance(record, str) else json.dumps(record)
    (folder / "summary.json").write_text(text)


def write_all(root: Path, records: list[dict[str, Any]]) -> None:
    """Run directories of their own, one a record."""
    for number, record in enumerate(records):
        write(root / "published", place(record["identity"], number), record)


def place(identity: Mapping[str, Any], number: int = 0) -> str:
    """Where a run with this identity lives, in a cell of its own."""
    cell = f"{identity['model']}-{identity['grad']}" + (f"-{number:08x}" if number else "")
    return f"{identity['scale']}/{identity['task']}/{cell}/seed-{identity['seed']}"


def frame_of(root: Path, records: list[dict[str, Any]]) -> pd.DataFrame:
    """The frame of records that are written to disk and read again."""
    write_all(root, records)
    return frame(collect(root))


def wanted(task: str = "power", source: str = "real", compare: bool = True) -> Selection:
    """A selection whose current presets all have the hash ``h``, their twins ``t``."""
    presets = {(model, grad): Preset("h", {}) for _, _, model, grad in ROWS}
    return Selection(task, "laptop", source, presets, lambda cell, differs: "t", compare)
