"""Power scheduling on real or simulated load (section 6.2, appendix A.10), sound protocol."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_dfl.data import Dataset, power_dataset, weather_dataset
from diffusion_dfl.data.pjm import HOURS, PJM_URL
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks.neighbours import neighbour_decisions
from diffusion_dfl.tasks.projection import project
from diffusion_dfl.tasks.task import Judgement, Task, plan_level


def power_task(
    source: str,
    rng: np.random.Generator,
    *,
    features: str = "compact",
    shortage: float = 50.0,
    excess: float = 0.5,
    ramp: float = 0.4,
    root: str | None = None,
    url: str | None = None,
    directory: str,
    file: str | None = None,
    num_days: int,
    validation_fraction: float = 0.2,
    block_weeks: int = 2,
    gap_days: int = 1,
) -> "PowerTask":
    """Program and data of ``task=power``; see :func:`diffusion_dfl.data.power_dataset`.

    Args:
        source: ``real``, ``csv`` or ``simulated``.
        rng: stream of the train/validation split.
        features: compact (the day before and the calendar) or full (lags, rolling statistics too).
        shortage: gamma_s, cost of a unit of unmet load.
        excess: gamma_e, cost of a unit of surplus generation.
        ramp: c_r, largest change between consecutive hours.
        root: folder with the two load files, or None for the environment variable or a download.
        url: where the files are downloaded from; None for their pinned address.
        directory: where downloads are kept.
        file: the user's file of hourly loads, for ``csv``.
        num_days: days of the simulated source.
        validation_fraction: share of the days before the test period used for validation.
        block_weeks: length of a validation block.
        gap_days: days left out of training on either side of a block.
    """
    dataset = power_dataset(
        source,
        rng,
        features=features,
        root=None if root is None else Path(root),
        url=url or PJM_URL,
        directory=Path(directory),
        file=file,
        num_days=num_days,
        validation_fraction=validation_fraction,
        block_weeks=block_weeks,
        gap_days=gap_days,
    )
    return PowerTask(dataset, PowerProgram(shortage, excess, ramp, dataset.outcomes.shape[1]))


def weather_task(
    source: str,
    rng: np.random.Generator,
    *,
    shortage: float = 50.0,
    excess: float = 0.5,
    ramp: float = 0.4,
    validation_fraction: float = 0.2,
    block_weeks: int = 2,
    gap_days: int = 1,
    root: str | None = None,
    url: str | None = None,
    directory: str = "data",
) -> "PowerTask":
    """Program and data of ``task=power_weather``; see :func:`diffusion_dfl.data.weather_dataset`.

    Args:
        source: ``real``.
        rng: see :func:`power_task`.
        shortage: gamma_s, cost of a unit of unmet load.
        excess: gamma_e, cost of a unit of surplus generation.
        ramp: c_r, largest change between consecutive hours.
        validation_fraction: share of the days of 2008-2010 used for validation.
        root, url, directory: see there.
        block_weeks: length of a validation block.
        gap_days: days left out of training on either side of a block.
    """
    dataset = weather_dataset(
        source,
        rng,
        validation_fraction=validation_fraction,
        block_weeks=block_weeks,
        gap_days=gap_days,
        root=None if root is None else Path(root),
        url=url or PJM_URL,
        directory=Path(directory),
    )
    task = PowerTask(dataset, PowerProgram(shortage, excess, ramp, dataset.outcomes.shape[1]))
    task.name = "power_weather"
    return task


class PowerTask(Task):
    """Schedules judged by their cost on the load that came.

    The headline number is the cost of a day, summed over its hours. ``hourly`` is the mean cost of
    each hour over the days that have a decision, None if none has. ``plan_level`` is the level that the
    schedule really has, the share of loads at or below it over days and hours; were costs linear, the
    best would be at gamma_s / (gamma_s + gamma_e).
    """

    name = "power"
    program: PowerProgram

    def __init__(self, dataset: Dataset, program: PowerProgram) -> None:
        self.dataset, self.program = dataset, program

    def judge(self, rows: NDArray[np.int64], decisions: NDArray[np.float64]) -> Judgement:
        outcome = torch.as_tensor(self.dataset.outcomes[rows])
        hourly = self.program.hourly_cost(outcome, torch.as_tensor(decisions)).numpy()
        made = hourly[~np.isnan(hourly).any(1)]
        mean = made.mean(0).tolist() if len(made) else None
        level = plan_level(self.dataset.outcomes[rows], decisions)
        return Judgement(hourly.sum(1), {"hourly": mean, "plan_level": level})

    @property
    def decision_names(self) -> tuple[str, ...]:
        return HOURS

    def baselines(self) -> dict[str, NDArray[np.float64]]:
        """All from the days before the test. ``ols_offsets``: least squares on the contexts plus, an
        hour, the constant that would have cost least (a newsvendor quantile of the residuals).
        ``saa``: one schedule for all days. ``knn_saa``: one a day, from the loads after the most
        similar contexts (:mod:`.neighbours`)."""
        data = self.dataset
        known, forecast = least_squares(data)
        residuals = torch.as_tensor(data.outcomes[known] - forecast[known])
        hours = PowerProgram(
            self.program.shortage, self.program.excess, np.inf, data.outcomes.shape[1]
        )
        offsets = solve(hours, residuals.unsqueeze(0)).decision
        decision = torch.as_tensor(forecast[data.test]) + offsets
        return {
            "ols_offsets": project(self.program, decision).numpy(),
            "saa": np.repeat(self._solved(data.outcomes[data.known][None]), len(data.test), axis=0),
            "knn_saa": neighbour_decisions(
                data,
                self._solved,
                lambda load, schedule: self.program.cost(
                    torch.as_tensor(load), torch.as_tensor(schedule)
                ).numpy(),
            ),
        }

    def _solved(self, scenarios: NDArray[np.float64]) -> NDArray[np.float64]:
        """Schedules ``(B, 24)`` of loads ``(B, M, 24)``."""
        schedules = solve(self.program, torch.as_tensor(scenarios)).decision
        found: NDArray[np.float64] = schedules.numpy()
        return found


def least_squares(data: Dataset) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Linear forecasts of all rows, fitted on those before the test: these rows, ``(N, d_y)``."""
    known = data.known
    inputs = np.column_stack([data.contexts, np.ones(len(data.contexts))])
    weights, *_ = np.linalg.lstsq(inputs[known], data.outcomes[known], rcond=None)
    forecast: NDArray[np.float64] = inputs @ weights
    return known, forecast
