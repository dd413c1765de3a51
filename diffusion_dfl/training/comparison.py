"""What predictors are decided by when they are compared, and when one is trained on."""

import logging
import weakref
from dataclasses import dataclass, fields, replace
from weakref import WeakKeyDictionary

from diffusion_dfl.predictors import DecisionMaker
from diffusion_dfl.tasks import Task
from diffusion_dfl.training.rule import DecisionRule

logger = logging.getLogger(__name__)

#: Rules that predictors were trained for.
_OWN: "WeakKeyDictionary[DecisionMaker, DecisionRule]" = WeakKeyDictionary()


@dataclass(frozen=True)
class _Judged:
    """An evaluated predictor: its name, and its rule as far as decisions depend on it."""

    name: str
    rule: DecisionRule
    stochastic: bool

    def differences(self, other: "_Judged") -> list[str]:
        """Fields of the rules that differ; of a point prediction only those that it has."""
        names = [field.name for field in fields(DecisionRule)]
        if self.stochastic != other.stochastic:
            names = ["regularise"]
        return [name for name in names if getattr(self.rule, name) != getattr(other.rule, name)]

    def said(self, names: list[str]) -> str:
        return " and ".join(f"{name}={getattr(self.rule, name)!r}" for name in names)


#: Those that were evaluated on a task, by its id, while it lives.
_JUDGED: dict[int, list[_Judged]] = {}


def belongs(predictor: DecisionMaker, rule: DecisionRule) -> None:
    """Remember the rule that a predictor was first trained for."""
    _OWN.setdefault(predictor, rule)


def own_rule(predictor: object) -> DecisionRule | None:
    """The rule that a predictor was trained for; None for one that was not, or a copy."""
    return _OWN.get(predictor) if isinstance(predictor, DecisionMaker) else None


def note(task: Task, predictor: DecisionMaker, rule: DecisionRule) -> None:
    """Warn where a predictor is judged by another rule than one before it on the same task.

    Once a rule. What changes no decision does not count: the solver, the smoothing of a program without
    kinks, the number of scenarios of a point prediction. A policy has no rule.
    """
    if predictor.decides:
        return
    rule = replace(rule, solver="auto", on_failure="drop", max_failure_share=0.0)
    if not predictor.stochastic:
        rule = replace(rule, num_scenarios=1)
    if not (predictor.stochastic and task.program.kinked):
        rule = replace(rule, bandwidth_scale=0.0, curvature="convolved")
    new = _Judged(type(predictor).__name__, rule, predictor.stochastic)
    if id(task) not in _JUDGED:
        _JUDGED[id(task)] = []
        weakref.finalize(task, _JUDGED.pop, id(task), None)
    before = _JUDGED[id(task)]
    if any(new.rule == old.rule and new.stochastic == old.stochastic for old in before):
        return
    before.append(new)
    for old in before[:-1]:
        names = new.differences(old)
        if names:
            logger.warning(
                "task %s: this %s decides with %s, the %s evaluated before it with %s; the difference of "
                "their costs is also that of the rules. Give both the same decision=DecisionRule(...)",
                task.name,
                new.name,
                new.said(names),
                old.name,
                old.said(names),
            )
            return
