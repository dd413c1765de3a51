"""The steps of training on a task, without files or configurations: prepare, fit, train, judge.

Runs of the suite and :func:`~diffusion_dfl.training.api.train` are made of them; they differ in where
a stage's checkpoint and log go.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_dfl.data import Dataset
from diffusion_dfl.data.folds import Fold, block_folds, fold_of_rows
from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Batch, Estimator, TwoStage
from diffusion_dfl.estimators.base import fit_loss
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DecisionMaker, Predictor, ResidualBase, Scaling
from diffusion_dfl.progress import Listener
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks import Evaluation, Judgement, evaluate
from diffusion_dfl.tasks.evaluation import decision_scores
from diffusion_dfl.training.checkpoint import Checkpoint
from diffusion_dfl.training.experiment import Experiment, StageName
from diffusion_dfl.training.loop import Log, Progress, Stage
from diffusion_dfl.training.rule import DecisionRule
from diffusion_dfl.training.streams import Stream, numpy_stream, stream_seed, torch_stream

Part = Literal["train", "validation", "test", "known"]

#: Stage, its label in the log and how many epochs it may take -> where its state is kept and where its
#: epochs are told. Labels are the stage's name, the number of a fold behind it (``foundation-2``), and
#: ``refit-`` before it in the second pass.
Place = Callable[[StageName, str, int], tuple[Checkpoint | None, Log]]


class _Unheard:
    """A log that nobody reads."""

    def epoch(self, stage: str, epoch: int, values: dict[str, float]) -> None:
        pass

    def restore(self, stage: str, epochs: Sequence[tuple[int, dict[str, float]]]) -> None:
        pass


def nowhere(stage: StageName, label: str, epochs: int) -> tuple[None, Log]:
    """A place for stages that keep nothing."""
    return None, _Unheard()


_STREAMS: dict[StageName, Stream] = {"foundation": "foundation", "fit": "fit", "train": "training"}

# Noise draws of the predictor's own validation loss: enough to rank epochs.
_FIT_SCORE_DRAWS = 8


class Steps:
    """The steps of one training; random streams come from its seed.

    Args:
        experiment: what is trained.
        device: where networks and solvers run.
        place: of a stage's checkpoint and log.
        epochs: of the stages of a second pass, by stage; None for a first one.
        prefix: of the labels of its stages.

    Attributes:
        layer: the rule's decision layer of the ``train`` stage, whose statistics count its solves.
        stages: those that were gone through, by label.
    """

    def __init__(
        self,
        experiment: Experiment,
        device: torch.device,
        place: Place,
        epochs: Mapping[StageName, int] | None = None,
        prefix: str = "",
    ) -> None:
        self.experiment = experiment
        self.task, self.rule, self.seed = experiment.task, experiment.rule, experiment.seed
        self.device, self.place = device, place
        self.epochs, self.prefix = epochs, prefix
        self.layer = experiment.layer()
        self.stages: dict[str, Progress] = {}

    def rows(self, index: NDArray[np.int64], stage: StageName = "train") -> Batch:
        """Rows of the data a stage reads, contexts in float32 and exact, weights with mean 1, on the device.

        ``foundation`` and ``fit`` are the stages that read the task's ``fit_dataset``.
        """
        data, weights = self._data(stage), None
        counts = np.ones(0) if data.weights is None else data.weights[index]
        if (counts != counts[:1]).any():
            share = counts / counts.max()
            weights = torch.as_tensor(share / share.mean()).to(self.device)
        exact, outcome = (
            torch.as_tensor(values[index]).to(self.device)
            for values in (data.contexts, data.outcomes)
        )
        return Batch(exact.float(), outcome.float(), self.task.pooled, exact, weights)

    def _counted(self, part: Part, stage: StageName) -> NDArray[np.int64]:
        """The rows of a part that have a weight."""
        data = self._data(stage)
        return data.counted(getattr(data, part))

    def _trained(self, stage: StageName) -> NDArray[np.int64]:
        """The rows that are trained on and have a weight."""
        return self._counted("train" if self.epochs is None else "known", stage)

    def _data(self, stage: StageName) -> Dataset:
        own = self.task.fit_dataset
        return self.task.dataset if stage == "train" or own is None else own

    def second(self, epochs: Mapping[StageName, int]) -> "Steps":
        """The pass on all rows before the test."""
        again = Steps(self.experiment, self.device, self.place, epochs, "refit-")
        again.layer = self.layer
        return again

    def num_scenarios(self, predictor: DecisionMaker) -> int:
        """M, or 1 for a predictor that is not stochastic."""
        return self.rule.num_scenarios if predictor.stochastic else 1

    def prepare(self) -> DecisionMaker:
        """A new predictor with the scales of the training rows.

        A policy is made from ``(d_x, n)``.
        """
        make = self.experiment.make
        torch.manual_seed(stream_seed(self.seed, "initialisation"))
        data = self.task.dataset
        predictor = make(data.contexts.shape[1], data.outcomes.shape[1])
        size = self.experiment.output_size(predictor)
        if predictor.outcome_size != size:
            torch.manual_seed(stream_seed(self.seed, "initialisation"))
            predictor = make(data.contexts.shape[1], size)
        if self.experiment.stages.fit is None:  # It has the scales it was fitted with.
            return predictor.to(self.device)
        rows = self.rows(self._trained("train"))
        contexts = rows.context
        if self.task.all_rows_scale:
            contexts = contexts.new_tensor(data.contexts)
        outcomes = self._hindsight(rows) if predictor.decides else rows.outcome
        predictor.fit_scaling(contexts, outcomes)
        return predictor.to(self.device)

    def _hindsight(self, rows: Batch) -> Tensor:
        """The decisions that would have been best for training outcomes: a policy's scale."""
        scenarios = rows.outcome.cpu().double().unsqueeze(1)
        context = rows.outcome_context.cpu() if self.task.program.contextual else None
        solution = solve(self.task.program, scenarios, context=context)
        return solution.decision[solution.solved].to(rows.outcome)

    def fit(self, predictor: Predictor) -> Progress:
        """The two-stage fit: the predictor's base if it has one, then its own loss."""
        if predictor.base is not None:
            self._fit_base(predictor.base)
        if predictor.closed_form:
            scaling = self._scaling(predictor, "fit")
            seen = predictor if scaling is None else predictor.under(scaling)
            self._fit_rows(seen, self._trained("fit"))
            return Progress(done=True)
        held = self._counted("validation", "fit")
        scaling = None
        if predictor.base is not None and self.epochs is None:  # A second pass is not scored.
            scaling = predictor.base(self.rows(held, "fit").context)

        def score(candidate: Predictor) -> float:
            return self._own_loss(candidate if scaling is None else candidate.under(scaling), held)

        return self._run("fit", "fit", predictor, TwoStage(), score)

    def _fit_base(self, base: ResidualBase) -> None:
        """Every member on the rows it is to see; a fold's own loss tells when it has learned enough."""
        for number, member in enumerate(base.members):
            assert isinstance(member, Predictor)
            held, label = self._counted("validation", "fit"), "foundation"
            rows = self._trained("fit")
            if base.folds > 1:
                held, rows = self._folds(base.folds)[number]
                label = f"foundation-{number}"
            seen = self.rows(rows, "fit")
            member.fit_scaling(seen.context, seen.outcome)
            member.to(self.device)
            if member.closed_form:
                self._fit_rows(member, rows)
                continue
            member.requires_grad_(True)

            def score(candidate: Predictor, held: NDArray[np.int64] = held) -> float:
                return self._own_loss(candidate, held)

            self._run("foundation", label, member, TwoStage(), score, rows)
            member.requires_grad_(False)
        base.fitted_on.fill_(self._digest(base))

    def _fit_rows(self, predictor: Predictor, index: NDArray[np.int64]) -> None:
        """The fit in closed form to rows."""
        rows = self.rows(index, "fit")
        given = {} if rows.weights is None else {"weights": rows.weights}
        predictor.fit_rows(rows.context, rows.outcome, **given)

    def _folds(self, number: int) -> list[Fold]:
        """Folds of the rows that are trained on, the same for every stage of a seed."""
        rows = self._trained("fit")
        rng = numpy_stream(self.seed, "folds")
        return block_folds(self._data("fit"), rows, number, rng, "model.base_folds")

    def _digest(self, base: ResidualBase) -> int:
        """What tells the folds of the present training rows from others."""
        rows = self._trained("fit")
        folds = [rows] if base.folds == 1 else [fold.held for fold in self._folds(base.folds)]
        text = repr([fold.tolist() for fold in folds]).encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:7], "big") + 1

    def _scaling(self, predictor: DecisionMaker, stage: StageName) -> Scaling | None:
        """That of the training rows by a base that did not see them; None without a base.

        Raises:
            UserError: a base of other folds, which may have seen them.
        """
        base = predictor.base if isinstance(predictor, Predictor) else None
        if base is None or stage == "foundation":
            return None
        rows = self._trained(stage)
        contexts = self.rows(rows, stage).context
        if self._data(stage) is not self._data("fit"):
            return base(contexts)
        if int(base.fitted_on) != self._digest(base):
            raise UserError(
                f"the base of this {type(predictor).__name__} was fitted on other rows or folds than "
                f"those of seed={self.seed} here, so it may have seen the rows it would be trained on; "
                "use the seed and the task it was fitted with, or let the fit be made again"
            )
        if base.folds == 1:
            return base(contexts)
        fold = fold_of_rows(rows, self._folds(base.folds))
        return base(contexts, torch.as_tensor(fold, device=self.device))

    def train(self, predictor: DecisionMaker, estimator: Estimator) -> Progress | None:
        """Decision-focused training; None for an estimator that has none."""
        if not estimator.decision_focused:
            return None
        # Validation solves must not count as training solves.
        judge = self.rule.layer(self.task.program)
        torch.manual_seed(stream_seed(self.seed, "training"))
        return self._run(
            "train", "train", predictor, estimator, lambda candidate: self._score(candidate, judge)
        )

    def validation_cost(self, predictor: DecisionMaker) -> float:
        """Mean decision cost on the validation rows, by their weights, under the rule; same noise every
        time."""
        return self._score(predictor, self.rule.layer(self.task.program))

    def validation_costs(
        self, predictor: DecisionMaker, rules: Sequence[DecisionRule]
    ) -> list[float]:
        """:meth:`validation_cost` under rules of the same M, on the same scenarios."""
        return self._scores(predictor, [rule.layer(self.task.program) for rule in rules])

    def evaluate(
        self,
        predictor: DecisionMaker,
        part: Part = "test",
        num_large: int = 500,
        progress: Listener | bool = False,
    ) -> Evaluation:
        """All metrics on a part of the data, every row counted once."""
        rows = getattr(self.task.dataset, part)
        stream: Stream = "test" if part == "test" else "validation"
        return evaluate(
            predictor,
            self.layer,
            self.rows(rows),
            self.num_scenarios(predictor),
            torch_stream(self.seed, stream, self.device),
            lambda decisions: self.task.judge(rows, decisions),
            num_large,
            progress,
        )

    def baselines(self) -> dict[str, float | None]:
        """Headline number of the task's plain baselines on the test rows; None for infinity."""

        def judged(decisions: NDArray[np.float64]) -> Judgement:
            return self.task.judge(self.task.dataset.test, decisions)

        found = {name: judged(made).task for name, made in self.task.baselines().items()}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    def _own_loss(self, predictor: Predictor, index: NDArray[np.int64]) -> float:
        """The predictor's own loss on rows, with the same noise every time."""
        rows, generator = (
            self.rows(index, "fit"),
            torch_stream(self.seed, "validation", self.device),
        )
        draws = _FIT_SCORE_DRAWS if predictor.stochastic else 1
        with torch.no_grad():
            losses = [fit_loss(predictor, rows, generator) for _ in range(draws)]
            return float(torch.stack(losses).mean())

    def _score(self, predictor: DecisionMaker, layer: DecisionLayer) -> float:
        return self._scores(predictor, [layer])[0]

    def _scores(self, predictor: DecisionMaker, layers: Sequence[DecisionLayer]) -> list[float]:
        return decision_scores(
            predictor,
            layers,
            self.rows(self._counted("validation", "train")),
            self.num_scenarios(predictor),
            torch_stream(self.seed, "validation", self.device),
        )

    def _run(
        self,
        name: StageName,
        label: str,
        predictor: DecisionMaker,
        estimator: Estimator,
        score: Callable[[Any], float],
        rows: NDArray[np.int64] | None = None,
    ) -> Progress:
        """Go through a stage on the training rows, or on ``rows``."""
        settings = self.experiment.stages.settings(name)
        again = self.epochs is not None
        stop = settings.epochs if self.epochs is None else self.epochs[name]
        if again:
            settings = replace(settings, patience=0, keep="last", divergence_factor=0.0)
        label = self.prefix + label
        checkpoint, log = self.place(name, label, stop)
        index = self._trained(name) if rows is None else rows
        # The fit's checkpoints are shared by runs: none may hold the solves of one of them.
        layer = self.layer if name == "train" else self.rule.layer(self.task.program)
        stage = Stage(
            label,
            predictor,
            estimator,
            layer,
            self.rows(index, name),
            settings,
            None if again else score,
            torch_stream(self.seed, _STREAMS[name], self.device),
            checkpoint,
            log,
            self._scaling(predictor, name),
            stop,
        )
        self.stages[label] = stage.run()
        return self.stages[label]
