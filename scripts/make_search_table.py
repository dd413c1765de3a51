"""Tuning runs (evaluation.test=false) as a table of validation columns.

A cell's values are chosen from this table, and it is committed, before its test days are looked at.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_dfl.suite.reporting.selection import choices, default_source

Groups = Mapping[tuple[str, str, str], Mapping[int, Mapping[str, Any]]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=choices("task"), default="power")
    parser.add_argument("--scale", choices=choices("scale"), default="laptop")
    parser.add_argument(
        "--data", choices=choices("data"), help="data source of the runs; the task's default"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--write", action="store_true", help="replace results/search/<task>.md")
    arguments = parser.parse_args()
    source = arguments.data or default_source(arguments.task)
    groups, unreadable = tuning_runs(
        arguments.results / "runs" / arguments.scale / arguments.task, source
    )
    text = render(groups, f"{arguments.task}, {source} data, scale {arguments.scale}")
    print(text)
    for path in unreadable:
        print(f"left out: {path} is no whole record")
    if arguments.write:
        if not groups:
            parser.error(
                f"--write: no tuning runs (evaluation.test=false) of task={arguments.task} with "
                f"data={source} in {arguments.results}; the committed table stays"
            )
        # The committed table is the evidence for the presets: never replaced unasked.
        target = arguments.results / "search" / f"{arguments.task}.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(f"written to {target}")
    return 0


def tuning_runs(root: Path, source: str) -> tuple[Groups, list[Path]]:
    """(model, grad, what was changed) -> seed -> validation part; and records not readable."""
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
        "| Model | Grad | Changed | Validation cost | Before decision-focused training | Best epochs | Seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for (model, grad, text), runs in sorted(groups.items()):
        seeds = sorted(runs)
        epochs = ", ".join(
            str(runs[s]["best_epoch"]) for s in seeds if runs[s]["best_epoch"] is not None
        )
        cells = [model, grad, text]
        cells += [mean([runs[s][key] for s in seeds]) for key in ("task", "first_task")]
        cells += [epochs or "–", ", ".join(map(str, seeds))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def mean(values: list[float | None]) -> str:
    """Mean with four digits after the point for returns and with three for costs above one."""
    if any(value is None or not math.isfinite(value) for value in values):
        return "failed"
    result = math.fsum(value for value in values if value is not None) / len(values)
    return f"{result:.3f}" if abs(result) >= 0.5 else f"{result:.6f}"


if __name__ == "__main__":
    sys.exit(main())
