# %% [markdown]
# # A budget for the worst days
# A supplier buys electricity a day ahead, with a budget for the mean of its dearest tenth of days.

# %% Data
from functools import partial

import numpy as np
import pandas as pd
import torch

import diffusion_dfl as ddfl

torch.set_num_threads(1)
LEVEL, WEIGHTS, DAYS = 0.9, (0.1, 1.0), 1000
rng, part = np.random.default_rng(0), np.array([0.5, 1.2])  # day and evening
cold, wind, drawn = rng.random((3, DAYS, 1))
tight = drawn < 0.25 * cold * (1.5 - wind)  # load and price rise together
level = 40 + 25 * cold - 25 * wind
load = 8 + 4 * cold * part + rng.normal(0.0, 0.5, (DAYS, 2)) + 3 * tight
spot = level + rng.normal(0.0, 6.0, (DAYS, 2)) + tight * rng.gamma(2.0, 60.0, (DAYS, 1)) * part
known, later = ["ahead_0", "ahead_1", "cold", "wind"], ["load_0", "load_1", "spot_0", "spot_1"]
frame = pd.DataFrame(np.hstack([level + 14 * part, cold, wind, load, spot]), columns=known + later)


# %% Program
def bill(y: torch.Tensor, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x[:2] @ z[:2] + y[2:] @ (y[:2] - z[:2])) / 100


tail = partial(ddfl.conditional_value_at_risk, bill, LEVEL, num_decisions=2, num_outcomes=4)
programs = [tail(smooth=bill, risk_weight=weight, lower=0.0, upper=20.0) for weight in WEIGHTS]
task = ddfl.task_from_frame("risk", programs[0], frame, known, later, shares=(0.6, 0.1, 0.3))

# %% Training
data, rule = task.dataset, ddfl.DecisionRule(num_scenarios=100)
fit = ddfl.TrainingSettings(epochs=150, batch_size=64, learning_rate=1e-3, ema_decay=0.99)
diffusion = partial(ddfl.DiffusionPredictor, prediction="v", sampling=ddfl.Sampling(20))
past = data.outcomes[rng.choice(data.known, 100)]
scenarios = {"saa": np.repeat(past[None], DAYS, axis=0)}
for name, kind in {"gaussian": ddfl.GaussianPredictor, "diffusion": diffusion}.items():
    fitted = ddfl.train(task, partial(kind, width=64), decision=rule, fit=fit)
    scenarios[name] = fitted.sample(data.contexts, 100)

# %% Comparison
x, y = torch.tensor(data.contexts[data.test]), torch.tensor(data.outcomes[data.test])
drawn = rng.integers(0, len(x), (1000, len(x)))  # days of the bootstrap
worst = slice(int(LEVEL * len(x)), None)
print(f"{len(x)} test days  weight  mean bill   below saa, 95 %   dearest tenth, 95 %")
for weight, program in zip(WEIGHTS, programs, strict=True):
    paid = {}
    for name, of_day in scenarios.items():
        z = rule.layer(program)(torch.tensor(of_day[data.test]), context=x)
        cost = paid[name] = torch.vmap(bill)(y, z, x).numpy()
        low, high = np.quantile(np.sort(cost[drawn])[:, worst].mean(1), [0.025, 0.975])
        gain, tail = paid["saa"] - cost, np.sort(cost)[worst].mean()
        gained = f"{gain.mean():10.2f} ± {1.96 * gain.std(ddof=1) / len(gain) ** 0.5:.2f}"
        told = f"{cost.mean():9.2f} {gained} {tail:11.2f} ({low:.2f} to {high:.2f})"
        print(f"{name:<14} {weight:5.1f} {told}")
