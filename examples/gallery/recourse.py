# %% [markdown]
# # Stock that can be moved
# Three shops are stocked in the evening. Next day a unit may be driven to a shop that lacks it.

# %% Data
from functools import partial
from itertools import permutations

import numpy as np
import pandas as pd
import torch

import diffusion_dfl as ddfl

torch.set_num_threads(1)
SHOPS, DRIVE, MISSING, rng = 3, 0.3, 12.0, np.random.default_rng(0)
crowd, fair = rng.random((2, 900, 1))  # how large a crowd comes is known, not where
here = np.arange(SHOPS) == rng.integers(0, SHOPS, crowd.shape)
demand = 5 + 3 * fair + 16 * crowd * here + rng.normal(0.0, 0.8, here.shape)
known, later = ["crowd", "fair"], ["shop_0", "shop_1", "shop_2"]
frame = pd.DataFrame(np.hstack([crowd, fair, demand]), columns=known + later)

# %% Program
ways = list(permutations(range(SHOPS), 2))  # u: what is driven each way, then what is missing
leaves, comes = torch.eye(SHOPS, dtype=torch.float64)[torch.tensor(ways)].permute(1, 2, 0)


def limits(y: torch.Tensor, z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    driven, missing = u[: len(ways)], u[len(ways) :]
    return torch.cat([y - z - (comes - leaves) @ driven - missing, leaves @ driven - z])


recourse = ddfl.Recourse(
    num_decisions=len(ways) + SHOPS, lower=0.0, inequality=limits,
    smooth=lambda y, z, u: DRIVE * u[: len(ways)].sum() + MISSING * u[len(ways) :].sum(),
)  # fmt: skip
program = ddfl.TwoStageProgram(
    SHOPS, SHOPS, recourse, smooth=lambda y, z: 3.0 * z.sum() + 0.01 * (z @ z), lower=0.0
)
task = ddfl.task_from_frame("shops", program, frame, known, later, shares=(0.5, 0.1, 0.4))

# %% Training
rule = ddfl.DecisionRule(num_scenarios=40)
fit = ddfl.TrainingSettings(epochs=150, batch_size=64, learning_rate=2e-3, ema_decay=0.99)
kinds = {"gaussian": ddfl.GaussianPredictor, "diffusion": ddfl.DiffusionPredictor}
trained = {}
for name, kind in kinds.items():
    trained[name] = ddfl.train(task, partial(kind, width=64), decision=rule, fit=fit)

# %% Comparison
print(ddfl.compare(trained, against="saa").round(2))
