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

import numpy as np
import torch
from matplotlib.figure import Figure

import diffusion_dfl as ddfl
from diffusion_dfl.suite.reporting.figures.style import PALETTE, curve, legend, panels
from diffusion_dfl.tasks import SyntheticTask, synthetic_task

SCENARIOS = 1000  # The cost reads the tail, so that many.


def train(task: SyntheticTask) -> dict[str, ddfl.Fitted]:
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
    rule = ddfl.DecisionRule(num_scenarios=SCENARIOS)
    # Without an estimator: two-stage, predict and then optimise. Reparam: Eq. 5 of the paper.
    reparam = ddfl.Reparam(SCENARIOS, fit_weight=0.1)
    return {
        "point forecast": ddfl.train(task, ddfl.DeterministicPredictor, decision=rule, fit=fit),
        "diffusion": ddfl.train(task, diffusion, decision=rule, fit=fit),
        "diffusion, trained\nthrough its decision": ddfl.train(
            task, diffusion, reparam, decision=rule, fit=fit, train=dfl
        ),
    }


def draw(task: SyntheticTask, orders: dict[str, float], scenarios: dict[str, np.ndarray]) -> Figure:
    """Figure 1: costs of single scenarios, expected costs, densities."""
    look = {name: (PALETTE[index], "*Ds"[index]) for index, name in enumerate(orders)}
    grid = np.linspace(0.0, task.program.capacity, 200)
    figure, axes = panels(3, width=3.9, height=3.3)
    one, mean, density = axes.flat
    for index, outcome in enumerate((-1.5, 0.4, 0.6)):
        style = {**curve(index), "marker": ""}
        cost = np.exp(-outcome * grid)
        one.plot(grid, cost, label=f"y = {outcome}", **style)
        one.plot(grid[cost.argmin()], cost.min(), "*", color=style["color"], ms=11)
    true = task.margins.expected_cost(grid[:, None])
    mean.plot(grid, true, color="black", lw=1.5, label="true expectation")
    for name, order in orders.items():
        cost = task.margins.expected_cost(np.array([order]))
        color, marker = look[name]
        size = 11 if marker == "*" else 6
        label = f"{name}: z = {order:.2f}"
        mean.plot(order, cost, marker, color=color, ms=size, label=label)
    best = task.optimum[0]
    mean.axvline(best, ymax=0.5, color="black", lw=1, ls=":", label=f"optimum: z = {best:.2f}")
    bins = np.linspace(-2.2, 1.2, 60)
    sample = task.margins.sample(np.random.default_rng(1), (20_000,))
    density.hist(sample, bins, density=True, color="0.82", label="true")
    for (name, drawn), line in zip(scenarios.items(), ("-", "--"), strict=True):
        density.hist(
            drawn, bins, density=True, histtype="step", color=look[name][0], linestyle=line,
            lw=1.4, label=name,
        )  # fmt: skip
    one.set(title="(a) one scenario: ★ at a bound", yscale="log", ylabel="cost exp(-y z)")
    mean.set(title="(b) decisions and their true cost", ylabel="E exp(-y z)")
    density.set(title="(c) predicted margins", xlabel="margin y", ylabel="density")
    for axis in axes.flat:
        legend(axis)
    for axis in (one, mean):
        axis.set_xlabel("decision z")
    return figure


def main(folder: Path) -> None:
    begin = time.perf_counter()
    torch.set_num_threads(1)
    task = synthetic_task(
        np.random.default_rng(0), num_products=1, num_train=2000, num_validation=500
    )
    runs = train(task)
    context = task.dataset.contexts[:1]  # The task has no features: one decision for all days.
    orders = {name: float(run.decide(context).decision[0, 0]) for name, run in runs.items()}
    print(f"{'predictor':<42} decision  expected cost")
    for name, order in {**orders, "optimum": float(task.optimum[0])}.items():
        cost = float(task.margins.expected_cost(np.array([order])))
        print(f"{name.replace(chr(10), ' '):<42} {order:8.3f} {cost:14.3f}")
    scenarios = {
        name: run.sample(context, 5000)[0, :, 0]
        for name, run in runs.items()
        if run.predictor.stochastic
    }
    folder.mkdir(parents=True, exist_ok=True)
    draw(task, orders, scenarios).savefig(folder / "quickstart.png", dpi=160)
    print(f"{folder / 'quickstart.png'} in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/quickstart"))
