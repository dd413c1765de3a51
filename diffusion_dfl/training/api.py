"""Training as a function: a task, a predictor and an estimator in, decisions out; no configuration.

    fitted = train(task, GaussianPredictor, Score(100, fit_weight=1.0))
    fitted.evaluate().metrics["task"]
    fitted.decide(contexts)

The steps are those of a run of ``train.py``: the same settings, seed and number of torch threads give
the same numbers.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffusion_dfl.data.frames import numbers
from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Estimator, Score, TwoStage
from diffusion_dfl.estimators.pairs import check_estimator, check_pair
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import PolicyNetwork, Predictor
from diffusion_dfl.solvers import Status
from diffusion_dfl.tasks import Evaluation, Task
from diffusion_dfl.tasks.problem import check_problem
from diffusion_dfl.training.checkpoint import Checkpoint
from diffusion_dfl.training.decisions import decided, rows_at_once
from diffusion_dfl.training.device import resolve_device
from diffusion_dfl.training.fingerprint import fingerprint
from diffusion_dfl.training.learning import Maker, learn
from diffusion_dfl.training.loop import Progress
from diffusion_dfl.training.rule import DecisionRule
from diffusion_dfl.training.settings import TrainingSettings
from diffusion_dfl.training.steps import Part, StageName, Steps
from diffusion_dfl.training.streams import torch_stream

logger = logging.getLogger(__name__)

#: The knobs of ``conf/config.yaml``.
FIT = TrainingSettings(
    epochs=200, batch_size=64, learning_rate=1e-3, ema_decay=0.99, patience=40, dropout=True
)
TRAIN = TrainingSettings(
    epochs=10,
    batch_size=64,
    learning_rate=1e-4,
    gradient_clip=10.0,
    ema_decay=0.98,
    dropout=True,
    divergence_factor=2.0,
)

#: Of a predictor: a class or function of ``(d_x, d_y)``, or one that exists.
PredictorLike = Predictor | Callable[[int, int], Predictor]

#: Stage -> its epochs, ``(number, values)`` each; validation before the first is epoch 0.
History = Mapping[str, Sequence[tuple[int, dict[str, float]]]]


@dataclass
class _Memory:
    """Epochs of a stage, kept and told to :mod:`logging` at level INFO."""

    epochs: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def epoch(self, stage: str, epoch: int, values: dict[str, float]) -> None:
        self.epochs.append((epoch, values))
        shown = " ".join(f"{name}={value:.4g}" for name, value in values.items())
        logger.info("%s epoch %d %s", stage, epoch, shown)

    def restore(self, stage: str, epochs: Sequence[tuple[int, dict[str, float]]]) -> None:
        self.epochs[:] = epochs


@dataclass(frozen=True)
class Decisions:
    """What :meth:`Fitted.decide` found for contexts.

    Attributes:
        decision: ``(N, n)`` float64; NaN in the rows that were not solved.
        status: ``(N,)`` of :class:`~diffusion_dfl.solvers.Status`; for a policy, whether its
            decision could be projected on the feasible set.
    """

    decision: NDArray[np.float64]
    status: NDArray[np.int64]

    @property
    def sentences(self) -> list[str]:
        """The status of every row in words."""
        return [Status(status).sentence for status in self.status]


@dataclass(frozen=True)
class Fitted:
    """A trained predictor with its decision rule.

    Attributes:
        task: what it was trained on.
        predictor: in evaluation mode, with the best weights.
        rule: how decisions are made.
        seed, device: of the training.
        validation_cost: mean decision cost on the validation rows, by their weights if they have any,
            of the training that held them out; None where none did (``refit`` with epochs that were all
            given).
        fit, train: how the stages went; None for one that was not made.
        history: of the epochs of every stage.
    """

    task: Task
    predictor: Predictor
    rule: DecisionRule
    seed: int
    device: torch.device
    validation_cost: float | None
    fit: Progress | None
    train: Progress | None
    history: History

    @property
    def layer(self) -> DecisionLayer:
        """A decision layer of the rule."""
        return self.rule.layer(self.task.program)

    def decide(self, contexts: ArrayLike | Tensor | pd.DataFrame) -> Decisions:
        """Decisions for new contexts, by the rule that was trained; the same every time.

        That of a row depends on its place, not on the rows after it. A task that is ``pooled`` has
        one decision, made for the first row.

        Args:
            contexts: ``(N, d_x)`` in raw units; of a data frame, the task's context columns by name.

        Raises:
            UserError: another number of columns, columns that are missing or a value that is no
                finite number.
        """
        values = self._contexts(contexts)
        generator = torch_stream(self.seed, "test", self.device)
        count = self.rule.num_scenarios if self.predictor.stochastic else 1
        layer, parts, statuses = self.layer, [], []
        pooled = self.task.pooled
        rows = values[:1] if pooled else values
        for part in rows.split(rows_at_once(count)):
            decision, status = decided(self.predictor, layer, part, count, generator, not pooled)
            parts.append(decision.cpu().numpy())
            statuses.append(status.cpu().numpy())
        times = len(values) if pooled else 1
        return Decisions(
            np.concatenate(parts).repeat(times, axis=0), np.concatenate(statuses).repeat(times)
        )

    def sample(
        self, contexts: ArrayLike | Tensor | pd.DataFrame, num_scenarios: int
    ) -> NDArray[np.float64]:
        """Scenarios ``(N, M, d_y)`` of the outcome, raw units; the same every time.

        Raises:
            UserError: as in :meth:`decide`.
            TypeError: a policy, which predicts no outcome.
        """
        values = self._contexts(contexts)
        generator = torch_stream(self.seed, "test", self.device)
        with torch.no_grad():
            found = self.predictor.sample(values.float(), num_scenarios, generator)
        return found.double().cpu().numpy()

    def evaluate(self, part: Part = "test", num_large: int = 500) -> Evaluation:
        """Metrics on a part of the task's data (:func:`diffusion_dfl.tasks.evaluate`).

        Args:
            part: ``train``, ``validation`` or ``test``.
            num_large: scenarios of the large evaluation, of CRPS and coverage.
        """
        return self._steps().evaluate(self.predictor, part, max(num_large, self.rule.num_scenarios))

    def baselines(self) -> dict[str, float | None]:
        """Headline number of the task's plain baselines on the test rows; None for infinity."""
        return self._steps().baselines()

    def _steps(self) -> Steps:
        return Steps(self.task, self.rule, {}, self.seed, self.device, _nowhere)

    def _contexts(self, contexts: ArrayLike | Tensor | pd.DataFrame) -> Tensor:
        """``(N, d_x)`` float64."""
        names = self.task.dataset.feature_names
        if isinstance(contexts, pd.DataFrame):
            values = numbers(self.task.name, contexts, names, "context")
        else:
            if isinstance(contexts, Tensor):
                contexts = contexts.detach().cpu().numpy()
            # A copy: pandas hands out memory that is not to be written, which torch warns of.
            values = np.array(contexts, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(names):
            raise UserError(
                f"contexts have shape {values.shape}; expected (N, {len(names)}), the columns "
                f"{', '.join(names)}"
            )
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            raise UserError(
                f"contexts: {names[column]} is {values[row, column]} in row {row} ({len(bad)} such "
                "values in all); every value must be a finite number"
            )
        return torch.as_tensor(values).to(self.device)


def train(
    task: Task,
    predictor: PredictorLike,
    estimator: Estimator | None = None,
    *,
    decision: DecisionRule | None = None,
    foundation: TrainingSettings = FIT,
    fit: TrainingSettings | None = FIT,
    train: TrainingSettings = TRAIN,
    seed: int = 0,
    device: str = "auto",
    directory: Path | str | None = None,
    refit: bool = False,
) -> Fitted:
    """Fit a predictor to a task's data, then train it for its decisions.

    Args:
        task: program and data, e.g. of :func:`~diffusion_dfl.tasks.task_from_frame`; what its rows
            count for, if they have weights, they count for in every loss and validation score here.
        predictor: a class or function that makes one from ``(d_x, d_y)``, with weights that come
            from ``seed``; or one that exists, of which a copy is trained.
        estimator: of the decision's gradient; None (or ``TwoStage()``) leaves it at the fit.
        decision: how decisions are made; None takes the estimator's ``num_scenarios`` if it has
            one, and else the defaults of :class:`DecisionRule`.
        foundation, fit, train: knobs of the stages: a residual predictor's base, the predictor's own
            loss, the decision cost. ``fit=None`` takes an existing predictor as
            it is, with the scales it has: it was fitted before.
        seed: of everything random.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        directory: where checkpoints are kept, so that the same call goes on where it was stopped;
            None writes no file. Another call is refused, whatever differs: the data or its split,
            an option, the code or a constant of a function of the program.
        refit: train again, for as many epochs as validated best, on all rows before the test.

    Raises:
        UserError: parts that do not fit each other, or a problem that cannot be trained on; nothing
            was trained.
        TrainingDiverged, SolverFailure: training cannot go on.
    """
    estimator = TwoStage() if estimator is None else estimator
    rule = _rule(decision, estimator)
    place = resolve_device(device)
    check_problem(task)
    histories: dict[str, _Memory] = {}
    settings: dict[StageName, TrainingSettings] = {
        "foundation": foundation,
        "fit": FIT if fit is None else fit,
        "train": train,
    }
    owner = ""

    def where(stage: StageName, label: str, epochs: int) -> tuple[Checkpoint | None, _Memory]:
        histories[label] = _Memory()
        if directory is None:
            return None, histories[label]
        Path(directory).mkdir(parents=True, exist_ok=True)
        return Checkpoint(Path(directory, f"{label}.pt"), owner), histories[label]

    steps = Steps(task, rule, settings, seed, place, where)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        make = _maker(predictor, steps, fitted=fit is None)
        start = make(0, 0).to(place) if fit is None else steps.prepare(make)
        _check(start, estimator, steps.layer)
        if directory is not None:
            owner = _owner(start, estimator, rule, settings, steps, refit)
        trained = learn(
            steps,
            make,
            lambda: estimator,
            refit=refit,
            fitted=start if fit is None else None,
        )
    history = {stage: tuple(memory.epochs) for stage, memory in histories.items()}
    return Fitted(
        task,
        trained.predictor,
        rule,
        seed,
        place,
        trained.validation_cost,
        trained.fit,
        trained.train,
        history,
    )


def _nowhere(stage: StageName, label: str, epochs: int) -> tuple[None, _Memory]:
    return None, _Memory()


def _rule(decision: DecisionRule | None, estimator: Estimator) -> DecisionRule:
    """The rule, whose M is that of the estimator: what is trained is what decides."""
    count = getattr(estimator, "num_scenarios", None)
    if decision is None:
        return DecisionRule() if count is None else DecisionRule(num_scenarios=count)
    if count not in (None, decision.num_scenarios):
        raise UserError(
            f"decision.num_scenarios={decision.num_scenarios}, but {type(estimator).__name__} has "
            f"num_scenarios={count}; what is trained is what decides: make them the same"
        )
    return decision


def _maker(predictor: PredictorLike, steps: Steps, fitted: bool) -> Maker:
    """What makes the predictor that training begins with: of one that exists, copies."""
    data = steps.task.dataset
    if not isinstance(predictor, Predictor):
        if fitted:
            raise UserError(
                "fit=None takes a predictor that was fitted before; pass one that exists, such as "
                "fitted.predictor"
            )
        return lambda *sizes: _made(predictor, *sizes)
    policy = isinstance(predictor, PolicyNetwork)
    size = steps.task.program.num_decisions if policy else data.outcomes.shape[1]
    wanted = (data.contexts.shape[1], size)
    if (predictor.context_size, predictor.outcome_size) != wanted:
        raise UserError(
            f"the {type(predictor).__name__} has context_size={predictor.context_size} and "
            f"outcome_size={predictor.outcome_size}; task={steps.task.name} needs {wanted[0]} and "
            f"{wanted[1]}"
        )
    return lambda *_: copy.deepcopy(predictor)


def _made(make: Callable[[int, int], Predictor], context_size: int, outcome_size: int) -> Predictor:
    if not callable(make):
        raise UserError(
            f"predictor={make!r}: expected a Predictor, or a class or function that makes one from "
            "(context_size, outcome_size)"
        )
    made = make(context_size, outcome_size)
    if not isinstance(made, Predictor):
        raise UserError(
            f"predictor={make!r} made a {type(made).__name__}; expected a subclass of Predictor"
        )
    return made


def _check(predictor: Predictor, estimator: Estimator, layer: DecisionLayer) -> None:
    """Raise UserError for a pair that has no gradient."""
    try:
        check_estimator(estimator)
        check_pair(predictor, estimator)
        if isinstance(estimator, Score) and estimator.mixture.decision_weight:
            estimator.check_layer(layer)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def _owner(
    predictor: Predictor,
    estimator: Estimator,
    rule: DecisionRule,
    settings: Mapping[StageName, TrainingSettings],
    steps: Steps,
    refit: bool,
) -> str:
    """What checkpoints belong to: everything that decides the numbers.

    Raises:
        UserError: a part that cannot be told from another one in another process.
    """
    task = steps.task
    told = fingerprint(
        predictor=predictor,
        estimator=estimator,
        rule=rule,
        settings=dict(settings),
        program=task.program,
        data=[
            (
                (data.contexts, data.outcomes, data.train, data.validation, data.test),
                (data.block_rows, data.gap_rows, data.weights),
            )
            for data in (task.dataset, task.fit_dataset)
            if data is not None
        ],
        task=(task.pooled, task.all_rows_scale),
        refit=refit,
    )
    pair = f"{type(predictor).__name__}-{type(estimator).__name__}"
    return f"{task.name} {pair} seed {steps.seed} {told[:16]}"
