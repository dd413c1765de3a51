# %% [markdown]
# # Staffing
# Shifts of four hours cover a counter that is open for eight. A coach full of customers may come, before noon or after.

# %% Data
from functools import partial

import numpy as np
import pandas as pd
import torch

import diffusion_dfl as ddfl

torch.set_num_threads(1)
HOURS, LENGTH, WAGE, WAITING = 8, 4, 1.0, 5.0
rng, hours = np.random.default_rng(0), np.arange(HOURS)
likely, warm, half, drawn = rng.random((4, 1500, 1))  # the first two are known the day before
crowd = np.exp(-0.5 * ((hours - np.where(half < 0.5, 1.5, 5.5)) / 1.2) ** 2)
mean = 4 + 4 * warm + 14 * (drawn < likely) * crowd
customers = rng.gamma(40.0, mean / 40.0)
known, later = ["likely", "warm"], [f"hour_{hour}" for hour in hours]
frame = pd.DataFrame(np.hstack([likely, warm, customers]), columns=known + later)

# %% Program
first = torch.arange(HOURS - LENGTH + 1)
late = torch.arange(HOURS)[:, None] - first
covers = ((late >= 0) & (late < LENGTH)).double()  # (hours, shifts)
program = ddfl.TorchProgram(
    num_decisions=len(first), num_outcomes=HOURS, lower=0.0,
    smooth=lambda customers, staff: WAGE * LENGTH * staff.sum() + 0.05 * (staff @ staff),
    hinges=ddfl.Hinge(WAITING, lambda customers, staff: customers - covers @ staff),
)  # fmt: skip
task = ddfl.task_from_frame("staffing", program, frame, known, later, shares=(0.4, 0.1, 0.5))

# %% Training
rule = ddfl.DecisionRule(num_scenarios=100)
fit = ddfl.TrainingSettings(epochs=60, batch_size=64, learning_rate=2e-3, ema_decay=0.99)
gaussian = partial(ddfl.GaussianPredictor, width=64)
diffusion = partial(ddfl.DiffusionPredictor, width=64)
trained = {
    "gaussian": ddfl.train(task, gaussian, decision=rule, fit=fit),
    "diffusion": ddfl.train(task, diffusion, decision=rule, fit=fit),
}

# %% Comparison
print(ddfl.compare(trained, against="saa").round(2))
