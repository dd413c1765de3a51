"""The released protocol: tasks as the paper's released code has them, each quirk a switch.

They exist so that published numbers can be explained (docs/released.md); conclusions belong to the
sound tasks beside them.
"""

from diffusion_dfl.tasks.released.portfolio import (
    ReleasedPortfolioTask,
    released_portfolio_task,
)
from diffusion_dfl.tasks.released.power import ReleasedPowerTask, released_power_task
from diffusion_dfl.tasks.released.synthetic import ReleasedSyntheticTask, released_synthetic_task

__all__ = [
    "ReleasedPortfolioTask",
    "ReleasedPowerTask",
    "ReleasedSyntheticTask",
    "released_portfolio_task",
    "released_power_task",
    "released_synthetic_task",
]
