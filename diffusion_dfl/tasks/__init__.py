"""A task ties a program to data and says how decisions are judged."""

from diffusion_dfl.tasks.evaluation import Evaluation, evaluate
from diffusion_dfl.tasks.frame import FrameTask, task_from_frame
from diffusion_dfl.tasks.inventory import InventoryTask, inventory_task
from diffusion_dfl.tasks.portfolio import PortfolioTask, portfolio_task
from diffusion_dfl.tasks.power import PowerTask, power_task, weather_task
from diffusion_dfl.tasks.problem import check_problem
from diffusion_dfl.tasks.projection import project
from diffusion_dfl.tasks.released import (
    ReleasedPortfolioTask,
    ReleasedPowerTask,
    ReleasedSyntheticTask,
    released_portfolio_task,
    released_power_task,
    released_synthetic_task,
)
from diffusion_dfl.tasks.restaurant import RestaurantTask, restaurant_task
from diffusion_dfl.tasks.synthetic import SyntheticTask, synthetic_task
from diffusion_dfl.tasks.task import Judgement, Task

__all__ = [
    "Evaluation",
    "FrameTask",
    "InventoryTask",
    "Judgement",
    "PortfolioTask",
    "PowerTask",
    "ReleasedPortfolioTask",
    "ReleasedPowerTask",
    "ReleasedSyntheticTask",
    "RestaurantTask",
    "SyntheticTask",
    "Task",
    "check_problem",
    "evaluate",
    "inventory_task",
    "portfolio_task",
    "power_task",
    "project",
    "released_portfolio_task",
    "released_power_task",
    "released_synthetic_task",
    "restaurant_task",
    "synthetic_task",
    "task_from_frame",
    "weather_task",
]
