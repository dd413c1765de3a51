# %% [markdown]
# # Battery arbitrage
# A battery buys and sells in eight blocks of the next day, at prices that are not known yet.

# %% Data
from functools import partial

import numpy as np
import pandas as pd
import torch

import diffusion_dfl as ddfl

torch.set_num_threads(1)
BLOCKS, POWER, CAPACITY, EFFICIENCY = 8, 1.0, 2.0, 0.9
rng, hours = np.random.default_rng(0), np.arange(BLOCKS)
wind, sun, cold = rng.random((3, 1200, 1))
load = (
    0.55 + 0.25 * cold + 0.15 * np.sin((hours - 2.5) / 4 * np.pi) + rng.normal(0, 0.05, (1200, 8))
)
load -= 0.45 * sun * np.exp(-0.5 * (hours - 4) ** 2) + wind * np.linspace(0.42, 0.14, BLOCKS)
price = 40 * load + 360 * np.maximum(load - 0.6, 0) - 60 * np.maximum(0.15 - load, 0)
price *= rng.gamma(8.0, 1 / 8.0, wind.shape)
known, later = ["wind", "sun", "cold"], [f"price_{hour}" for hour in hours]
frame = pd.DataFrame(np.hstack([wind, sun, cold, price]), columns=known + later)

# %% Program
so_far = torch.tril(torch.ones(BLOCKS, BLOCKS))  # z: what is bought, then what is sold
charge = torch.cat([EFFICIENCY * so_far, -so_far / EFFICIENCY], 1)
program = ddfl.TorchProgram(
    num_decisions=2 * BLOCKS, num_outcomes=BLOCKS, lower=0.0, upper=POWER,
    smooth=lambda price, z: price @ (z[:BLOCKS] - z[BLOCKS:]),
    matrix=torch.cat([charge, -charge]), limit=[CAPACITY] * BLOCKS + [0.0] * BLOCKS,
)  # fmt: skip
task = ddfl.task_from_frame("battery", program, frame, known, later, shares=(0.4, 0.1, 0.5))

# %% Training
fit = ddfl.TrainingSettings(epochs=150, batch_size=64, learning_rate=5e-3)
on = ddfl.TrainingSettings(epochs=10, batch_size=64, learning_rate=1e-2)
bent = ddfl.DecisionRule(1, regularise=ddfl.Regulariser(5.0))
linear = partial(ddfl.DeterministicPredictor, layers=0)  # in the context, which prices are not
point = ddfl.train(task, linear, fit=fit)
noisy = partial(ddfl.GaussianPredictor, layers=0)
gaussian = ddfl.train(task, noisy, decision=ddfl.DecisionRule(10), fit=fit)
trained = {}
for told, weight in {"its twin": 0.0, "decision-focused": 1.0}.items():
    path = ddfl.Reparam(1, decision_weight=weight, fit_weight=0.1)
    score = ddfl.SetScore(10, num_sets=8, decision_weight=weight, fit_weight=0.3)
    for of, begun, estimator, rule in (
        ("point", point, path, bent),
        ("gaussian", gaussian, score, None),
    ):
        trained[f"{of}, {told}"] = ddfl.train(
            task, begun.predictor, estimator, decision=rule, fit=None, train=on
        )

# %% Comparison
print(ddfl.compare(trained, against="saa").round(2))
