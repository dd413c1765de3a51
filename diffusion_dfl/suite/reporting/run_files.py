"""What finished runs keep in their own directories, as the archive of published ones keeps it too."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from diffusion_dfl.files import MOST_BYTES, read_text
from diffusion_dfl.suite.runs.trust import read_yaml


def epochs(directory: Path) -> tuple[list[dict[str, Any]], int]:
    """Epochs in metrics.jsonl, ``stage``, ``epoch`` and numbers by name, and how many lines are none."""
    try:
        text = read_text(directory / "metrics.jsonl")
    except FileNotFoundError:
        return [], 0
    except (OSError, ValueError):
        return [], 1
    found, damaged = [], 0
    for line in text.splitlines():
        try:
            told = json.loads(line)
            stage, epoch = told["stage"], told["epoch"]
            numbers = {
                name: float(told[name])
                for name in sorted(told.keys() - {"stage", "epoch"})
                if isinstance(told[name], int | float)
            }
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ):
            damaged += 1
            continue
        if not isinstance(stage, str) or type(epoch) is not int:
            damaged += 1
            continue
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
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError("its rows.csv is no table of rows")
    table = pd.read_csv(path, dtype={"row": str, "task": float})
    if list(table.columns) != ["row", "task"]:
        raise ValueError("its rows.csv is no table of rows")
    return table.set_index("row")["task"]


def config(directory: Path) -> dict[str, Any]:
    """config.yaml; empty for what is missing or damaged."""
    try:
        return read_yaml(directory / "config.yaml")
    except (OSError, ValueError):
        return {}
