"""Tuning runs (``evaluation.test=false``): searches by hand, and the table of their validation columns."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_dfl.suite.reporting.markdown import table_head, table_line

#: (model, grad, what was changed) -> seed -> validation part of the summary.
Groups = Mapping[tuple[str, str, str], Mapping[int, Mapping[str, Any]]]


def tuning_runs(root: Path, source: str) -> tuple[Groups, list[Path]]:
    """Those of one data source below a folder; and records not readable."""
    groups: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    unreadable = []
    for path in sorted(root.glob("*/seed-*/summary.json")):
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            identity, validation = summary["identity"], summary["validation"]
            changed = {
                key: value
                for key, value in identity["differs"].items()
                if key not in ("data.source", "evaluation.test")
            }
            tuning = identity["differs"].get("evaluation.test") is False
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable.append(path)
            continue
        if tuning and identity["source"] == source:
            text = ", ".join(f"{key}={value}" for key, value in changed.items()) or "preset"
            groups[identity["model"], identity["grad"], text][identity["seed"]] = validation
    return groups, unreadable


def render(groups: Groups, title: str) -> str:
    """The table as Markdown. Validation is by the program's cost in every task: lower is better."""
    lines = [
        f"# Search on validation rows: {title}",
        "",
        "Values are relative to the configuration at the time of the search. No test row was looked at.",
        "",
        *table_head(
            [
                "Model",
                "Grad",
                "Changed",
                "Validation cost",
                "Before decision-focused training",
                "Best epochs",
                "Seeds",
            ]
        ),
    ]
    for (model, grad, text), runs in sorted(groups.items()):
        seeds = sorted(runs)
        epochs = ", ".join(
            str(runs[s]["best_epoch"]) for s in seeds if runs[s]["best_epoch"] is not None
        )
        cells = [model, grad, text]
        cells += [_mean([runs[s][key] for s in seeds]) for key in ("task", "first_task")]
        cells += [epochs or "–", ", ".join(map(str, seeds))]
        lines.append(table_line(cells))
    return "\n".join(lines) + "\n"


def _mean(values: list[float | None]) -> str:
    """Mean with four digits after the point for returns and with three for costs above one."""
    if any(value is None or not math.isfinite(value) for value in values):
        return "failed"
    result = math.fsum(value for value in values if value is not None) / len(values)
    return f"{result:.3f}" if abs(result) >= 0.5 else f"{result:.6f}"
