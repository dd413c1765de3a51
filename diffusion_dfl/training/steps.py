"""The steps of training on a task, without files or configurations: prepare, fit, train, judge.

Runs (:mod:`.execution`) and the library (:mod:`.api`) are made of them; they differ in where a
stage's checkpoint and log go.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_dfl.data import Dataset
from diffusion_dfl.estimators import Estimator, TwoStage
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.layers.decision import LayerSolver
from diffusion_dfl.layers.failures import OnFailure
from diffusion_dfl.layers.implicit import Curvature
from diffusion_dfl.predictors import PolicyNetwork, Predictor
from diffusion_dfl.programs import Program
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks import Evaluation, Judgement, Task, evaluate
from diffusion_dfl.tasks.evaluation import decision_score
from diffusion_dfl.training.checkpoint import Checkpoint
from diffusion_dfl.training.loop import Log, Progress, Stage, TrainingSettings
from diffusion_dfl.training.streams import Stream, stream_seed, torch_stream

StageName = Literal["foundation", "fit", "train"]
Part = Literal["train", "validation", "test"]

#: Stage and how many epochs it may take -> where its state is kept and where its epochs are told.
Place = Callable[[StageName, int], tuple[Checkpoint | None, Log]]

_STREAMS: dict[StageName, Stream] = {"foundation": "foundation", "fit": "fit", "train": "training"}

# Noise draws of the predictor's own validation loss: enough to rank epochs.
_FIT_SCORE_DRAWS = 8


@dataclass(frozen=True)
class DecisionRule:
    """How decisions are made from scenarios, the same in training and at test.

    Attributes:
        num_scenarios: M, scenarios a context; a predictor that is not stochastic has one.
        bandwidth_scale, curvature, solver, on_failure, max_failure_share: of
            :class:`~diffusion_dfl.layers.DecisionLayer`.
    """

    num_scenarios: int = 100
    bandwidth_scale: float = 1.5
    curvature: Curvature = "convolved"
    solver: LayerSolver = "auto"
    on_failure: OnFailure = "drop"
    max_failure_share: float = 0.05

    def layer(self, program: Program) -> DecisionLayer:
        """A layer of this rule, with statistics of its own."""
        return DecisionLayer(
            program,
            self.bandwidth_scale,
            sample_size=self.num_scenarios,
            curvature=self.curvature,
            solver=self.solver,
            on_failure=self.on_failure,
            max_failure_share=self.max_failure_share,
        )


class Steps:
    """The steps of one training; random streams come from its seed.

    Args:
        task: program and data.
        rule: how decisions are made.
        settings: of every stage.
        seed: of everything random.
        device: where networks and solvers run.
        place: of a stage's checkpoint and log.

    Attributes:
        layer: the rule's decision layer of the ``train`` stage, whose statistics count its solves.
    """

    def __init__(
        self,
        task: Task,
        rule: DecisionRule,
        settings: Mapping[StageName, TrainingSettings],
        seed: int,
        device: torch.device,
        place: Place,
    ) -> None:
        self.task, self.rule, self.settings = task, rule, settings
        self.seed, self.device, self.place = seed, device, place
        self.layer = rule.layer(task.program)

    def rows(self, part: Part, stage: StageName = "train") -> tuple[Tensor, Tensor]:
        """Contexts and outcomes of a part of the data, float32 on the device.

        ``foundation`` and ``fit`` are the stages that read the task's ``fit_dataset``.
        """
        data = self._data(stage)
        index = getattr(data, part)
        return (
            torch.as_tensor(data.contexts[index], dtype=torch.float32).to(self.device),
            torch.as_tensor(data.outcomes[index], dtype=torch.float32).to(self.device),
        )

    def exact_contexts(self, part: Part, stage: StageName = "train") -> Tensor:
        """The contexts of :meth:`rows` in float64: what constraints that depend on them see."""
        data = self._data(stage)
        return torch.as_tensor(data.contexts[getattr(data, part)]).double().to(self.device)

    def _data(self, stage: StageName) -> Dataset:
        own = self.task.fit_dataset
        return self.task.dataset if stage == "train" or own is None else own

    def num_scenarios(self, predictor: Predictor) -> int:
        """M, or 1 for a predictor that is not stochastic."""
        return self.rule.num_scenarios if predictor.stochastic else 1

    def prepare(self, make: Callable[[int, int], Predictor]) -> Predictor:
        """A new predictor, from ``(d_x, d_y)``, with the scales of the training rows.

        A policy is made from ``(d_x, n)``.
        """
        torch.manual_seed(stream_seed(self.seed, "initialisation"))
        data = self.task.dataset
        predictor = make(data.contexts.shape[1], data.outcomes.shape[1])
        size = self.task.program.num_decisions
        if isinstance(predictor, PolicyNetwork) and predictor.outcome_size != size:
            torch.manual_seed(stream_seed(self.seed, "initialisation"))
            predictor = make(data.contexts.shape[1], size)
        contexts, outcomes = self.rows("train")
        if self.task.all_rows_scale:
            contexts = contexts.new_tensor(data.contexts)
        if isinstance(predictor, PolicyNetwork):
            outcomes = self._hindsight(outcomes)
        predictor.fit_scaling(contexts, outcomes)
        return predictor.to(self.device)

    def _hindsight(self, outcomes: Tensor) -> Tensor:
        """The decisions that would have been best for training outcomes: a policy's scale."""
        scenarios = outcomes.cpu().double().unsqueeze(1)
        context = self.exact_contexts("train").cpu() if self.task.program.contextual else None
        solution = solve(self.task.program, scenarios, context=context)
        return solution.decision[solution.solved].to(outcomes)

    def fit(self, predictor: Predictor) -> Progress:
        """The two-stage fit: the predictor's foundation if it has one, then its own loss."""
        base = predictor.foundation()
        if base is not None:
            base.requires_grad_(True)
            self._stage("foundation", base, TwoStage(), self._fit_score).run()
            base.requires_grad_(False)
        return self._stage("fit", predictor, TwoStage(), self._fit_score).run()

    def train(self, predictor: Predictor, estimator: Estimator) -> Progress | None:
        """Decision-focused training; None for an estimator that has none."""
        if not estimator.decision_focused:
            return None
        # Validation solves must not count as training solves.
        judge = self.rule.layer(self.task.program)
        torch.manual_seed(stream_seed(self.seed, "training"))
        stage = self._stage(
            "train", predictor, estimator, lambda candidate: self._score(candidate, judge)
        )
        return stage.run()

    def validation_cost(self, predictor: Predictor) -> float:
        """Mean decision cost on the validation rows under the rule, same noise every time."""
        return self._score(predictor, self.rule.layer(self.task.program))

    def evaluate(
        self, predictor: Predictor, part: Part = "test", num_large: int = 500
    ) -> Evaluation:
        """All metrics on a part of the data."""
        rows = getattr(self.task.dataset, part)
        stream: Stream = "test" if part == "test" else "validation"
        return evaluate(
            predictor,
            self.layer,
            *self.rows(part),
            self.num_scenarios(predictor),
            torch_stream(self.seed, stream, self.device),
            lambda decisions: self.task.judge(rows, decisions),
            num_large,
            self.task.pooled,
            self.exact_contexts(part),
        )

    def baselines(self) -> dict[str, float | None]:
        """Headline number of the task's plain baselines on the test rows; None for infinity."""

        def judged(decisions: NDArray[np.float64]) -> Judgement:
            return self.task.judge(self.task.dataset.test, decisions)

        found = {name: judged(made).task for name, made in self.task.baselines().items()}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    def _fit_score(self, predictor: Predictor) -> float:
        """The predictor's own loss on the validation rows, with the same noise every time."""
        generator = torch_stream(self.seed, "validation", self.device)
        rows = self.rows("validation", "fit")
        draws = _FIT_SCORE_DRAWS if predictor.stochastic else 1
        with torch.no_grad():
            losses = [predictor.loss(*rows, generator) for _ in range(draws)]
            return float(torch.stack(losses).mean())

    def _score(self, predictor: Predictor, layer: DecisionLayer) -> float:
        return decision_score(
            predictor,
            layer,
            *self.rows("validation"),
            self.num_scenarios(predictor),
            torch_stream(self.seed, "validation", self.device),
            self.task.pooled,
            self.exact_contexts("validation"),
        )

    def _stage(
        self,
        name: StageName,
        predictor: Predictor,
        estimator: Estimator,
        score: Callable[[Predictor], float],
    ) -> Stage:
        settings = self.settings[name]
        checkpoint, log = self.place(name, settings.epochs)
        return Stage(
            name,
            predictor,
            estimator,
            self.layer,
            *self.rows("train", name),
            settings,
            score,
            torch_stream(self.seed, _STREAMS[name], self.device),
            checkpoint,
            log,
            self.task.pooled,
            self.exact_contexts("train", name),
        )
