"""``benchmark.py training``: a training step against its floor, the matrix products it cannot avoid.

The step is that of ``task=power model=diffusion grad=score`` at laptop scale, on a predictor that was
fitted for a moment, so that decisions are of the usual difficulty. The floor is the time that the
products of the step's linear layers take alone, into memory that is there already: sampling forward,
the surrogate forward and backward in chunks of the same size. Both are measured in turns, as CPU time
of one thread.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

import diffusion_dfl.estimators.score as score_module
from benchmarks.measure import one_thread
from benchmarks.report import environment
from diffusion_dfl.estimators import Batch, Estimator
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DiffusionPredictor, Predictor
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.runs.compile import make_estimator, make_predictor
from diffusion_dfl.tasks import PowerTask, power_task

GOAL = 2.0
#: The sizes of the step: those of the preset, and the fewer scenarios with more timesteps each.
CASES = {
    "preset": [],
    "M=100, k=4": ["decision.num_scenarios=100", "model.num_elbo_timesteps=4"],
}
#: Cells measured for comparison, by overrides of the same configuration.
OTHERS = {
    "two_stage": ["grad=two_stage"],
    "score_path": ["grad=score_path", "model.final_noise=true"],
    "reparam": ["grad=reparam"],
    "reparam, checkpoint": ["grad=reparam", "grad.backpropagation=checkpoint"],
    "reparam, last 2 steps": ["grad=reparam", "grad.backpropagation=last", "grad.last_steps=2"],
}


@dataclass
class Seconds:
    """CPU seconds of one step, or of its floor, by part."""

    parts: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", choices=["real", "simulated"], default="simulated")
    parser.add_argument("--repeats", type=int, default=20, help="turns of step and floor")
    parser.add_argument("--scale", default="laptop", help="laptop or smoke (to try it out)")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the files, print the table; 1 if a step misses its goal."""
    one_thread()
    torch.manual_seed(0)
    task = _task(_config(arguments, []))
    weights = Bench(_config(arguments, ["grad=score"]), task).predictor.state_dict()
    cases = [
        _case(name, Bench(_config(arguments, ["grad=score", *sizes]), task, weights), arguments)
        for name, sizes in CASES.items()
    ]
    others = {}
    for name, overrides in OTHERS.items():
        other = Bench(_config(arguments, overrides), task, weights)
        other.step()
        times = [other.step().total for _ in range(max(arguments.repeats // 4, 3))]
        others[name] = statistics.median(times)
    record: dict[str, Any] = {
        "command": _command(arguments),
        "environment": environment(),
        "goal": GOAL,
        "cases": cases,
        "other_steps_seconds": others,
    }
    text = markdown(record)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "training.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    (arguments.output / "training.md").write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(case["ratio"] <= GOAL for case in cases) else 1


def _case(name: str, bench: "Bench", arguments: argparse.Namespace) -> dict[str, Any]:
    """Step and floor in turns, the first two thrown away."""
    floor = Floor(bench.predictor, bench.config)
    turns = [(bench.step(), floor.run()) for _ in range(arguments.repeats + 2)][2:]
    ratios = sorted(step.total / least.total for step, least in turns)
    return {
        "name": name,
        "sizes": bench.sizes(),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "step_seconds": _medians([step for step, _ in turns]),
        "floor_seconds": _medians([least for _, least in turns]),
    }


def _config(arguments: argparse.Namespace, overrides: list[str]) -> DictConfig:
    cell = ["task=power", f"data={arguments.data}", "model=diffusion", f"scale={arguments.scale}"]
    return compose_config([*cell, *overrides])


def _task(config: DictConfig) -> PowerTask:
    return power_task(
        config.data.source,
        np.random.default_rng(0),
        root=config.data.root,
        url=config.data.url,
        directory=config.data.directory,
        num_days=config.data.num_days,
        validation_fraction=config.task.validation_fraction,
        block_weeks=config.task.block_weeks,
        gap_days=config.task.gap_days,
    )


class Bench:
    """A cell of the configuration, ready to take steps on one batch.

    Args:
        config: the composed configuration.
        task: its data and program.
        weights: of the predictor; fitted here if None.
    """

    def __init__(
        self, config: DictConfig, task: PowerTask, weights: dict[str, Tensor] | None = None
    ) -> None:
        self.config, self.generator = config, torch.Generator().manual_seed(0)
        data, settings = task.dataset, config.decision
        rows = [
            torch.as_tensor(part[data.train]).float() for part in (data.contexts, data.outcomes)
        ]
        predictor = make_predictor(config, rows[0].shape[1], rows[1].shape[1])
        assert isinstance(predictor, DiffusionPredictor)
        self.predictor = predictor
        self.predictor.fit_scaling(*rows)
        if weights is None:
            _fit(self.predictor, *rows)
        else:
            self.predictor.load_state_dict(weights)
        self.predictor.train(config.train.dropout)
        self.estimator: Estimator = make_estimator(config)
        self.layer = DecisionLayer(
            task.program, settings.bandwidth_scale, sample_size=settings.num_scenarios
        )
        stride = max(len(rows[0]) // config.train.batch_size, 1)
        chosen = slice(0, stride * config.train.batch_size, stride)
        self.batch = Batch(rows[0][chosen].contiguous(), rows[1][chosen].contiguous())
        # Steps too small to change the work.
        trained = [weight for weight in self.predictor.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-8)

    def step(self) -> Seconds:
        """One step of training; solving is the decision layer with its adjoint."""
        parts = {"sampling": 0.0, "solving": 0.0, "optimiser": 0.0}
        begin = time.process_time()
        with (
            _timed(self.predictor, "sample", parts, "sampling"),
            _timed(score_module, "score_weights", parts, "solving"),
        ):
            loss = self.estimator(self.predictor, self.layer, self.batch, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.value.backward()
        after = time.process_time()
        torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), 10.0)
        self.optimizer.step()
        end = time.process_time()
        parts["optimiser"] = end - after
        parts["surrogate"] = end - begin - sum(parts.values())
        return Seconds(parts)

    def sizes(self) -> dict[str, Any]:
        """What was measured."""
        solution = self.layer.last_solution
        assert solution is not None
        model = self.config.model
        return {
            "batch": len(self.batch),
            "num_scenarios": self.config.decision.num_scenarios,
            "num_elbo_timesteps": model.num_elbo_timesteps,
            "num_sampling_steps": model.num_sampling_steps,
            "width": model.width,
            "layers": model.layers,
            "chunk_rows": model.chunk_rows,
            "context_size": self.predictor.context_size,
            "outcome_size": self.predictor.outcome_size,
            "source": self.config.data.source,
            "instances_with_binding_ramps": int((solution.duals > 0).any(1).sum()),
        }


@contextmanager
def _timed(owner: Any, name: str, parts: dict[str, float], part: str) -> Iterator[None]:
    """Add the time of a function to a part while this lasts."""
    original: Callable[..., Any] = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = time.process_time()
        result = original(*args, **kwargs)
        parts[part] += time.process_time() - begin
        return result

    with patch.object(owner, name, timed):
        yield


def _fit(predictor: DiffusionPredictor, contexts: Tensor, outcomes: Tensor) -> None:
    """A few hundred steps of the two-stage fit, of the base first."""
    generator = torch.Generator().manual_seed(1)
    members: list[Predictor] = []
    for member in () if predictor.base is None else predictor.base.members:
        assert isinstance(member, Predictor)
        member.fit_scaling(contexts, outcomes)
        members.append(member)
    for stage in (*members, predictor):
        if stage is not predictor:
            stage.requires_grad_(True)
        optimizer = torch.optim.AdamW(
            [one for one in stage.parameters() if one.requires_grad], lr=1e-3
        )
        for _ in range(400):
            rows = torch.randint(len(contexts), (256,), generator=generator)
            optimizer.zero_grad()
            stage.loss(contexts[rows], outcomes[rows], generator).backward()
            optimizer.step()
        if stage is not predictor:
            stage.requires_grad_(False).eval()


class Floor:
    """The matrix products of a step, on random matrices."""

    def __init__(self, predictor: DiffusionPredictor, config: DictConfig) -> None:
        denoiser = predictor.denoiser
        self.rows = denoiser.row_layers()
        self.context = [denoiser.from_context]
        self.times = [layer for layer in denoiser.from_time if isinstance(layer, nn.Linear)]
        self.batch, self.chunk = config.train.batch_size, config.model.chunk_rows
        self.samples = self.batch * config.decision.num_scenarios
        self.steps = config.model.num_sampling_steps
        self.num_timesteps = len(predictor.elbo.timesteps)
        self.repeats = self.samples * config.model.num_elbo_timesteps

    def run(self) -> Seconds:
        """Sampling: forward. Surrogate and two-stage loss: forward and backward."""
        forward = _products(self.rows, self.chunk, backward=False)
        both = _products(self.rows, self.chunk, backward=True)
        shared = [
            _products(self.context, self.batch, backward=False),
            _products(self.times, self.steps, backward=False),
        ]
        shared_both = [
            *[_products(self.context, self.batch, backward=True)] * 2,
            _products(self.times, self.num_timesteps, backward=True),
            _products(self.times, self.batch, backward=True),
            _products(self.rows, self.batch, backward=True),
        ]
        sampling = _seconds(forward, self.steps * self.samples / self.chunk)
        sampling += sum(_seconds(products, 1) for products in shared)
        surrogate = _seconds(both, self.repeats / self.chunk)
        surrogate += sum(_seconds(products, 1) for products in shared_both)
        return Seconds({"sampling": sampling, "surrogate": surrogate})


Product = tuple[Tensor, Tensor, Tensor]


def _products(layers: list[nn.Linear], rows: int, backward: bool) -> list[Product]:
    """``(left, right, out)`` of the layers on so many rows; no gradient of the first input."""
    products: list[Product] = []
    values = torch.randn(rows, layers[0].in_features)
    for place, layer in enumerate(layers):
        weight = layer.weight.detach()
        gradient = torch.randn(rows, layer.out_features)
        products.append((values, weight.t(), torch.empty_like(gradient)))
        if backward:
            products.append((gradient.t(), values, torch.empty_like(weight)))
        if backward and place:
            products.append((gradient, weight, torch.empty_like(values)))
        values = torch.randn(rows, layer.out_features)
    return products


def _seconds(products: list[Product], times: float) -> float:
    """CPU time of so many rounds; a fraction of a round counts in proportion."""
    rounds = max(round(times), 1)
    begin = time.process_time()
    for _ in range(rounds):
        for left, right, out in products:
            torch.mm(left, right, out=out)
    return (time.process_time() - begin) * times / rounds


def _medians(runs: list[Seconds]) -> dict[str, float]:
    names = runs[0].parts
    medians = {name: statistics.median(run.parts[name] for run in runs) for name in names}
    return medians | {"total": statistics.median(run.total for run in runs)}


def markdown(record: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# A training step against its floor",
        "",
        f"`{record['command']}`. Power, score, laptop scale; CPU time of one thread, medians over "
        "turns of step and floor. The floor is the time of the step's matrix products alone. "
        "*Surrogate* holds the two-stage loss and the backward pass too.",
    ]
    for case in record["cases"]:
        sizes, step, floor = case["sizes"], case["step_seconds"], case["floor_seconds"]
        lines += [
            "",
            f"## {case['name']}: {case['ratio']:.2f} times its floor",
            "",
            f"{sizes['source'].capitalize()} data, B={sizes['batch']}, M={sizes['num_scenarios']}, "
            f"k={sizes['num_elbo_timesteps']}, S={sizes['num_sampling_steps']}, denoiser "
            f"{sizes['layers']} x {sizes['width']}, chunks of {sizes['chunk_rows']} rows; ramps bind "
            f"in {sizes['instances_with_binding_ramps']} of {sizes['batch']} instances.",
            "",
            "| part | step, ms | products alone, ms | ratio |",
            "|---|---|---|---|",
        ]
        for name in ("sampling", "solving", "surrogate", "optimiser", "total"):
            least = floor.get(name)
            right = "| |" if least is None else f"{1e3 * least:.1f} | {step[name] / least:.2f} |"
            lines.append(f"| {name} | {1e3 * step[name]:.1f} | {right}")
        lines += [
            "",
            f"Paired ratios over {len(case['ratios'])} turns: median {case['ratio']:.2f}, "
            f"{case['ratios'][0]:.2f} to {case['ratios'][-1]:.2f}; the goal is at most "
            f"{record['goal']:g}.",
        ]
    lines += ["", "## Other steps, preset sizes", "", "| step | ms |", "|---|---|"]
    lines += [f"| {k} | {1e3 * v:.1f} |" for k, v in record["other_steps_seconds"].items()]
    return "\n".join(lines) + "\n"


def _command(arguments: argparse.Namespace) -> str:
    words = ["python scripts/benchmark.py training"]
    for name, default in (("data", "simulated"), ("scale", "laptop"), ("repeats", 20)):
        if getattr(arguments, name) != default:
            words.append(f"--{name} {getattr(arguments, name)}")
    return " ".join(words)
