"""``gradient_lab.py synthetic``: Figure 2, score against reparam on the product allocation task."""

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_dfl.estimators import Batch, Reparam, Score, ScorePath
from diffusion_dfl.estimators.base import Estimator
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DiffusionPredictor
from diffusion_dfl.predictors.diffusion import Elbo, ElboSurrogate, Sampling
from diffusion_dfl.programs import Instances
from diffusion_dfl.tasks import SyntheticTask, synthetic_task
from laboratory.common import agreement, draws
from laboratory.files import environment, write_files
from laboratory.synthetic_report import figure, markdown

#: Independent timesteps and noise, as in the paper's figure.
PLAIN = ElboSurrogate(elbo_timesteps="uniform", antithetic=False)

#: What the surrogate could be instead; k = ``Effort.fixed_timesteps``.
SURROGATES: dict[str, ElboSurrogate] = {
    "simple, uniform t (paper)": PLAIN,
    "simple, stratified antithetic t": ElboSurrogate(),
    "vlb, T steps": ElboSurrogate(elbo_weighting="vlb"),
    "vlb, sampler's steps": ElboSurrogate(elbo_weighting="vlb", elbo_steps="sampler"),
}


@dataclass(frozen=True)
class Effort:
    """What to run.

    Attributes:
        dimensions: d.
        draws: M, pooled into one decision, and the draws of each estimator at it.
        fixed_timesteps: k of the sweep over d.
        followed_dimension: d of the sweep over epochs and of the comparison of surrogates.
        followed_draws: the same as ``draws`` for the sweep over epochs.
        timesteps: k of the sweep over epochs.
        epochs: measured ones, the fitted model (0) included.
        surrogate_draws: the same for the comparison of surrogates.
        train_rows: of the data set; all of them judge a decision when gradients are measured.
        fit_steps: steps of the denoising fit.
        rough_fit_steps: those of a worse model, which surrogates are compared on too.
        width: units a hidden layer.
        sampling_steps: S.
    """

    dimensions: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    draws: tuple[tuple[int, int], ...] = ((30, 32), (1000, 16), (4000, 6))
    fixed_timesteps: int = 20
    followed_dimension: int = 10
    followed_draws: tuple[tuple[int, int], ...] = ((30, 16), (1000, 4))
    timesteps: tuple[int, ...] = (1, 10, 50, 100, 500)
    epochs: int = 10
    surrogate_draws: tuple[int, int] = (1000, 24)
    train_rows: int = 20_000
    fit_steps: int = 5000
    rough_fit_steps: int = 500
    width: int = 128
    sampling_steps: int = 20


QUICK = Effort(
    dimensions=(1, 3),
    draws=((10, 4), (20, 3)),
    fixed_timesteps=4,
    followed_dimension=3,
    followed_draws=((10, 3), (20, 3)),
    timesteps=(1, 5),
    epochs=2,
    surrogate_draws=(20, 3),
    train_rows=64,
    fit_steps=20,
    rough_fit_steps=5,
    width=16,
    sampling_steps=5,
)

BATCH_ROWS = 32
STEPS_AN_EPOCH = 20
FIT_ROWS = 256
#: The release pools 30 scenarios of each of 32 rows.
TRAINING_SCENARIOS = 960
GRADIENT_CLIP = 10.0
LEARNING_RATES = {"fit": 3e-3, "decision": 1e-4}


class Bench:
    """A diffusion fitted to the task in d dimensions, and gradients of its decision cost.

    Attributes:
        task: pooled synthetic task: no context, one decision for all rows.
        predictor: unconditional diffusion, ancestral sampler with variance beta and noise in every
            step, so that the path score exists for the same sampler that reparam differentiates.
    """

    def __init__(self, dimension: int, effort: Effort) -> None:
        self.task: SyntheticTask = synthetic_task(
            np.random.default_rng(dimension),
            num_products=dimension,
            num_train=effort.train_rows,
        )
        data = self.task.dataset
        self.contexts = torch.as_tensor(data.contexts[data.train], dtype=torch.float32)
        self.outcomes = torch.as_tensor(data.outcomes[data.train], dtype=torch.float32)
        self.layer = DecisionLayer(self.task.program, 0.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(dimension)
            self.predictor = DiffusionPredictor(
                self.contexts.shape[1],
                dimension,
                effort.width,
                prediction="v",
                sampling=Sampling(
                    num_sampling_steps=effort.sampling_steps,
                    sampler="ancestral",
                    variance="beta",
                    final_noise=True,
                ),
            )
        self.predictor.fit_scaling(self.contexts, self.outcomes)
        self.generator = torch.Generator().manual_seed(dimension)
        self._fit(effort.fit_steps)

    def _fit(self, steps: int) -> None:
        optimizer = torch.optim.Adam(self.predictor.parameters(), lr=LEARNING_RATES["fit"])
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            batch = self.batch(self.generator, FIT_ROWS)
            optimizer.zero_grad()
            self.predictor.loss(batch.context, batch.outcome, self.generator).backward()
            optimizer.step()
            decay.step()
        self.predictor.eval()
        rate = LEARNING_RATES["decision"]
        self.optimizer = torch.optim.Adam(self.predictor.parameters(), lr=rate)

    def train_epoch(self) -> None:
        """Decision-focused training by reparam, with the denoising loss as in the release."""
        estimator = Reparam(TRAINING_SCENARIOS, fit_weight=1.0)
        for _ in range(STEPS_AN_EPOCH):
            batch = self.batch(self.generator, BATCH_ROWS)
            loss = estimator(self.predictor, self.layer, batch, self.generator)
            self.optimizer.zero_grad()
            loss.value.backward()
            torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), GRADIENT_CLIP)
            self.optimizer.step()

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        rows = torch.randint(len(self.outcomes), (size,), generator=generator)
        return Batch(self.contexts[rows], self.outcomes[rows], pooled=True)

    def gradients(self, estimator: Estimator, seeds: range) -> Tensor:
        """One flat gradient a seed, ``(R, P)``.

        Of the mean cost over all training rows. A seed fixes the scenarios whatever the estimator:
        draws of two estimators come in pairs on the same scenarios, as in the paper's figure.
        """
        batch = Batch(self.contexts, self.outcomes, pooled=True)

        def value(generator: torch.Generator) -> Tensor:
            return estimator(self.predictor, self.layer, batch, generator).value

        return draws(self.predictor, value, seeds)

    def set_surrogate(self, k: int, surrogate: ElboSurrogate) -> None:
        """What ``Score`` differentiates, from k timesteps or as many as there are."""
        predictor = self.predictor
        if surrogate.elbo_steps == "sampler":
            k = min(k, predictor.num_sampling_steps)
        surrogate = replace(surrogate, num_elbo_timesteps=k)
        predictor.elbo = Elbo(predictor.schedule, predictor.sampler, surrogate)

    def effective_scenarios(self, count: int, repeats: int = 8) -> float:
        """``1 / sum_m p_m^2``: how many of the scenarios carry the expected cost of the decision."""
        generator = torch.Generator().manual_seed(0)
        context = self.contexts[:1].expand(repeats, -1)
        drawn = self.predictor.sample(context, count, generator).double()
        decision = self.layer.solve(drawn).decision
        shares = self.task.program.shares(Instances.of(drawn), decision)
        return float((1.0 / shares.square().sum(1)).mean())

    def expected_cost(self, scenarios: int = 4000) -> float:
        """Closed-form expected cost of the decision made from many scenarios."""
        generator = torch.Generator().manual_seed(0)
        drawn = self.predictor.sample(self.contexts[:1], scenarios, generator)
        decision = self.layer.solve(drawn).decision.numpy()
        return float(self.task.margins.expected_cost(decision)[0])


def epoch_rows(bench: Bench, effort: Effort) -> list[dict[str, Any]]:
    """Cosine with reparam by epoch, M and k; the path score beside them (k None)."""
    rows: list[dict[str, Any]] = []
    for epoch in range(effort.epochs):
        cost = bench.expected_cost()
        for scenarios, count in effort.followed_draws:
            seeds = range(1000 * epoch, 1000 * epoch + count)
            true = bench.gradients(Reparam(scenarios, fit_weight=0.0), seeds)
            for k in (*effort.timesteps, None):
                estimator: Estimator = ScorePath(scenarios, fit_weight=0.0)
                if k is not None:
                    bench.set_surrogate(k, PLAIN)
                    estimator = Score(scenarios, fit_weight=0.0)
                found = bench.gradients(estimator, seeds)
                head = {"epoch": epoch, "cost": cost, "M": scenarios, "k": k}
                rows.append(head | agreement(found, true))
        print(f"epoch {epoch}: expected cost {cost:.4f}", flush=True)
        bench.train_epoch()
    return rows


def dimension_rows(bench: Bench, effort: Effort) -> list[dict[str, Any]]:
    """Cosine with reparam of the fitted model by M: the ELBO's score, and the path's."""
    rows: list[dict[str, Any]] = []
    size, cost = bench.task.program.num_decisions, bench.expected_cost()
    bench.set_surrogate(effort.fixed_timesteps, PLAIN)
    for scenarios, count in effort.draws:
        head = {"d": size, "cost": cost, "optimal_cost": bench.task.optimal_cost, "M": scenarios}
        head["effective"] = bench.effective_scenarios(scenarios)
        true = bench.gradients(Reparam(scenarios, fit_weight=0.0), range(count))
        estimators: dict[str, Estimator] = {
            "score": Score(scenarios, fit_weight=0.0),
            "score_path": ScorePath(scenarios, fit_weight=0.0),
            "reparam": Reparam(scenarios, fit_weight=0.0),
        }
        for name, estimator in estimators.items():
            # Reparam against itself, on scenarios of its own: what the noise alone leaves.
            first = 100_000 if name == "reparam" else 0
            found = bench.gradients(estimator, range(first, first + count))
            rows.append(head | {"estimator": name} | agreement(found, true))
    print(f"d={size}: expected cost {cost:.4f}", flush=True)
    return rows


def surrogate_rows(bench: Bench, effort: Effort, fit_steps: int) -> list[dict[str, Any]]:
    """Cosine with reparam by surrogate."""
    scenarios, count = effort.surrogate_draws
    true = bench.gradients(Reparam(scenarios, fit_weight=0.0), range(count))
    head = {"fit_steps": fit_steps, "cost": bench.expected_cost(), "M": scenarios}
    rows: list[dict[str, Any]] = []
    for name, surrogate in SURROGATES.items():
        bench.set_surrogate(effort.fixed_timesteps, surrogate)
        found = bench.gradients(Score(scenarios, fit_weight=0.0), range(count))
        rows.append(head | {"surrogate": name} | agreement(found, true))
    path = bench.gradients(ScorePath(scenarios, fit_weight=0.0), range(count))
    rows.append(head | {"surrogate": "score_path"} | agreement(path, true))
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="tiny sizes; numbers mean little")
    parser.add_argument("--results", type=Path, default=Path("results"))


def run(arguments: argparse.Namespace) -> int:
    """Fit, measure, write results/gradient_lab/synthetic.{json,md,png,pdf}; 0."""
    torch.set_num_threads(1)
    effort = QUICK if arguments.quick else Effort()
    started = time.perf_counter()
    dimensions, surrogates, epochs = [], [], []
    for size in effort.dimensions:
        bench = Bench(size, effort)
        dimensions += dimension_rows(bench, effort)
        if size == effort.followed_dimension:
            steps = effort.rough_fit_steps
            surrogates = surrogate_rows(bench, effort, effort.fit_steps)
            rough = Bench(size, replace(effort, fit_steps=steps))
            surrogates += surrogate_rows(rough, effort, steps)
            epochs = epoch_rows(bench, effort)
    record = {
        "command": "python scripts/gradient_lab.py synthetic"
        + (" --quick" if arguments.quick else ""),
        "environment": environment(),
        "settings": asdict(effort),
        "epochs": epochs,
        "dimensions": dimensions,
        "surrogates": surrogates,
        "seconds": round(time.perf_counter() - started, 1),
    }
    folder = arguments.results / "gradient_lab" / ("quick" if arguments.quick else "")
    for path in write_files(folder, "synthetic", record, markdown, figure):
        print(f"wrote {path}")
    return 0
