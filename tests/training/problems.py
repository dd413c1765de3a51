"""A small problem of one's own for tests of training: two hours of power, 80 days of them."""

import dataclasses

import numpy as np
import pandas as pd

import diffusion_dfl as ddfl
from diffusion_dfl.programs import PowerProgram

#: All rows in a step, so that no last sliver of a batch is left out.
WHOLE = ddfl.TrainingSettings(epochs=3, batch_size=1000, learning_rate=1e-2)
RULE = ddfl.DecisionRule(num_scenarios=6)


def task(gap: int = 0, days: int = 80) -> ddfl.FrameTask:
    """Days in order, the last training days ``gap`` ones of no part."""
    rng = np.random.default_rng(0)
    heat = rng.random(days)
    demand = 3.0 + 2.0 * heat[:, None] + rng.gamma(2.0, 0.5, (days, 2))
    frame = pd.DataFrame({"heat": heat, "room": 6.0 + heat, "a": demand[:, 0], "b": demand[:, 1]})
    made = ddfl.task_from_frame(
        "stock", PowerProgram(num_decisions=2), frame, context=["heat", "room"], outcome=["a", "b"]
    )
    data = made.dataset
    data = dataclasses.replace(data, train=data.train[: len(data.train) - gap])
    return ddfl.FrameTask(made.name, made.program, data, ("a", "b"))
