"""Tuning runs (evaluation.test=false) as a table of validation columns.

A cell's values are chosen from this table, and it is committed, before its test days are looked at.
"""

import argparse
import sys
from pathlib import Path

from diffusion_dfl.suite.pipes import piped
from diffusion_dfl.suite.reporting.selection import choices, default_source
from diffusion_dfl.suite.search.tuning import render, tuning_runs


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


if __name__ == "__main__":
    sys.exit(piped(main))
