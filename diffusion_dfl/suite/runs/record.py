"""summary.json and rows.csv: the record of a run that tables read.

    {schema, identity, sources, test, validation, timing, resources}

Only ``timing`` and ``resources`` may differ between two runs of the same configuration.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_dfl.suite.config.compose import Identity
from diffusion_dfl.suite.runs.environment import source_hash
from diffusion_dfl.suite.runs.form import SCHEMA
from diffusion_dfl.tasks import Evaluation
from diffusion_dfl.training.checkpoint import Version
from diffusion_dfl.training.learning import Trained


def make_record(
    identity: Identity,
    trained: Trained,
    result: Evaluation | None,
    baselines: dict[str, float | None],
    *,
    sources: Sequence[Version],
    higher_is_better: bool,
    solver: dict[str, int],
    seconds: dict[str, float],
    resources: dict[str, Any],
) -> dict[str, Any]:
    """The record of a finished run.

    Args:
        identity: what the run is.
        trained: what its training made.
        result: evaluation on the test rows; None leaves ``test`` empty.
        baselines: headline number of the task's plain baselines on the same rows.
        sources: versions of the source that made it, in their order.
        higher_is_better: direction of ``task``.
        solver: what the decision layer counted in training.
        seconds: of training's solves, the evaluation and the whole run.
        resources: device, threads, memory.
    """
    test: dict[str, Any] = {}
    if result is not None:
        test = {**result.metrics, "higher_is_better": higher_is_better}
        test["baselines"] = baselines
        test["num_rows"] = len(result.per_row)
    fit, train, validation = trained.fit, trained.train, trained.validation_cost
    last = train or fit
    spent = {
        kind: sum(one.seconds[kind] for label, one in trained.stages.items() if _trains(label))
        for kind in ("forward", "backward", "validation")
    }
    fitting = [one for label, one in trained.stages.items() if not _trains(label)]
    return {
        "schema": SCHEMA,
        "identity": {
            "task": identity.task,
            "model": identity.model,
            "grad": identity.grad,
            "scale": identity.scale,
            "source": identity.source,
            "seed": identity.seed,
            "config_hash": identity.config_hash,
            "source_hash": source_hash(),
            "differs": identity.differs,
        },
        "sources": [list(version) for version in sources],
        "test": test,
        "validation": {
            "task": validation,
            "first_task": _finite(train.first_score) if train is not None else validation,
            "best_epoch": train.best_epoch if train is not None else None,
            "epochs": train.epoch if train is not None else None,
            "diverged": train.diverged if train is not None else False,
            "fit_loss": _finite(fit.best_score) if fit is not None else None,
            "fit_best_epoch": fit.best_epoch if fit is not None else None,
            "refit_epochs": trained.refit_epochs,
            "solver_failures": solver["failures"],
            "solver": solver,
        },
        "timing": {
            "fit": sum(sum(one.seconds.values()) for one in fitting),
            "sampling": max(spent["forward"] - seconds["solving"], 0.0),
            "solving": seconds["solving"],
            "backward": spent["backward"],
            "validation": spent["validation"],
            "evaluation": seconds["evaluation"],
            "total": seconds["total"],
        },
        "resources": {
            **resources,
            "saved_for_backward_bytes": last.saved_bytes if last is not None else 0,
        },
    }


def _trains(label: str) -> bool:
    """Whether a stage's label is of decision-focused training."""
    return label.endswith("train")


def _finite(value: float) -> float | None:
    """None for what was never measured: a refit validates nothing."""
    return value if math.isfinite(value) else None


def write_rows(path: Path, labels: np.ndarray, result: Evaluation) -> None:
    """Headline number of every test row, ``row,task``; rows are named by date where they have one."""
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["row", "task"])
        writer.writerows(
            (str(label), f"{value:.6f}")
            for label, value in zip(labels, result.per_row, strict=True)
        )
