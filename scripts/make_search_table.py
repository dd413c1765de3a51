"""Tuning runs (evaluation.test=false) as a table of validation columns.

A cell's values are chosen from this table, and it is committed, before its test days are looked at.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="power")
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--write", action="store_true", help="replace results/search/<task>.md")
    arguments = parser.parse_args()
    groups: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    root = arguments.results / "runs" / arguments.scale / arguments.task
    for path in sorted(root.glob("*/seed-*/summary.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        identity = summary["identity"]
        changed = dict(identity["differs"])
        if changed.pop("evaluation.test", True) is not False or identity["source"] != "real":
            continue
        text = ", ".join(f"{key}={value}" for key, value in changed.items()) or "preset"
        groups[identity["model"], identity["grad"], text][identity["seed"]] = summary["validation"]
    lines = [
        f"# Search on validation days: {arguments.task}, scale {arguments.scale}",
        "",
        "Values are relative to the configuration at the time of the search. No test day was looked at.",
        "",
        "| Model | Grad | Changed | Validation cost | Before decision-focused training | Best epochs | Seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for (model, grad, text), runs in sorted(groups.items()):
        seeds = sorted(runs)
        cost = sum(runs[s]["task"] for s in seeds) / len(seeds)
        first = sum(runs[s]["first_task"] for s in seeds) / len(seeds)
        epochs = ", ".join(
            str(runs[s]["best_epoch"]) for s in seeds if runs[s]["best_epoch"] is not None
        )
        shown = f"{cost:.3f}" if math.isfinite(cost) else "failed"
        lines.append(
            f"| {model} | {grad} | {text} | {shown} | {first:.3f} | {epochs or '–'} | {', '.join(map(str, seeds))} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        # The committed table is the evidence for the presets: never replaced unasked.
        target = arguments.results / "search" / f"{arguments.task}.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(f"written to {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
