"""``benchmark.py memory``: bytes a training step holds for its backward pass, at the paper's sizes.

Counted, not estimated, by saved-tensor hooks (:mod:`diffusion_dfl.training.memory`). The network runs
on meta tensors, which have sizes and no memory, where real ones would take minutes or do not fit; the
decision layer always runs on real ones. Beside it: the peak of all tensors that the step makes, its
backward pass included, without weights and optimiser.
"""

import argparse
import json
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffusion_dfl.estimators import Batch, Score, TwoStage, score_weights
from diffusion_dfl.estimators.base import decision_cost
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Backpropagation, DiffusionPredictor, ElboSurrogate, Sampling
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.training.memory import SavedBytes

BATCH, CONTEXT, HOURS, STEPS, CHUNK = 64, 150, 24, 1000, 512
PAPER_RATIO = 60.75 / 0.13
#: Ratios to two-stage that a score step may have, and how far it may grow with k and M.
MOST, FLAT = 1.2, 1.05


@dataclass
class Count:
    """Bytes of one kind of step.

    Attributes:
        name: the step.
        num_scenarios, num_timesteps, num_steps: M, k and S; None where there are none.
        tensors: ``real``, or ``meta`` for the network's part.
        saved: most bytes held for a backward pass at any moment.
        live: most bytes of all tensors that the step made.
    """

    name: str
    num_scenarios: int | None
    num_timesteps: int | None
    num_steps: int | None
    tensors: str
    saved: int
    live: int


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages made inside that are alive, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and _key(leaf) not in given | self._seen:
                storage = leaf.untyped_storage()
                self._seen.add(storage._cdata)
                self.held += storage.nbytes()
                self.peak = max(self.peak, self.held)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.held -= size


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, default=1024, help="units a layer (default 1024)")
    parser.add_argument("--steps", type=int, default=STEPS, help="S of reparam (default 1000)")
    parser.add_argument("--timesteps", type=int, default=1000, help="largest k (default 1000)")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"))


def run(arguments: argparse.Namespace) -> int:
    """Count, write the files, print the table; 1 if a goal is missed."""
    torch.manual_seed(0)
    counts = count_all(arguments.width, arguments.steps, arguments.timesteps)
    goals = judge(counts)
    text = markdown(counts, goals, arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    record = {
        "command": _command(arguments),
        "sizes": {
            "batch": BATCH,
            "context_size": CONTEXT,
            "outcome_size": HOURS,
            "width": arguments.width,
            "layers": 2,
            "num_diffusion_steps": STEPS,
            "chunk_rows": CHUNK,
        },
        "counts": [asdict(count) for count in counts],
        "goals": [{"goal": goal, "value": value, "met": met} for goal, value, met in goals],
    }
    for name, content in (
        ("memory.json", json.dumps(record, indent=2) + "\n"),
        ("memory.md", text),
    ):
        (arguments.output / name).write_text(content, encoding="utf-8")
    print(text)
    return 0 if all(met for _, _, met in goals) else 1


def count_all(width: int, steps: int, most: int) -> list[Count]:
    """Every row of the table, the two-stage step first."""
    counts = [_count("two-stage, 512 rows", _two_stage(width), None, None, None, "real")]
    for k in (k for k in (1, 10, 100, 1000) if k <= most):
        counts.append(_count("score", _score(width, 50, k), 50, k, None, "meta"))
    for scenarios in (10, 100):
        counts.append(_count("score", _score(width, scenarios, 10), scenarios, 10, None, "meta"))
    counts.append(_count("score", _real_score(width, 50, 10), 50, 10, None, "real"))
    for name, how in (
        ("reparam, full", Backpropagation()),
        ("reparam, checkpoint", Backpropagation("checkpoint")),
        ("reparam, last 10 steps", Backpropagation("last", 10)),
        ("reparam, last step", Backpropagation("last", 1)),
    ):
        counts.append(_count(name, _reparam(width, 50, steps, how), 50, None, steps, "meta"))
    return counts


def _count(
    name: str, step: Callable[[], Tensor], m: int | None, k: int | None, s: int | None, tensors: str
) -> Count:
    """Saved bytes of the forward pass, all tensors of both passes."""
    with LiveBytes() as live:
        with SavedBytes() as saved:
            loss = step()
        loss.backward()
    return Count(name, m, k, s, tensors, saved.peak, live.peak)


def _predictor(width: int, device: str, k: int = 10, steps: int = 10) -> DiffusionPredictor:
    predictor = DiffusionPredictor(
        CONTEXT,
        HOURS,
        width=width,
        num_diffusion_steps=STEPS,
        sampling=Sampling(num_sampling_steps=steps, spacing="uniform", sampler="ancestral"),
        elbo=ElboSurrogate(num_elbo_timesteps=k),
        chunk_rows=CHUNK,
    )
    return predictor.to(device)


def _batch(rows: int, device: str) -> Batch:
    return Batch(torch.randn(rows, CONTEXT, device=device), torch.randn(rows, HOURS, device=device))


def _layer() -> DecisionLayer:
    return DecisionLayer(PowerProgram(), 1.5)


def _two_stage(width: int) -> Callable[[], Tensor]:
    predictor, batch, layer = _predictor(width, "cpu"), _batch(512, "cpu"), _layer()
    return lambda: TwoStage()(predictor, layer, batch, torch.Generator()).value


def _real_score(width: int, scenarios: int, k: int) -> Callable[[], Tensor]:
    """The estimator itself."""
    predictor, batch, layer = _predictor(width, "cpu", k), _batch(BATCH, "cpu"), _layer()
    estimator = Score(scenarios, fit_weight=1.0)
    return lambda: estimator(predictor, layer, batch, torch.Generator()).value


def _score(width: int, scenarios: int, k: int) -> Callable[[], Tensor]:
    """The same, part by part, the decision on real scenarios."""
    predictor, batch, layer = _predictor(width, "meta", k), _batch(BATCH, "meta"), _layer()
    generator = torch.Generator()

    def step() -> Tensor:
        drawn = predictor.sample(batch.context, scenarios, generator)
        score_weights(layer, torch.randn(drawn.shape), torch.randn(BATCH, HOURS))
        weights = drawn.new_empty(drawn.shape[:2], dtype=torch.float64)
        density = predictor.weighted_log_density(batch.context, drawn, weights, generator)
        return density.value + predictor.loss(batch.context, batch.outcome, generator)

    return step


def _reparam(width: int, scenarios: int, steps: int, how: Backpropagation) -> Callable[[], Tensor]:
    predictor, batch, layer = _predictor(width, "meta", 1, steps), _batch(BATCH, "meta"), _layer()
    generator = torch.Generator()

    def step() -> Tensor:
        drawn = predictor.sample(
            batch.context, scenarios, generator, differentiable=True, backpropagation=how
        )
        known = torch.randn(drawn.shape, requires_grad=True)
        cost = decision_cost(layer, torch.randn(BATCH, HOURS), layer(known))
        return _Joined.apply(drawn, cost)

    return step


class _Joined(torch.autograd.Function):
    """A cost that was computed on the CPU as a function of scenarios on meta; its graph is kept."""

    @staticmethod
    def forward(ctx: Any, drawn: Tensor, cost: Tensor) -> Tensor:
        ctx.shape = drawn.shape
        return cost.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty(ctx.shape, device="meta"), gradient


def judge(counts: list[Count]) -> list[tuple[str, float, bool]]:
    """The goals: (what, value, met)."""
    base, scores = counts[0].saved, [count for count in counts if count.name == "score"]
    paper = next(count for count in scores if count.num_timesteps == 10)
    full = next(count for count in counts if count.name == "reparam, full")
    largest, smallest = (f(count.saved for count in scores) for f in (max, min))
    real = next(count for count in scores if count.tensors == "real")
    ratio = full.saved / paper.saved
    return [
        (f"score / two-stage, largest, at most {MOST}", largest / base, largest <= MOST * base),
        (f"score, largest / smallest over k and M, at most {FLAT}", largest / smallest,
         largest <= FLAT * smallest),
        (f"reparam at S={full.num_steps} / score, at least {PAPER_RATIO:.0f}", ratio,
         ratio >= PAPER_RATIO),
        ("score on real / on meta tensors, exactly 1", real.saved / paper.saved,
         real.saved == paper.saved),
    ]  # fmt: skip


def markdown(
    counts: list[Count], goals: list[tuple[str, float, bool]], arguments: argparse.Namespace
) -> str:
    """The tables."""
    base = counts[0].saved
    lines = [
        "# Memory of a training step",
        "",
        f"`{_command(arguments)}`. B={BATCH}, d_x={CONTEXT}, d_y={HOURS}, denoiser 2 x "
        f"{arguments.width}, T={STEPS}, float32, chunks of {CHUNK} rows. *Saved*: most bytes held for "
        "a backward pass at any moment, each storage once, without weights. *All*: most bytes of all "
        "tensors the step makes, its backward pass and gradients included. Rows marked *meta* run the "
        "network on tensors without memory and the decision layer on real ones.",
        "",
        "| step | M | k | S | tensors | saved, MB | / two-stage | all, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count in counts:
        sizes = (count.num_scenarios, count.num_timesteps, count.num_steps)
        cells = ["" if size is None else str(size) for size in sizes]
        lines.append(
            f"| {count.name} | {' | '.join(cells)} | {count.tensors} | {count.saved / 1e6:.2f} | "
            f"{count.saved / base:.2f} | {count.live / 1e6:.1f} |"
        )
    lines += ["", "| goal | value | met |", "|---|---|---|"]
    lines += [f"| {goal} | {value:.4g} | {'yes' if met else 'no'} |" for goal, value, met in goals]
    return "\n".join(lines) + "\n"


def _command(arguments: argparse.Namespace) -> str:
    words = ["python scripts/benchmark.py memory"]
    if arguments.width != 1024:
        words.append(f"--width {arguments.width}")
    if arguments.timesteps != 1000:
        words.append(f"--timesteps {arguments.timesteps}")
    if arguments.steps != STEPS:
        words.append(f"--steps {arguments.steps}")
    return " ".join(words)
