"""Training from its first step to its last, in one pass or two.

With a refit the first pass holds the validation rows out and finds how many epochs every stage wants; the
second begins anew with the same seed and trains for so many on all rows before the test, as plain
baselines do. Where no stage chooses (``keep="last"``: its epochs were chosen before, in a search), the
first pass has nothing to find and is left out.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from diffusion_dfl.predictors import DecisionMaker, Predictor
from diffusion_dfl.training.experiment import StageName
from diffusion_dfl.training.loop import Progress
from diffusion_dfl.training.steps import Steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a training made.

    Attributes:
        predictor: in evaluation mode.
        fit: progress of the predictor's own fit; None for one that was not made.
        train: of the decision-focused stage; likewise.
        validation_cost: mean decision cost on rows no stage was trained on; None where there are
            none, since all rows before the test were.
        refit_epochs: how many epochs every stage of the second pass took; None without one.
        stages: every stage that was gone through, by its label.
    """

    predictor: DecisionMaker
    fit: Progress | None
    train: Progress | None
    validation_cost: float | None
    refit_epochs: Mapping[StageName, int] | None
    stages: Mapping[str, Progress]


def learn(
    steps: Steps, fitting: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Trained:
    """Every stage that training goes through.

    Args:
        steps: of the first pass.
        fitting: makes what is entered around the fit of a pass.

    Raises:
        UserError: parts that do not fit each other, or weights of rows that would be left unread.
    """
    stages = steps.experiment.stages
    begun = steps.prepare()
    steps.experiment.check(begun)
    names = stages.names(begun, steps.experiment.estimator)
    chosen = {name: stages.settings(name).epochs for name in names} if stages.refit else {}
    cost = None
    if not stages.refit or any(stages.settings(name).keep == "best" for name in names):
        predictor, fit, train = _pass(steps, fitting)
        cost = steps.validation_cost(predictor)
        if not stages.refit:
            return Trained(predictor, fit, train, cost, None, steps.stages)
        chosen = _chosen(steps, names)
    again = steps.second(chosen)
    predictor, refitted, retrained = _pass(again, fitting)
    if cost is None:
        fit, train = refitted, retrained
    return Trained(predictor, fit, train, cost, chosen, {**steps.stages, **again.stages})


def _chosen(steps: Steps, names: list[StageName]) -> dict[StageName, int]:
    """Best epochs of the first pass; of a base the mean over its members.

    Of a stage that keeps its last weights they were given, and are the same without a first pass: runs
    that make none share the refit of the fit.
    """
    found: dict[StageName, int] = {}
    for name in names:
        settings = steps.experiment.stages.settings(name)
        if settings.keep == "last":
            found[name] = settings.epochs
            continue
        epochs = [
            progress.best_epoch
            for label, progress in steps.stages.items()
            if label.partition("-")[0] == name
        ]
        found[name] = round(sum(epochs) / len(epochs))
        if not found[name]:
            logger.warning(
                "no epoch of stage %s validates better than none: the refit leaves it out", name
            )
    return found


def _pass(
    steps: Steps, fitting: Callable[[], AbstractContextManager[object]]
) -> tuple[DecisionMaker, Progress | None, Progress | None]:
    predictor, fit = steps.prepare(), None
    if steps.experiment.stages.fit is not None and isinstance(predictor, Predictor):
        with fitting():
            fit = steps.fit(predictor)
    train = steps.train(predictor, steps.experiment.estimator)
    return predictor.eval(), fit, train
