"""What finished runs keep in their own directories, as the archive of published ones keeps it too."""

from pathlib import Path
from typing import Any

import pandas as pd

from diffusion_dfl.files import MOST_BYTES, is_plain, read_text
from diffusion_dfl.suite.runs.form import epoch_of
from diffusion_dfl.suite.runs.trust import read_yaml


def epochs(directory: Path) -> tuple[list[dict[str, Any]], int]:
    """Epochs in metrics.jsonl, ``stage``, ``epoch`` and numbers by name, and how many lines are none."""
    try:
        text = read_text(directory / "metrics.jsonl")
    except FileNotFoundError:
        return [], 0
    except (OSError, ValueError):
        return [], 1
    lines = [epoch_of(line) for line in text.splitlines()]
    found = [dict(sorted(one.items())) for one in lines if one is not None]
    found = [{"stage": one.pop("stage"), "epoch": one.pop("epoch"), **one} for one in found]
    return found, lines.count(None)


def rows(directory: Path) -> pd.Series:
    """Headline number of every test row by its label; empty where there is no rows.csv.

    Raises:
        ValueError: it is no table of rows.
    """
    path = directory / "rows.csv"
    if not path.exists():
        return pd.Series(dtype=float)
    if not is_plain(path) or path.stat().st_size > MOST_BYTES:
        raise ValueError("its rows.csv is no table of rows")
    try:
        table = pd.read_csv(path, dtype={"row": str, "task": float})
    except (ValueError, OverflowError):
        raise ValueError("its rows.csv is no table of rows") from None
    if list(table.columns) != ["row", "task"]:
        raise ValueError("its rows.csv is no table of rows")
    return table.set_index("row")["task"]


def config(directory: Path) -> dict[str, Any]:
    """config.yaml; empty for what is missing or damaged."""
    try:
        return read_yaml(directory / "config.yaml")
    except (OSError, ValueError):
        return {}
