"""Power scheduling as the paper's released code runs it (section 6.2, appendix A.10).

The data are those of :mod:`diffusion_dfl.data.released_power`. The gradient is the printed one,
``decision.curvature=paper``: the exact program of M = 25 scenarios, whose optimum is the largest
scenario of every hour, differentiated with ``H = I``, which hands every scenario ``1/M`` of the
gradient though the largest alone moves the schedule. Its score weights come from the mask
``1{y > z}``, which at that optimum counts no scenario as short, so that the mean subgradient is
``gamma_e + z - mean(y)`` where stationarity has 0; ``kink_mask=false`` takes the solver's
subgradients instead.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_dfl.data.pjm import PJM_URL
from diffusion_dfl.data.released_power import released_power_dataset
from diffusion_dfl.programs import Instances, PowerProgram
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks.power import PowerTask, least_squares

Array = NDArray[np.float64]

#: Scenarios of the baselines ``ols_bootstrap_<M>``.
BOOTSTRAP_SIZES = (10, 25, 50, 500)
# Enough to see a quantile of the cost, few enough to be alike.
_NEIGHBOURS = 50
_BOOTSTRAP_SEED = 0


def released_power_task(
    source: str,
    rng: np.random.Generator,
    *,
    temperatures: bool = True,
    last_flat_day: bool = True,
    statistics_of_test_days: bool = True,
    random_validation_days: bool = True,
    kink_mask: bool = True,
    shortage: float = 50.0,
    excess: float = 0.5,
    ramp: float = 0.4,
    validation_fraction: float = 0.2,
    root: str | None = None,
    url: str | None = None,
    directory: str = "data",
    num_days: int = 1200,
) -> "ReleasedPowerTask":
    """Program and data of ``task=power_released``; all switches true are the release.

    Args:
        source: ``real``, or ``simulated`` with ``temperatures=False``.
        rng: stream of the validation days.
        temperatures: 120 features of temperatures that were not measured after 2011.
        last_flat_day: 2016-09-28, of which one hour is known, is a test day.
        statistics_of_test_days: features are standardised with all days.
        random_validation_days: validation is single days, not blocks.
        num_days: see there.
        validation_fraction: share of the days before the test used for validation.
        kink_mask: score weights from the mask 1{y > z}; false: stationary subgradients.
        shortage: gamma_s, cost of a unit of unmet load.
        excess: gamma_e, cost of a unit of surplus generation.
        ramp: c_r, largest change between consecutive hours.
        root, url, directory: see :func:`diffusion_dfl.tasks.power_task`.

    Raises:
        DataError: see there.
    """
    dataset = released_power_dataset(
        source,
        rng,
        temperatures=temperatures,
        last_flat_day=last_flat_day,
        statistics_of_test_days=statistics_of_test_days,
        random_validation_days=random_validation_days,
        validation_fraction=validation_fraction,
        root=None if root is None else Path(root),
        url=url or PJM_URL,
        directory=Path(directory),
        num_days=num_days,
    )
    kind = PowerProgram if kink_mask else StationaryPowerProgram
    task = ReleasedPowerTask(dataset, kind(shortage, excess, ramp, dataset.outcomes.shape[1]))
    task.all_rows_scale = statistics_of_test_days
    return task


@dataclass(frozen=True)
class StationaryPowerProgram(PowerProgram):
    """The power program whose printed formula is fed subgradients that satisfy stationarity.

    ``decision.curvature=paper`` asks a program for :meth:`masked_gradients`; these are the exact
    solver's (``sum_m omega_m g_m`` is minus the force of the ramps), so that ``H = I`` is left as
    the formula's one fault.
    """

    def masked_gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """Subgradients of the exact optimum, which ``z`` is: ``(B, M, n)``."""
        return solve(self, instances.scenarios, instances.weights).subgradients


class ReleasedPowerTask(PowerTask):
    """The released task: its schedules are judged as those of ``task=power``."""

    name = "power_released"

    def baselines(self) -> dict[str, Array]:
        """Without diffusion and without a gradient, from the days before the test.

        - ``ols_offsets`` and ``saa``: as in ``task=power``;
        - ``ols_point``: the least squares forecast itself as the schedule;
        - ``ols_bootstrap_<M>``: the program solved on the forecast plus M residual vectors drawn
          from the days before the test: what a forecast is worth to a rule that sees M scenarios;
        - ``knn_saa``: the program solved on the loads of the 50 days whose features are nearest,
          which reads the scale of the features.
        """
        return {
            **super().baselines(),
            "ols_point": self.forecast()[0],
            **{f"ols_bootstrap_{size}": self.bootstrap(size) for size in BOOTSTRAP_SIZES},
            "knn_saa": self.nearest(),
        }

    def forecast(self) -> tuple[Array, Array]:
        """Least squares forecasts of the test days ``(N, 24)`` and residuals before the test."""
        data = self.dataset
        known, forecast = least_squares(data)
        return forecast[data.test], data.outcomes[known] - forecast[known]

    def bootstrap(self, num_scenarios: int, seed: int = _BOOTSTRAP_SEED) -> Array:
        """Schedules ``(N, 24)`` for the forecast plus ``num_scenarios`` residual vectors a day."""
        forecast, residuals = self.forecast()
        rng = np.random.default_rng(seed)
        drawn = rng.integers(len(residuals), size=(len(forecast), num_scenarios))
        return self._solved(forecast[:, None, :] + residuals[drawn])

    def nearest(self) -> Array:
        """Schedules ``(N, 24)`` for the loads of the days whose features are nearest."""
        data = self.dataset
        known = np.concatenate([data.train, data.validation])
        test, before = torch.as_tensor(data.contexts[data.test]), data.contexts[known]
        distance = torch.cdist(test, torch.as_tensor(before))
        nearest = distance.topk(min(_NEIGHBOURS, len(known)), largest=False).indices.numpy()
        return self._solved(data.outcomes[known][nearest])
