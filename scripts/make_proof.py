"""A short proof that a searched preset does what its search says: own runs of a few seeds, as a table.

    python train.py task=power model=gaussian,diffusion grad=two_stage,reparam -m seed=0-2
    python scripts/make_proof.py --task power --write

One line a configuration found in results/runs: test cost, the 90 % intervals' coverage, the level that the
plan really has, seconds, and the difference, paired over seeds, to the same run with decision weight 0.
Few seeds make no table of results: make table1 has those.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.markdown import spread
from diffusion_dfl.suite.reporting.roles import is_twin
from diffusion_dfl.suite.reporting.statistics import estimate, paired

_COLUMNS = {
    "test.task": ("Test", 3),
    "test.task_exact": ("Exact rule", 3),
    "test.regret": ("Regret", 3),
    "test.crps": ("CRPS", 4),
    "test.coverage_90": ("Coverage 90 %", 3),
    "test.plan_level": ("Plan level", 4),
    "timing.total": ("Seconds", 0),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", required=True)
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--write", action="store_true", help="to results/search/<task>-proof.md")
    arguments = parser.parse_args()
    runs = frame(collect(arguments.results))
    if not runs.empty:
        own = ~runs["published"].astype(bool)
        runs = runs[own & (runs["task"] == arguments.task) & (runs["scale"] == arguments.scale)]
    if runs.empty:
        parser.error(
            f"{arguments.results}/runs holds no finished run of task={arguments.task} "
            f"scale={arguments.scale}; make some with train.py"
        )
    text = render(runs, arguments.task)
    print(text)
    if arguments.write:
        path = arguments.results / "search" / f"{arguments.task}-proof.md"
        path.write_text(text + "\n", encoding="utf-8")
    return 0


def render(runs: pd.DataFrame, task: str) -> str:
    """The table of one task's own runs."""
    columns = [name for name in _COLUMNS if name in runs and runs[name].notna().any()]
    head = ["Model", "Grad", "Changes", "Seeds", *(_COLUMNS[name][0] for name in columns)]
    lines = [
        f"# Short proof: {task} (`python scripts/make_proof.py --task {task}`)",
        "",
        "Mean ± standard error over seeds; the last column is paired over seeds.",
        "",
        _line([*head, "Less its twin"]),
        _line(["---"] * (len(head) + 1)),
    ]
    groups = {
        (str(model), str(grad), str(differs)): found.set_index("seed").sort_index()
        for (model, grad, differs), found in runs.groupby(["model", "grad", "differs"], sort=True)
    }
    for (model, grad, differs), found in groups.items():
        changes = json.loads(differs)
        cells = [model, grad, ", ".join(f"{key}={value}" for key, value in changes.items()) or "–"]
        cells.append(", ".join(str(seed) for seed in found.index))
        for name in columns:
            cells.append(spread(estimate(found[name].dropna().tolist()), _COLUMNS[name][1]))
        twin = next(
            (
                other
                for (of_model, of_grad, told), other in groups.items()
                if (of_model, of_grad) == (model, grad) and is_twin(json.loads(told))
            ),
            None,
        )
        gain = "–"
        if twin is not None and not is_twin(changes):
            gain = spread(paired(found["test.task"], twin["test.task"]), 3)
        lines.append(_line([*cells, gain]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
