"""What a training is made of: one value, from a script or compiled from a configuration."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Estimator, Score, TwoStage
from diffusion_dfl.estimators.pairs import check_estimator, check_pair, check_weights
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DecisionMaker, Predictor
from diffusion_dfl.programs import Program
from diffusion_dfl.sizes import as_size
from diffusion_dfl.tasks import Task
from diffusion_dfl.tasks.problem import check_problem
from diffusion_dfl.training.rule import DecisionRule
from diffusion_dfl.training.settings import FIT, TRAIN, TrainingSettings

StageName = Literal["foundation", "fit", "train"]

#: Of a predictor: a class or function of ``(d_x, d_y)``, or one that exists.
PredictorLike = DecisionMaker | Callable[[int, int], DecisionMaker]


@dataclass(frozen=True)
class Stages:
    """The stages that a predictor goes through.

    Attributes:
        foundation: first of all, of a residual predictor's base.
        fit: first stage, of the predictor's own loss. None takes a predictor that exists as it is, with
            the scales it has: it was fitted before.
        train: second stage, decision-focused.
        refit: train all stages again, for as many epochs as validated best, on all rows before the
            test.
    """

    foundation: TrainingSettings = FIT
    fit: TrainingSettings | None = FIT
    train: TrainingSettings = TRAIN
    refit: bool = False

    def __post_init__(self) -> None:
        for name in ("foundation", "fit", "train"):
            value = getattr(self, name)
            if not (isinstance(value, TrainingSettings) or (name == "fit" and value is None)):
                raise UserError(
                    f"{name}={value!r}: expected TrainingSettings(epochs=, batch_size=, learning_rate=, "
                    "...)" + (", or None for a predictor that was fitted" if name == "fit" else "")
                )
        if not isinstance(self.refit, bool):
            raise UserError(f"refit={self.refit!r}: expected True or False")

    def settings(self, name: StageName) -> TrainingSettings:
        """The knobs of a stage that is made."""
        found: TrainingSettings | None = getattr(self, name)
        assert found is not None, name
        return found

    @staticmethod
    def names(predictor: DecisionMaker, estimator: Estimator) -> list[StageName]:
        """The stages that there are for such a predictor and estimator."""
        found: list[StageName] = []
        if isinstance(predictor, Predictor):
            base = predictor.base
            if base is not None and not all(member.closed_form for member in base.members):
                found.append("foundation")
            if not predictor.closed_form:
                found.append("fit")
        if estimator.decision_focused:
            found.append("train")
        return found

    def check(self, predictor: DecisionMaker, estimator: Estimator) -> None:
        """Raise ValueError for a refit of what was not fitted, or for no epoch."""
        if not self.refit:
            return
        if self.fit is None:
            raise ValueError(
                "refit=True with fit=None: the predictor was fitted before, so nothing was chosen here "
                "that could be repeated on more rows; let the fit be made, or leave refit out"
            )
        names = self.names(predictor, estimator)
        if names and not any(self.settings(name).epochs for name in names):
            raise ValueError(
                f"refit=True with {', '.join(f'{name}.epochs=0' for name in names)}: no epoch is "
                "chosen that could be repeated on more rows; set epochs above 0, or refit=False"
            )


def check_rule(rule: DecisionRule, program: Program, estimator: Estimator) -> None:
    """Raise ValueError for a rule that cannot decide a program, or under which an estimator is zero."""
    layer = rule.layer(program)
    if not (isinstance(estimator, Score) and estimator.mixture.decision_weight):
        return
    try:
        estimator.check_layer(layer)
    except ValueError as error:
        if rule.learned_from == rule.num_scenarios:
            raise
        said = str(error).replace("num_scenarios", "train_scenarios")
        raise ValueError(said) from error


@dataclass(frozen=True)
class Experiment:
    """A problem, a predictor, and how it is trained and judged.

    Attributes:
        task: program and data.
        predictor: what makes it from ``(d_x, d_y)``, with weights that come from ``seed``; or one that
            exists, of which a copy is trained.
        estimator: of the decision's gradient; a state that it keeps goes on in a refit.
        rule: how decisions are made.
        stages: the knobs of its training.
        seed: of everything random.
    """

    task: Task
    predictor: PredictorLike
    estimator: Estimator = field(default_factory=TwoStage)
    rule: DecisionRule = field(default_factory=DecisionRule)
    stages: Stages = field(default_factory=Stages)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("task", self.task, Task),
            ("decision", self.rule, DecisionRule),
            ("stages", self.stages, Stages),
        ):
            if not isinstance(value, kind):
                told = f"{name} is {type(value).__name__}: expected a {kind.__name__}"
                raise UserError(told + (", as task_from_frame makes one" if kind is Task else ""))
        try:
            object.__setattr__(self, "seed", as_size("seed", self.seed, 0))
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error

    def layer(self) -> DecisionLayer:
        """A decision layer of the rule, with statistics of its own."""
        return self.rule.layer(self.task.program)

    def make(self, context_size: int, outcome_size: int) -> DecisionMaker:
        """A predictor to begin with: a new one, or a copy of the one there is.

        Raises:
            UserError: no predictor came of it, or one of other sizes.
        """
        if isinstance(self.predictor, DecisionMaker):
            return self._copy(self.predictor)
        if self.stages.fit is None:
            raise UserError(
                "fit=None takes a predictor that was fitted before; pass one that exists, such as "
                "fitted.predictor"
            )
        if not callable(self.predictor):
            raise UserError(
                f"predictor={self.predictor!r}: expected a Predictor, or a class or function that makes "
                "one from (context_size, outcome_size)"
            )
        made = self.predictor(context_size, outcome_size)
        if not isinstance(made, DecisionMaker):
            raise UserError(
                f"predictor={self.predictor!r} made a {type(made).__name__}; expected a subclass of "
                "Predictor"
            )
        return made

    def output_size(self, predictor: DecisionMaker) -> int:
        """d_y, or n for a policy."""
        if predictor.decides:
            return self.task.program.num_decisions
        return self.task.dataset.outcomes.shape[1]

    def _copy(self, predictor: DecisionMaker) -> DecisionMaker:
        wanted = (self.task.dataset.contexts.shape[1], self.output_size(predictor))
        if (predictor.context_size, predictor.outcome_size) != wanted:
            raise UserError(
                f"the {type(predictor).__name__} has context_size={predictor.context_size} and "
                f"outcome_size={predictor.outcome_size}; task={self.task.name} needs {wanted[0]} and "
                f"{wanted[1]}"
            )
        return copy.deepcopy(predictor)

    def check(self, predictor: DecisionMaker) -> None:
        """Refuse parts that do not fit each other, before anything is trained.

        Args:
            predictor: one that :meth:`make` made.

        Raises:
            UserError: a problem that cannot be trained on, an estimator that has no gradient for the
                predictor or under the rule, a refit of what was not fitted here, or weights of rows
                that would be left unread.
        """
        check_problem(self.task)
        try:
            self.stages.check(predictor, self.estimator)
            check_estimator(self.estimator)
            check_pair(predictor, self.estimator)
            check_rule(self.rule, self.task.program, self.estimator)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        every = (self.task.dataset, self.task.fit_dataset)
        if any(data is not None and data.weights is not None for data in every):
            try:
                check_weights(predictor, self.estimator)
            except TypeError as error:
                raise UserError(f"task={self.task.name}: {error}") from error
