"""The paper's Figure 1 from Python: why decide on a learned distribution, not on a point forecast.

    python examples/quickstart.py [FOLDER]

A product makes a margin y a unit: a small gain nine times in ten, else a large loss. How much of it to
make, z in [0, 2], minimises the expected disutility E exp(-y z). Three predictors of y are trained, the
last one through its decision as well, and quickstart.png is drawn in FOLDER (results/quickstart).
Under a minute on one core.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import diffusion_dfl as ddfl

SCENARIOS = 1000  # The cost reads the tail, so that many.
GAIN, LOSS, CHANCE, WIDTH = 0.5, -1.5, 0.9, 0.075  # Means of a margin, chance of a gain, deviation.
NEXT = "python train.py task=power model=gaussian grad=reparam"
GRID = np.linspace(0.0, 2.0, 401)  # All that can be made.


def margins(rng: np.random.Generator, count: int) -> np.ndarray:
    """What a unit made on each of so many days, ``(count,)``."""
    mean = np.where(rng.random(count) < CHANCE, GAIN, LOSS)
    return mean + WIDTH * rng.standard_normal(count)


def expected_cost(z: Any) -> Any:
    """E exp(-y z) of a decision or an array of them, which no predictor knows."""
    gain, loss = np.exp(-GAIN * z), np.exp(-LOSS * z)
    return np.exp((WIDTH * z) ** 2 / 2) * (CHANCE * gain + (1 - CHANCE) * loss)


def make_task() -> ddfl.FrameTask:
    """Margins of 2600 days, of which nothing is known beforehand."""
    frame = pd.DataFrame({"nothing": 1.0, "margin": margins(np.random.default_rng(0), 2600)})
    program = ddfl.ProductAllocation(num_decisions=1, capacity=GRID[-1])
    task = ddfl.task_from_frame(
        "margins", program, frame, ["nothing"], ["margin"], source="simulated",
        shares=(0.75, 0.2, 0.05),
    )  # fmt: skip
    task.pooled = True  # One decision for all days.
    return task


def train(task: ddfl.Task) -> dict[str, ddfl.Fitted]:
    """Name -> predictor trained on the task, with its decision rule."""
    # A predictor is a class or function of (context size, outcome size); train() makes it.
    sampling = ddfl.Sampling(
        num_sampling_steps=20, sampler="ancestral", variance="beta", final_noise=True
    )
    diffusion = partial(ddfl.DiffusionPredictor, width=64, prediction="v", sampling=sampling)
    fit = ddfl.TrainingSettings(epochs=150, batch_size=256, learning_rate=2e-3, ema_decay=0.99)
    dfl = ddfl.TrainingSettings(
        epochs=10, batch_size=256, learning_rate=1e-3, decay="cosine", keep="last"
    )
    # Without an estimator: two-stage, predict and then optimise. Reparam: Eq. 5 of the paper.
    reparam = ddfl.Reparam(SCENARIOS, fit_weight=0.1)
    parts: dict[str, tuple[Any, ddfl.Estimator | None]] = {
        "point forecast": (ddfl.DeterministicPredictor, None),
        "diffusion": (diffusion, None),
        "diffusion, trained through its decision": (diffusion, reparam),
    }
    rule = ddfl.DecisionRule(num_scenarios=SCENARIOS)
    trained = {}
    for name, (predictor, estimator) in parts.items():
        print(f"training: {name}", flush=True)
        trained[name] = ddfl.train(task, predictor, estimator, decision=rule, fit=fit, train=dfl)
    return trained


def draw(orders: dict[str, float], scenarios: dict[str, np.ndarray]) -> Figure:
    """Figure 1: costs of single scenarios, expected costs, densities."""
    look = dict(zip(orders, (("C0", "*"), ("C1", "D"), ("C2", "s")), strict=True))
    figure = Figure(figsize=(11.7, 3.3), layout="constrained")
    one, mean, density = figure.subplots(1, 3)
    for outcome in (-1.5, 0.4, 0.6):
        cost = np.exp(-outcome * GRID)
        (line,) = one.plot(GRID, cost, label=f"y = {outcome}")
        one.plot(GRID[cost.argmin()], cost.min(), "*", color=line.get_color(), ms=11)
    cost = expected_cost(GRID)
    best = GRID[cost.argmin()]
    mean.plot(GRID, cost, color="black", label="true expectation")
    for name, order in orders.items():
        color, marker = look[name]
        label = f"{name.replace(', ', ',' + chr(10))}: z = {order:.2f}"
        mean.plot(order, expected_cost(order), marker, color=color, ms=9, label=label)
    mean.axvline(best, ymax=0.5, color="black", lw=1, ls=":", label=f"optimum: z = {best:.2f}")
    bins = np.linspace(-2.2, 1.2, 60)
    sample = margins(np.random.default_rng(1), 20_000)
    density.hist(sample, bins, density=True, color="0.82", label="true")
    for name, drawn in scenarios.items():
        style = {"histtype": "step", "color": look[name][0], "lw": 1.4}
        density.hist(drawn, bins, density=True, label=name, **style)
    one.set(title="(a) one scenario: ★ at a bound", yscale="log", ylabel="cost exp(-y z)")
    mean.set(title="(b) decisions and their true cost", ylabel="E exp(-y z)")
    density.set(title="(c) predicted margins", xlabel="margin y", ylabel="density")
    for axis in (one, mean, density):
        axis.legend(fontsize=7, frameon=False)
    for axis in (one, mean):
        axis.set_xlabel("decision z")
    return figure


def main(folder: Path) -> None:
    begin = time.perf_counter()
    torch.set_num_threads(1)
    task = make_task()
    runs = train(task)
    context = task.dataset.contexts[:1]
    orders = {name: float(run.decide(context).decision[0, 0]) for name, run in runs.items()}
    best = float(GRID[expected_cost(GRID).argmin()])
    print(f"\n{'predictor':<42} decision  expected cost")
    for name, order in {**orders, "optimum": best}.items():
        print(f"{name:<42} {order:8.3f} {expected_cost(order):14.3f}")
    scenarios = {
        name: run.sample(context, 5000)[0, :, 0]
        for name, run in runs.items()
        if run.predictor.stochastic
    }
    folder.mkdir(parents=True, exist_ok=True)
    draw(orders, scenarios).savefig(folder / "quickstart.png", dpi=160)
    print(f"\n{folder / 'quickstart.png'} in {time.perf_counter() - begin:.0f} s")
    print(f"Next, a run on real load (docs/first_hour.md):\n\n    {NEXT}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/quickstart"))
