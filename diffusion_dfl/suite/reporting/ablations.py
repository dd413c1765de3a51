"""Ablations: one setting of a cell moved at a time, and what became of the test cost.

Each axis names the command of its runs, so that its table says what is missing and how to get it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from diffusion_dfl.suite.reporting.layout import HEADLINE, layout_of
from diffusion_dfl.suite.reporting.markdown import number, spread, table_head, table_line
from diffusion_dfl.suite.reporting.selection import of_cell, selection
from diffusion_dfl.suite.reporting.statistics import Estimate, estimate, paired


@dataclass(frozen=True)
class Axis:
    """A setting that moves.

    Attributes:
        title: of its table.
        cells: ``(model, grad)`` pairs it moves in.
        changes: name of a row -> what it overrides; a value that is the preset's is its row.
        note: what to know when reading it.
    """

    title: str
    cells: tuple[tuple[str, str], ...]
    changes: Mapping[str, Mapping[str, Any]]
    note: str = ""


def _values(key: str, *values: Any) -> dict[str, dict[str, Any]]:
    return {str(value): {key: value} for value in values}


#: The ablations of a task, in the order of the report.
AXES: Mapping[str, Sequence[Axis]] = {
    "power": (
        Axis(
            "Decision rule: bandwidth c of the convolved program, 0 for the exact one",
            (("gaussian", "two_stage"), ("diffusion", "two_stage"), ("gaussian", "reparam")),
            _values("decision.bandwidth_scale", 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
            "A two-stage row moves its rule only; a decision-focused one is trained by it too.",
        ),
        Axis(
            "Scenarios M",
            (("gaussian", "two_stage"), ("gaussian", "score"), ("diffusion", "two_stage")),
            _values("decision.num_scenarios", 25, 50, 100, 200),
        ),
        Axis(
            "Scenarios M of the diffusion's score",
            (("diffusion", "score"),),
            _values("decision.num_scenarios", 10, 50, 100, 200),
        ),
        Axis(
            "Timesteps k and how they are drawn",
            (("diffusion", "score"),),
            {
                "k = 1, stratified": {"model.num_elbo_timesteps": 1},
                "k = 2, stratified": {"model.num_elbo_timesteps": 2},
                "k = 10, stratified": {"model.num_elbo_timesteps": 10},
                "k = 2, uniform": {"model.elbo_timesteps": "uniform"},
                "k = 2, importance": {"model.elbo_timesteps": "importance"},
            },
        ),
        Axis(
            "Sampler: steps S and noise",
            (("diffusion", "two_stage"),),
            {
                **{
                    f"ancestral, S = {steps}": {"model.num_sampling_steps": steps}
                    for steps in (5, 10, 20, 50)
                },
                "ddim, eta = 1, S = 10": {"model.sampler": "ddim"},
                "ddim, eta = 0.5, S = 10": {"model.sampler": "ddim", "model.eta": 0.5},
                "ddim, eta = 0, S = 10": {
                    "model.sampler": "ddim",
                    "model.eta": 0.0,
                    "model.final_noise": False,
                },
            },
            "The same weights, sampled otherwise.",
        ),
        Axis(
            "Score by ELBO and of the sampled path, M = 100",
            (("diffusion", "score"), ("diffusion", "score_path")),
            _values("decision.num_scenarios", 100),
            "The preset of `score` has M = 200; that of `score_path` has an epoch less.",
        ),
        Axis(
            "Curvature",
            (("gaussian", "reparam"),),
            _values("decision.curvature", "convolved", "saa", "paper"),
            "`saa`: the exact sample program; `paper`: it, with the printed formula for its gradient.",
        ),
        Axis(
            "Denoising weight beside the decision loss",
            (("diffusion", "score"),),
            _values("grad.fit_weight", 0.0, 0.1, 1.0, 10.0),
        ),
    ),
}


def commands(task: str, seeds: str = "0-4") -> list[str]:
    """The commands behind the tables: one a cell and axis where one key moves, else one a row."""
    lines = []
    for axis in AXES[task]:
        keys = {tuple(changes) for changes in axis.changes.values()}
        alike = len(keys) == 1 and len(next(iter(keys))) == 1
        for model, grad in axis.cells:
            start = f"python train.py task={task} model={model} grad={grad}"
            if alike:
                ((key,),) = keys
                values = ",".join(_typed(changes[key]) for changes in axis.changes.values())
                lines.append(f"{start} {key}={values} -m seed={seeds}")
                continue
            for changes in axis.changes.values():
                words = " ".join(f"{key}={_typed(value)}" for key, value in changes.items())
                lines.append(f"{start} {words} -m seed={seeds}")
    return list(dict.fromkeys(lines))


def _typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def table(
    runs: pd.DataFrame,
    task: str,
    scale: str,
    source: str | None = None,
) -> str:
    """Markdown of all ablations of a task.

    Args:
        runs: :func:`diffusion_dfl.suite.reporting.frame.frame`.
        task, scale, source: as on the command line; the source is the task's default.
    """
    wanted = selection(runs, task, scale, source)
    layout = layout_of(task)
    lines = [f"# Ablations: {layout.title}", ""]
    lines += [
        f"{layout.quantity.capitalize()}{layout.unit} on the test rows, mean ± standard error over "
        "seeds, seeds in brackets; beside it the paired difference to the cell's preset (marked *), "
        "on the seeds both have, from five seeds on with its 95 % interval; where that includes zero, "
        "or there is none, no difference is claimed.",
        "",
    ]
    for axis in AXES[task]:
        lines += [f"## {axis.title}", ""]
        heads = [f"{model}/{grad}" for model, grad in axis.cells]
        titles = ["", *(text for head in heads for text in (head, "to the preset"))]
        lines += table_head(titles)
        presets = {cell: of_cell(runs, wanted, cell) for cell in axis.cells}
        for name, changes in axis.changes.items():
            row = [name]
            for cell in axis.cells:
                row += _entry(
                    of_cell(runs, wanted, cell, changes, _hash(presets[cell])), presets[cell]
                )
            lines.append(table_line(row))
        lines += ["", axis.note, ""] if axis.note else [""]
    return "\n".join(lines)


def _hash(preset: pd.DataFrame) -> str | None:
    return str(preset["preset"].iloc[0]) if len(preset) else None


def _entry(runs: pd.DataFrame, preset: pd.DataFrame) -> list[str]:
    if runs.empty:
        return ["missing", "–"]
    values = runs.set_index("seed")[HEADLINE]
    found: Estimate = estimate(values.tolist())
    is_preset = bool((runs["config_hash"] == runs["preset"]).all())
    text = f"{spread(found, 3)} ({found.count})" + (" *" if is_preset else "")
    if is_preset or preset.empty:
        return [text, "–"]
    difference = paired(values, preset.set_index("seed")[HEADLINE])
    if not difference.count:
        return [text, "–"]
    if math.isnan(difference.low):
        return [text, spread(difference, 3)]
    ends = f"[{number(difference.low, 3)}, {number(difference.high, 3)}]"
    mark = {1: " above", -1: " below", 0: ""}[difference.side()]
    return [text, f"{spread(difference, 3)} {ends}{mark}"]
