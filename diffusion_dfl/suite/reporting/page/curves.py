"""Learning curves: metrics.jsonl of runs -> mean and standard error over the seeds of a cell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion_dfl.suite.reporting.statistics import mean_and_error

#: Quantity of an epoch -> its title.
QUANTITIES: Mapping[str, str] = {
    "validation_score": "Validation score",
    "decision_cost": "Decision cost in training",
    "loss": "Training loss",
    "gradient_norm": "Gradient norm",
}

#: Of a single run, shown with it.
OWN = "validation_score"

#: Points of a curve at most; a longer one is thinned out, its ends kept.
POINTS = 200

Epochs = Mapping[str, Mapping[int, Mapping[str, float]]]  # stage -> epoch -> quantity -> value


@dataclass(frozen=True)
class Band:
    """A quantity of a cell by epoch; every list is as long as the curve's epochs.

    Attributes:
        mean: over the seeds that have the epoch; None of none.
        error: its standard error; None of fewer than two.
        count: how many seeds.
    """

    mean: list[float | None]
    error: list[float | None]
    count: list[int]


@dataclass(frozen=True)
class Curve:
    """The curves of a cell in one stage.

    Attributes:
        stage: ``fit``, ``train`` and so on.
        epochs: at which values are given.
        bands: quantity -> mean and error.
        own: `OWN` of every run, in the order they were given.
    """

    stage: str
    epochs: list[int]
    bands: Mapping[str, Band]
    own: list[list[float | None]]


def by_stage(epochs: Sequence[Mapping[str, Any]]) -> Epochs:
    """Epochs of a run by stage and number.

    A run that went on from its checkpoint may tell an epoch again; the last one holds.
    """
    stages: dict[str, dict[int, dict[str, float]]] = {}
    for told in epochs:
        stages.setdefault(told["stage"], {})[told["epoch"]] = {
            name: told[name] for name in QUANTITIES if math.isfinite(told.get(name, math.nan))
        }
    return stages


def average(runs: Sequence[Epochs]) -> list[Curve]:
    """Curves of a cell's runs, one a stage, in the order of the first run that has it."""
    stages = list(dict.fromkeys(stage for run in runs for stage in run))
    return [_stage(stage, [run.get(stage, {}) for run in runs]) for stage in stages]


def thinned(epochs: Sequence[int], most: int = POINTS) -> list[int]:
    """At most ``most`` of the epochs, evenly, the first and the last among them."""
    if len(epochs) <= most:
        return list(epochs)
    chosen = np.unique(np.linspace(0, len(epochs) - 1, most).round().astype(int))
    return [epochs[index] for index in chosen]


def _stage(stage: str, runs: Sequence[Mapping[int, Mapping[str, float]]]) -> Curve:
    epochs = thinned(sorted({epoch for run in runs for epoch in run}))
    bands = {}
    for name in QUANTITIES:
        values = [
            [run[epoch][name] for run in runs if name in run.get(epoch, {})] for epoch in epochs
        ]
        if any(values):
            pairs = [mean_and_error(one) for one in values]
            bands[name] = Band(
                [_known(mean) for mean, _ in pairs],
                [_known(error) for _, error in pairs],
                [len(one) for one in values],
            )
    own = [[run.get(epoch, {}).get(OWN) for epoch in epochs] for run in runs]
    return Curve(stage, epochs, bands, own)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
