"""A configuration compiled to what the library trains: task, predictor, estimator, rule, stages."""

import inspect
import logging
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Estimator
from diffusion_dfl.estimators.pairs import check_estimator, check_pair
from diffusion_dfl.predictors import DecisionMaker
from diffusion_dfl.programs import Program
from diffusion_dfl.suite.config.compose import stage_settings
from diffusion_dfl.suite.config.keys import keyed, with_keys
from diffusion_dfl.suite.config.own import (
    CODE,
    cause,
    check_keys,
    is_own,
    locate,
    with_settings,
)
from diffusion_dfl.suite.config.rules import check_data
from diffusion_dfl.tasks import Task
from diffusion_dfl.training.experiment import Experiment, Stages, check_rule
from diffusion_dfl.training.rule import DecisionRule
from diffusion_dfl.training.streams import numpy_stream

logger = logging.getLogger(__name__)


def make_task(config: DictConfig) -> Task:
    """The task its ``_target_`` makes, from its own keys and those of ``data`` it has names for.

    Raises:
        UserError: keys it does not take, data it has no use for, or whatever it refuses.
    """
    name, target = config.task.name, config.task._target_
    given = _task_arguments(config)
    rng = numpy_stream(config.seed, "split")
    task = _made("task", config.task, rng=rng, **given, _convert_="all")
    if not isinstance(task, Task):
        raise UserError(
            f"task={name}: {target} returned {type(task).__name__}; expected a "
            "diffusion_dfl.tasks.Task, such as task_from_frame makes"
        )
    return task


def _task_arguments(config: DictConfig) -> dict[str, Any]:
    """What a task's function takes of ``data``, after its keys were held against its signature."""
    name, target = config.task.name, config.task._target_
    names = inspect.signature(locate("task", name, target)).parameters
    given = {str(key): value for key, value in config.data.items() if key in names}
    check_keys("task", name, config.task, {"rng", *given})
    source = config.data.source
    if "source" not in names and is_own(target) and source not in ("own", "simulated"):
        raise UserError(
            f"data={source}: task={name} brings its own data; add\n"
            "  - override /data@_global_.data: own\n"
            "to the defaults of its YAML, or write data=own"
        )
    if "source" not in names and not is_own(target) and source != "simulated":
        raise UserError(
            f"data={source}: task={name} simulates its own data; leave data= "
            "out, or write data=simulated"
        )
    check_data(config, names)
    return given


def check_parts(config: DictConfig) -> None:
    """Refuse parts that cannot be made or do not suit each other, before anything is on disk.

    Raises:
        UserError: naming the key, the value and the mend.
    """
    _task_arguments(config)
    decision_rule(config)  # Before the estimator, which has its M.
    with torch.random.fork_rng(devices=[]):
        predictor = make_predictor(config, 2, 2)
    estimator, plan = make_estimator(config), stages(config)
    pair = f"model={config.model.name} grad={config.grad.name}: "
    with keyed({"grad": config.grad, "model": config.model}, pair):
        check_pair(predictor, estimator)
    with keyed({"fit": ["refit"]}):
        plan.check(predictor, estimator)
    names = plan.names(predictor, estimator)
    last = all(plan.settings(name).keep == "last" for name in names)
    if plan.refit and not config.evaluation.test and last:
        raise UserError(
            f"evaluation.test=false with fit.refit=true and {(names or ['fit'])[-1]}.keep=last: all rows before "
            "the test are trained on and the test is not looked at, so nothing would be measured; add "
            "fit.refit=false, which keeps the validation rows out"
        )


def check_rule_of(config: DictConfig, program: Program) -> None:
    """Refuse a decision rule that cannot decide the program, or under which the estimator is zero.

    Raises:
        UserError: naming the key, the value and the mend.
    """
    estimator = make_estimator(config)
    with keyed({"decision": config.decision}, f"grad={config.grad.name}: "):
        check_rule(decision_rule(config), program, estimator)
    if config.decision.solver == "cvxpy" and estimator.decision_focused:
        logger.warning("decision.solver=cvxpy solves one instance at a time: expect minutes a step")


def make_predictor(config: DictConfig, context_size: int, outcome_size: int) -> DecisionMaker:
    """The untrained predictor of ``model=``.

    Raises:
        UserError: an argument it does not take.
    """
    name = config.model.name
    check_keys("model", name, config.model, {"context_size", "outcome_size"})
    predictor = _made("model", config.model, context_size, outcome_size)
    if not isinstance(predictor, DecisionMaker):
        raise UserError(
            f"model={name}: {config.model._target_} made a {type(predictor).__name__}; expected a "
            "subclass of diffusion_dfl.predictors.Predictor"
        )
    return predictor


def make_estimator(config: DictConfig) -> Estimator:
    """The estimator of ``grad=``; the M of the decision rule is passed to one that takes it.

    Raises:
        UserError: an argument it does not take.
    """
    name, target = config.grad.name, config.grad._target_
    given: dict[str, Any] = {}
    if "num_scenarios" in inspect.signature(locate("grad", name, target)).parameters:
        given["num_scenarios"] = decision_rule(config).learned_from
    check_keys("grad", name, config.grad, given)
    estimator: Estimator = _made("grad", config.grad, **given)
    try:
        check_estimator(estimator)
    except TypeError as error:
        raise UserError(f"grad={name}: {error}") from error
    return estimator


def _made(group: str, node: DictConfig, *given: Any, **named: Any) -> Any:
    """What a node's target makes of its keys and of what is given beside them.

    Raises:
        UserError: what it refused, with keys in the place of arguments, or after the node's name where it
            names none.
    """
    keys = {str(key): value for key, value in node.items() if key not in ("name", CODE)}
    try:
        arguments = with_settings(locate(group, node.name, node._target_), keys)
        settings = {name: arguments.pop(name) for name in arguments.keys() - keys.keys()}
        return instantiate({**arguments, "_partial_": True}, *given, **named)(**settings)
    except Exception as error:
        wrapped = isinstance(error, InstantiationException) and error.__cause__
        reason = wrapped or error
        if isinstance(reason, UserError):
            raise reason from None
        said = cause(reason)
        with_names = with_keys(said, {group: list(keys)})
        if with_names == said:
            with_names = f"{group}={node.name}: {said}"
        raise UserError(with_names) from error


def decision_rule(config: DictConfig) -> DecisionRule:
    """The run's decision rule.

    Raises:
        UserError: a value out of range.
    """
    with keyed({"decision": config.decision}):
        return DecisionRule(**{str(key): value for key, value in config.decision.items()})


def stages(config: DictConfig) -> Stages:
    """The knobs of every stage.

    Raises:
        UserError: a value out of range.
    """
    return Stages(**stage_settings(config), refit=config.fit.refit)


def compiled(config: DictConfig, task: Task | None = None) -> Experiment:
    """The experiment that a configuration describes; below it no configuration is read.

    Args:
        config: valid.
        task: the configuration's, where it is made already, or a part of it.
    """
    return Experiment(
        make_task(config) if task is None else task,
        partial(make_predictor, config),
        make_estimator(config),
        decision_rule(config),
        stages(config),
        config.seed,
    )
