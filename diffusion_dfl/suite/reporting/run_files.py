"""What finished runs keep in their own directories, as the archive of published ones keeps it too."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def epochs(directory: Path) -> tuple[list[dict[str, Any]], int]:
    """Epochs in metrics.jsonl, ``stage``, ``epoch`` and numbers by name, and how many lines are none."""
    try:
        text = (directory / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [], 0
    found, damaged = [], 0
    for line in text.splitlines():
        try:
            told = json.loads(line)
            stage, epoch = told["stage"], told["epoch"]
        except (ValueError, LookupError, TypeError):
            damaged += 1
            continue
        if not isinstance(stage, str) or type(epoch) is not int:
            damaged += 1
            continue
        numbers = {
            name: float(told[name])
            for name in sorted(told.keys() - {"stage", "epoch"})
            if isinstance(told[name], int | float)
        }
        found.append({"stage": stage, "epoch": epoch, **numbers})
    return found, damaged


def rows(directory: Path) -> pd.Series:
    """Headline number of every test row by its label; empty where there is no rows.csv.

    Raises:
        ValueError: it is no table of rows.
    """
    path = directory / "rows.csv"
    if not path.exists():
        return pd.Series(dtype=float)
    table = pd.read_csv(path, dtype={"row": str, "task": float})
    if list(table.columns) != ["row", "task"]:
        raise ValueError(f"{path} has not the columns row and task")
    return table.set_index("row")["task"]


def config(directory: Path) -> dict[str, Any]:
    """config.yaml; empty for what is missing or damaged."""
    try:
        told = yaml.load((directory / "config.yaml").read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return told if isinstance(told, dict) else {}
