"""A small problem of one's own for tests of training: two goods in one store, rows of 80 days."""

import dataclasses

import numpy as np
import pandas as pd
import torch

import diffusion_dfl as ddfl

#: All rows in a step, so that no last sliver of a batch is left out.
WHOLE = ddfl.TrainingSettings(epochs=3, batch_size=1000, learning_rate=1e-2)
RULE = ddfl.DecisionRule(num_scenarios=6)


def store() -> ddfl.TorchProgram:
    """Orders of two goods, of which missing ones cost more than those left over."""
    return ddfl.TorchProgram(
        num_decisions=2,
        num_outcomes=2,
        smooth=lambda y, z: 0.1 * (z**2).sum(),
        hinges=[ddfl.Hinge(4.0, lambda y, z: y - z), ddfl.Hinge(1.0, lambda y, z: z - y)],
        lower=0.0,
        matrix=torch.ones(1, 2),
        limit=torch.tensor([11.0]),
    )


def task(gap: int = 0, days: int = 80) -> ddfl.FrameTask:
    """Days in order, the last training days ``gap`` ones of no part."""
    rng = np.random.default_rng(0)
    heat = rng.random(days)
    demand = 3.0 + 2.0 * heat[:, None] + rng.gamma(2.0, 0.5, (days, 2))
    frame = pd.DataFrame({"heat": heat, "room": 6.0 + heat, "a": demand[:, 0], "b": demand[:, 1]})
    made = ddfl.task_from_frame(
        "stock", store(), frame, context=["heat", "room"], outcome=["a", "b"]
    )
    data = made.dataset
    data = dataclasses.replace(data, train=data.train[: len(data.train) - gap])
    return ddfl.FrameTask(made.name, made.program, data, ("a", "b"))
