"""Samples that figures 1 and 11 show: from the weights of two runs, which are made where missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_dfl.files import write_text
from diffusion_dfl.predictors import Predictor
from diffusion_dfl.programs import Newsvendor, ProductAllocation
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.runs.deployed import load_finished
from diffusion_dfl.suite.runs.run import run
from diffusion_dfl.tasks.inventory import InventoryTask
from diffusion_dfl.tasks.synthetic import SyntheticTask
from diffusion_dfl.training.fitted import Fitted

#: The runs of figure 1 and figure 11, as overrides.
ONE_PRODUCT = ("task=synthetic", "task.num_products=1", "model=diffusion", "grad=two_stage")
INVENTORY = (
    ("task=inventory", "model=gaussian", "grad=reparam"),
    ("task=inventory", "model=diffusion", "grad=two_stage"),
)

_SAMPLES = 2000


def collect(results: Path) -> list[Path]:
    """Write results/figures/data/figure1.json and figure11.json; returns the paths."""
    return [
        _write(results, "figure1", figure1(results)),
        _write(results, "figure11", figure11(results)),
    ]


def figure1(results: Path) -> dict[str, Any]:
    """True and learned outcomes of one product."""
    found = _finished(results, ONE_PRODUCT)
    assert isinstance(found.task, SyntheticTask)
    program = found.task.program
    assert isinstance(program, ProductAllocation)
    true = found.task.margins.sample(np.random.default_rng(1), (_SAMPLES, 1))[:, 0]
    learned = _samples(found, found.task.dataset.contexts[:1])[0, :, 0]
    spread = np.quantile(true, [0.02, 0.5, 0.98])
    return {
        "command": "python train.py " + " ".join(ONE_PRODUCT),
        "capacity": program.capacity,
        "outcomes": np.round(spread, 2).tolist(),
        "true": np.round(true, 3).tolist(),
        "learned": np.round(learned, 3).tolist(),
    }


def figure11(results: Path) -> dict[str, Any]:
    """True densities and predicted demands of the test contexts whose optimum is lowest, in the middle
    and highest."""
    runs = {}
    for words in INVENTORY:
        _, model, grad = (word.partition("=")[2] for word in words)
        runs[f"{model}/{grad}"] = _finished(results, words)
    task = next(iter(runs.values())).task
    assert isinstance(task, InventoryTask) and isinstance(task.program, Newsvendor)
    test = task.dataset.test
    order = test[np.argsort(task.optimum[test])]
    chosen = order[[len(order) // 20, len(order) // 2, -len(order) // 20]]
    grid = np.linspace(0.0, task.program.z_max + 1.0, 200)
    contexts = []
    for title, row in zip(("low order", "middle", "high order"), chosen, strict=True):
        samples = {
            name: np.round(_samples(one, task.dataset.contexts[[row]])[0, :, 0], 3).tolist()
            for name, one in runs.items()
        }
        density = _density(task, int(row), grid)
        contexts.append(
            {
                "name": title,
                "optimum": float(task.optimum[row]),
                "true": np.round(density, 5).tolist(),
                "samples": samples,
            }
        )
    tested = task.dataset.contexts[test]
    commands = ["python train.py " + " ".join(words) for words in INVENTORY]
    return {
        "command": "; ".join(commands),
        "near_a_mode": {
            name: round(near_a_mode(_samples(one, tested, 50)[..., 0], task.mixture.means), 4)
            for name, one in runs.items()
        },
        "grid": np.round(grid, 4).tolist(),
        "contexts": contexts,
    }


def _density(task: InventoryTask, row: int, grid: np.ndarray) -> np.ndarray:
    """Of the true demand of a row."""
    weights = task.mixture.weights(task.dataset.contexts[[row]])[0]
    deviation = task.mixture.deviation
    scaled = (grid[:, None] - task.mixture.means) / deviation
    kernel = np.exp(-0.5 * scaled**2) / (deviation * np.sqrt(2 * np.pi))
    return kernel @ weights


def near_a_mode(demands: np.ndarray, modes: np.ndarray) -> float:
    """Share of the demands, of any shape, that lie within .5 of one of the modes ``(K,)``."""
    return float((np.abs(demands[..., None] - modes).min(-1) < 0.5).mean())


def _samples(found: Fitted, contexts: np.ndarray, count: int = _SAMPLES) -> np.ndarray:
    """Scenarios ``(B, M, d_y)``."""
    generator = torch.Generator().manual_seed(0)
    assert isinstance(found.predictor, Predictor)
    with torch.no_grad():
        drawn = found.predictor.sample(
            torch.as_tensor(contexts, dtype=torch.float32), count, generator
        )
    return drawn.double().numpy()


def _finished(results: Path, words: tuple[str, ...]) -> Fitted:
    config = compose_config([*words, f"output.root={results}"])
    run(config)  # Found done where it is.
    return load_finished(config)


def _write(results: Path, name: str, record: dict[str, Any]) -> Path:
    path = results / "figures" / "data" / f"{name}.json"
    write_text(path, json.dumps(record) + "\n")
    return path
