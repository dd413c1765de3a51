"""A short proof that a searched preset does what its search says: own runs of a few seeds, as a table."""

import json

import pandas as pd

from diffusion_dfl.suite.reporting.markdown import spread, table_line
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


def render(runs: pd.DataFrame, task: str) -> str:
    """The table of one task's own runs."""
    columns = [name for name in _COLUMNS if name in runs and runs[name].notna().any()]
    head = ["Model", "Grad", "Changes", "Seeds", *(_COLUMNS[name][0] for name in columns)]
    lines = [
        f"# Short proof: {task} (`python scripts/make_proof.py --task {task}`)",
        "",
        "Mean ± standard error over seeds; the last column is paired over seeds.",
        "",
        table_line([*head, "Less its twin"]),
        table_line(["---"] * (len(head) + 1)),
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
        lines.append(table_line([*cells, gain]))
    return "\n".join(lines)
