"""A task ties a program to data and says how decisions are judged."""

from diffusion_dfl.tasks.evaluation import Evaluation, evaluate
from diffusion_dfl.tasks.power import power_task
from diffusion_dfl.tasks.task import Task

__all__ = ["Evaluation", "Task", "evaluate", "power_task"]
