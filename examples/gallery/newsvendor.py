# %% [markdown]
# # Newsvendor with real demand
# Every evening a restaurant prepares seven ingredients for the next day.
# What is missing costs nine times what is left over.

# %% Data
from functools import partial

import numpy as np
import torch

import diffusion_dfl as ddfl
from diffusion_dfl.data import restaurant_dataset

torch.set_num_threads(1)
ITEMS = ("calamari", "fish", "shrimp", "chicken", "koefte", "lamb", "steak")
# 738 days of 2013 to 2015, known by weekday, month and year; the last 185 are the test.
data = restaurant_dataset("real", np.random.default_rng(0), features="calendar")

# %% Program
program = ddfl.Newsvendor(
    num_decisions=7, cb=9.0, ch=1.0, z_max=200.0, c0=0.0, q0=0.0, rb=0.0, rh=0.0
)
task = ddfl.FrameTask("newsvendor", program, data, ITEMS, decision_names=ITEMS)

# %% Training
# Without smoothing: the order of an item is the 90 % quantile of its scenarios.
rule = ddfl.DecisionRule(num_scenarios=300, bandwidth_scale=0.0)
fit = ddfl.TrainingSettings(
    epochs=300, batch_size=64, learning_rate=1e-3, ema_decay=0.98, patience=40
)
gaussian = partial(ddfl.GaussianPredictor, width=64, dropout=0.1)
steps = ddfl.Sampling(20, final_noise=True)
diffusion = partial(ddfl.DiffusionPredictor, width=64, prediction="v", sampling=steps)
trained = {
    "gaussian": ddfl.train(task, gaussian, decision=rule, fit=fit),
    "diffusion": ddfl.train(task, diffusion, decision=rule, fit=fit),
}

# %% Comparison
print(ddfl.compare(trained, against="saa", block=7).round(2))  # days of a week are not independent
