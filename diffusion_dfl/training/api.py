"""Training as a function: a task, a predictor and an estimator in, decisions out; no configuration.

    fitted = train(task, GaussianPredictor, Score(100, fit_weight=1.0))
    fitted.evaluate().metrics["task"]
    fitted.decide(contexts)

The steps are those of a run of ``train.py``: the same settings, seed and number of torch threads give
the same numbers.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Estimator, TwoStage
from diffusion_dfl.predictors import DecisionMaker
from diffusion_dfl.progress import Listener, listening
from diffusion_dfl.tasks import Task
from diffusion_dfl.training.checkpoint import Checkpoint
from diffusion_dfl.training.comparison import own_rule
from diffusion_dfl.training.device import resolve_device
from diffusion_dfl.training.experiment import Experiment, PredictorLike, StageName, Stages
from diffusion_dfl.training.fingerprint import fingerprint
from diffusion_dfl.training.fitted import Fitted
from diffusion_dfl.training.interface import Interface
from diffusion_dfl.training.learning import learn
from diffusion_dfl.training.rule import DecisionRule
from diffusion_dfl.training.settings import FIT, TRAIN, TrainingSettings
from diffusion_dfl.training.steps import Steps

logger = logging.getLogger(__name__)


@dataclass
class _Memory:
    """Epochs of a stage, kept, told to :mod:`logging` at level INFO and to a listener."""

    total: int
    listener: Listener | None
    epochs: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def epoch(self, stage: str, epoch: int, values: dict[str, float]) -> None:
        self.epochs.append((epoch, values))
        shown = " ".join(f"{name}={value:.4g}" for name, value in values.items())
        logger.info("%s epoch %d %s", stage, epoch, shown)
        if self.listener is not None:
            self.listener(stage, epoch, self.total, values)

    def restore(self, stage: str, epochs: Sequence[tuple[int, dict[str, float]]]) -> None:
        self.epochs[:] = epochs


def train(
    task: Task | Experiment,
    predictor: PredictorLike | None = None,
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
    progress: Listener | bool = True,
) -> Fitted:
    """Fit a predictor to a task's data, then train it for its decisions.

    Args:
        task: program and data, e.g. of :func:`~diffusion_dfl.tasks.task_from_frame`; what its rows
            count for, if they have weights, they count for in every loss and validation score here. Or
            an :class:`~diffusion_dfl.training.experiment.Experiment`, which has all the other parts.
        predictor: a class or function that makes one from ``(d_x, d_y)``, with weights that come
            from ``seed``; or one that exists, of which a copy is trained.
        estimator: of the decision's gradient; None (or ``TwoStage()``) leaves it at the fit.
        decision: how decisions are made. None takes the rule of the :class:`Fitted` that a predictor
            which exists is of (a copy of one brings none), and else the defaults of
            :class:`DecisionRule`; the number of scenarios is the estimator's ``num_scenarios``, if it
            has one.
        foundation, fit, train: knobs of the stages: a residual predictor's base, the predictor's own
            loss, the decision cost. ``fit=None`` takes an existing predictor as
            it is, with the scales it has: it was fitted before.
        seed: of everything random.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        directory: where checkpoints are kept, so that the same call goes on where it was stopped;
            None writes no file. Another call is refused, whatever differs: the data or its split,
            an option, the code or a constant of a function of the program.
        refit: train again, for as many epochs as validated best, on all rows before the test.
        progress: told every epoch, as ``progress(stage, done, total, values)``
            (:class:`~diffusion_dfl.progress.Listener`); a stage that stops early says no more. True
            draws a bar on standard error where that is a terminal, and False nothing.

    Raises:
        UserError: parts that do not fit each other, or a problem that cannot be trained on; nothing
            was trained.
        TrainingDiverged, SolverFailure: training cannot go on.
    """
    if isinstance(task, Experiment):
        experiment = task
        given = (predictor, estimator, decision, foundation, fit, train, seed, refit)
        if given != (None, None, None, FIT, FIT, TRAIN, 0, False):
            raise UserError(
                "train(experiment) takes device=, directory= and progress= alone; the other parts are "
                "the experiment's: dataclasses.replace(experiment, ...) changes one"
            )
    elif predictor is None:
        raise UserError("train(task, predictor, ...): there is no predictor; give its class, say")
    else:
        estimator = TwoStage() if estimator is None else estimator
        rule = _rule(decision, estimator, own_rule(predictor))
        stages = Stages(foundation, fit, train, refit)
        experiment = Experiment(task, predictor, estimator, rule, stages, seed)
    if not isinstance(directory, str | Path | None):
        raise UserError(f"directory={directory!r}: expected a folder's path, or None for no files")
    place = resolve_device(device)
    histories: dict[str, _Memory] = {}
    owner = ""

    def where(stage: StageName, label: str, epochs: int) -> tuple[Checkpoint | None, _Memory]:
        histories[label] = _Memory(epochs, listener)
        if directory is None:
            return None, histories[label]
        Path(directory).mkdir(parents=True, exist_ok=True)
        return Checkpoint(Path(directory, f"{label}.pt"), owner), histories[label]

    steps = Steps(experiment, place, where)
    devices = [place] if place.type == "cuda" else []
    with listening(progress) as listener, torch.random.fork_rng(devices=devices):
        if directory is not None:
            begun = steps.prepare()
            experiment.check(begun)
            owner = _owner(experiment, begun)
        trained = learn(steps)
    return Fitted(
        trained.predictor,
        experiment.rule,
        Interface.of(experiment.task),
        experiment.seed,
        place,
        experiment.task,
        trained.validation_cost,
        trained.fit,
        trained.train,
        {stage: tuple(memory.epochs) for stage, memory in histories.items()},
    )


def _rule(
    decision: DecisionRule | None, estimator: Estimator, own: DecisionRule | None
) -> DecisionRule:
    """The rule, which says how many scenarios the estimator learns from: M, or fewer by intent.

    ``own`` is that of the predictor, where it was trained before.
    """
    count = getattr(estimator, "num_scenarios", None)
    if not isinstance(decision, DecisionRule | None):
        raise UserError(f"decision={decision!r}: expected a DecisionRule, or None for its defaults")
    rule = own or DecisionRule() if decision is None else decision
    if count in (None, rule.learned_from):
        return rule
    if decision is None:
        return replace(rule, num_scenarios=count, train_scenarios=None)
    mend = "make them the same"
    if count < rule.num_scenarios:
        mend += (
            ", or say that it learns from fewer than those that decide: "
            f"decision.train_scenarios={count}"
        )
    raise UserError(
        f"decision.num_scenarios={rule.num_scenarios}, but {type(estimator).__name__} has "
        f"num_scenarios={count}; {mend}"
    )


def _owner(experiment: Experiment, predictor: DecisionMaker) -> str:
    """What checkpoints belong to: everything that decides the numbers.

    Raises:
        UserError: a part that cannot be told from another one in another process.
    """
    task, stages = experiment.task, experiment.stages
    told = fingerprint(
        predictor=predictor,
        estimator=experiment.estimator,
        rule=experiment.rule,
        settings={
            "foundation": stages.foundation,
            "fit": FIT if stages.fit is None else stages.fit,
            "train": stages.train,
        },
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
        refit=stages.refit,
    )
    pair = f"{type(predictor).__name__}-{type(experiment.estimator).__name__}"
    return f"{task.name} {pair} seed {experiment.seed} {told[:16]}"
