# %% [markdown]
# # A portfolio that costs to trade
# Every month five holdings may be changed, for 0.4 % of what is bought and of what is sold.

# %% Data
from functools import partial

import numpy as np
import pandas as pd
import torch

import diffusion_dfl as ddfl

torch.set_num_threads(1)
ASSETS, FEE, AVERSION = 5, 0.4, 0.3
rng, months = np.random.default_rng(0), 1600
signal, unrest = rng.normal(size=(months, 1)), rng.random((months, 1))
falls = (rng.random((months, 1)) < 0.4 * unrest) * rng.gamma(4.0, 2.0, (months, 1))
market = 1.5 + rng.normal(0.0, 1.5, (months, 1)) - falls
drift = 1.2 * signal * np.linspace(-1.0, 1.0, ASSETS)
returns = drift + np.linspace(0.0, 1.6, ASSETS) * market + rng.normal(size=(months, ASSETS))
held = rng.dirichlet(np.ones(ASSETS), months)
known = ["signal", "unrest", *(f"held_{asset}" for asset in range(ASSETS))]
later = [f"return_{asset}" for asset in range(ASSETS)]
frame = pd.DataFrame(np.hstack([signal, unrest, held, returns]), columns=known + later)

# %% Program
program = ddfl.TorchProgram(
    num_decisions=ASSETS, num_outcomes=ASSETS, lower=0.0,
    smooth=lambda y, z: -(y @ z) + 0.5 * AVERSION * (y @ z) ** 2,
    hinges=[ddfl.Hinge(FEE, lambda y, z, x: z - x[2:]), ddfl.Hinge(FEE, lambda y, z, x: x[2:] - z)],
    equality_matrix=torch.ones(1, ASSETS), equality_value=1.0,
)  # fmt: skip
task = ddfl.task_from_frame("portfolio", program, frame, known, later, shares=(0.5, 0.1, 0.4))

# %% Training
# Returns hang on two numbers; a network of seven would learn the rest by heart.
gaussian = partial(ddfl.GaussianPredictor, width=64, context_rank=2)
rule = ddfl.DecisionRule(num_scenarios=50)
fit = ddfl.TrainingSettings(epochs=100, batch_size=64, learning_rate=1e-3, ema_decay=0.99)
on = ddfl.TrainingSettings(epochs=4, batch_size=64, learning_rate=5e-4)
first = ddfl.train(task, gaussian, decision=rule, fit=fit)
trained = {"gaussian": first}
for name, weight in {"its twin": 0.0, "decision-focused": 1.0}.items():
    estimator = ddfl.Reparam(50, decision_weight=weight, fit_weight=0.1)
    trained[name] = ddfl.train(task, first.predictor, estimator, fit=None, train=on)

# %% Comparison
still = {"no trade": held[task.dataset.test]}
print(ddfl.compare(trained, against="saa", others=still).round(3))
