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

from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Estimator
from diffusion_dfl.predictors import PolicyNetwork, Predictor
from diffusion_dfl.training.loop import Progress
from diffusion_dfl.training.steps import StageName, Steps

logger = logging.getLogger(__name__)

#: A new predictor from ``(d_x, d_y)``.
Maker = Callable[[int, int], Predictor]


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

    predictor: Predictor
    fit: Progress | None
    train: Progress | None
    validation_cost: float | None
    refit_epochs: Mapping[StageName, int] | None
    stages: Mapping[str, Progress]


def learn(
    steps: Steps,
    make: Maker,
    estimator: Callable[[], Estimator],
    *,
    refit: bool = False,
    fitted: Predictor | None = None,
    fitting: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Trained:
    """Every stage that training a predictor goes through.

    Args:
        steps: of the first pass.
        make: a new predictor.
        estimator: a new estimator, which may keep a state of its own.
        refit: whether the result is trained on all rows before the test.
        fitted: a predictor that was fitted before, in place of a new one and its fit.
        fitting: makes what is entered around the fit of a pass.

    Raises:
        UserError: a refit of what was not fitted here, or weights of rows that would be left unread.
    """
    if refit and fitted is not None:
        raise UserError(
            "refit=True with fit=None: the predictor was fitted before, so nothing was chosen here that "
            "could be repeated on more rows; let the fit be made, or leave refit out"
        )
    begun = steps.prepare(make) if fitted is None else fitted
    steps.check_weights(begun, estimator())
    names = _stages(begun, estimator())
    chosen = {name: steps.settings[name].epochs for name in names} if refit else {}
    cost = None
    if not refit or any(steps.settings[name].keep == "best" for name in names):
        predictor, fit, train = _pass(steps, make, estimator(), fitting, fitted)
        cost = steps.validation_cost(predictor)
        if not refit:
            return Trained(predictor, fit, train, cost, None, steps.stages)
        chosen = _chosen(steps, names)
    again = steps.second(chosen)
    predictor, refitted, retrained = _pass(again, make, estimator(), fitting, None)
    if cost is None:
        fit, train = refitted, retrained
    return Trained(predictor, fit, train, cost, chosen, {**steps.stages, **again.stages})


def _stages(predictor: Predictor, estimator: Estimator) -> list[StageName]:
    """Names of the stages there are for such a predictor and estimator."""
    names: list[StageName] = []
    base = predictor.base
    if base is not None and not all(member.closed_form for member in base.members):
        names.append("foundation")
    if not isinstance(predictor, PolicyNetwork) and not predictor.closed_form:
        names.append("fit")
    if estimator.decision_focused:
        names.append("train")
    return names


def _chosen(steps: Steps, names: list[StageName]) -> dict[StageName, int]:
    """Best epochs of the first pass; of a base the mean over its members.

    Of a stage that keeps its last weights they were given, and are the same without a first pass: runs
    that make none share the refit of the fit.
    """
    found: dict[StageName, int] = {}
    for name in names:
        if steps.settings[name].keep == "last":
            found[name] = steps.settings[name].epochs
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
    steps: Steps,
    make: Maker,
    estimator: Estimator,
    fitting: Callable[[], AbstractContextManager[object]],
    fitted: Predictor | None,
) -> tuple[Predictor, Progress | None, Progress | None]:
    predictor = steps.prepare(make) if fitted is None else fitted
    fit = None
    if fitted is None and not isinstance(predictor, PolicyNetwork):
        with fitting():
            fit = steps.fit(predictor)
    train = steps.train(predictor, estimator)
    return predictor.eval(), fit, train
