"""The steps of a run: task, two-stage fit, decision-focused training, evaluation, record."""

import inspect
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Estimator
from diffusion_dfl.estimators.pairs import check_estimator, check_pair
from diffusion_dfl.files import write_json
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import Predictor
from diffusion_dfl.suite.config.compose import Identity, digest, fit_path
from diffusion_dfl.suite.config.own import CODE, check_keys, is_own, locate, told
from diffusion_dfl.suite.config.rules import check_data, check_decision_rule
from diffusion_dfl.suite.loggers import Mirror, Mirrors, RunFacts
from diffusion_dfl.suite.runs.directory import RunDirectory, without_places
from diffusion_dfl.suite.runs.environment import (
    describe_environment,
    peak_memory_bytes,
)
from diffusion_dfl.suite.runs.interface import Interface, write_interface
from diffusion_dfl.suite.runs.progress import EpochLog
from diffusion_dfl.suite.runs.record import make_record, write_rows
from diffusion_dfl.tasks import Task
from diffusion_dfl.tasks.problem import check_problem
from diffusion_dfl.training.checkpoint import Checkpoint, write_tensors
from diffusion_dfl.training.learning import learn
from diffusion_dfl.training.loop import refuse_other_architecture
from diffusion_dfl.training.rule import DecisionRule
from diffusion_dfl.training.settings import TrainingSettings
from diffusion_dfl.training.steps import StageName, Steps
from diffusion_dfl.training.streams import numpy_stream

logger = logging.getLogger(__name__)


def make_task(config: DictConfig) -> Task:
    """The task its ``_target_`` makes, from its own keys and those of ``data`` it has names for.

    Raises:
        UserError: keys it does not take, data it has no use for, or whatever it refuses.
    """
    name, target = config.task.name, config.task._target_
    given = _task_arguments(config)
    keys = {str(key): value for key, value in config.task.items() if key not in ("name", CODE)}
    try:
        task = instantiate(keys, rng=numpy_stream(config.seed, "split"), **given, _convert_="all")
    except InstantiationException as error:
        reason = error.__cause__ or error
        if isinstance(reason, UserError):
            raise reason from None
        raise UserError(f"task={name}: {told(reason)}") from error
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
    """Refuse a task, a model or a grad that cannot be made, before anything is on disk."""
    _task_arguments(config)
    with torch.random.fork_rng(devices=[]):
        predictor = make_predictor(config, 2, 2)
    estimator = make_estimator(config)
    try:
        check_pair(predictor, estimator)
    except TypeError as error:
        raise UserError(f"model={config.model.name} grad={config.grad.name}: {error}") from error


def make_predictor(config: DictConfig, context_size: int, outcome_size: int) -> Predictor:
    """The untrained predictor of ``model=``.

    Raises:
        UserError: an argument it does not take.
    """
    name = config.model.name
    check_keys("model", name, config.model, {"context_size", "outcome_size"})
    arguments = {k: v for k, v in config.model.items() if k not in ("name", CODE)}
    try:
        predictor = instantiate(arguments, context_size, outcome_size)
    except Exception as error:
        raise UserError(f"model={name}: {told(error.__cause__ or error)}") from error
    if not isinstance(predictor, Predictor):
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
    arguments = {k: v for k, v in config.grad.items() if k not in ("name", CODE)}
    if "num_scenarios" in inspect.signature(locate("grad", name, target)).parameters:
        check_keys("grad", name, config.grad, {"num_scenarios"})
        arguments["num_scenarios"] = config.decision.num_scenarios
    else:
        check_keys("grad", name, config.grad, ())
    try:
        estimator: Estimator = instantiate(arguments)
    except Exception as error:
        raise UserError(f"grad={name}: {told(error.__cause__ or error)}") from error
    try:
        check_estimator(estimator)
    except TypeError as error:
        raise UserError(f"grad={name}: {error}") from error
    return estimator


def decision_rule(config: DictConfig) -> DecisionRule:
    """The run's decision rule."""
    return DecisionRule(**{str(key): value for key, value in config.decision.items()})


def make_layer(config: DictConfig, task: Task) -> DecisionLayer:
    """A layer of the run's decision rule, with statistics of its own."""
    return decision_rule(config).layer(task.program)


def stage_settings(config: DictConfig) -> dict[StageName, TrainingSettings]:
    """The knobs of every stage."""
    found: dict[StageName, TrainingSettings] = {}
    for stage in get_args(StageName):
        values = OmegaConf.to_container(config[stage])
        assert isinstance(values, dict)
        values.pop("refit", None)  # Of the training as a whole.
        found[stage] = TrainingSettings(**{str(key): value for key, value in values.items()})
    return found


class Execution:
    """The steps of one run; state that several of them share.

    Args:
        config: valid.
        identity: what the run is.
        device: resolved.
        directory: held and claimed.
    """

    def __init__(
        self, config: DictConfig, identity: Identity, device: torch.device, directory: RunDirectory
    ) -> None:
        self.config, self.identity, self.device, self.directory = (
            config,
            identity,
            device,
            directory,
        )
        torch.set_num_threads(config.threads)
        # Of the networks' products; solvers are float64, which no setting touches.
        torch.set_float32_matmul_precision(config.matmul_precision)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.start = time.perf_counter()
        self.mirrors = Mirrors(_facts(config, identity, directory.path), _mirrors(config))
        self.task = make_task(config)
        check_problem(self.task)
        check_decision_rule(config, self.task.program.kinked)
        self.steps = Steps(
            self.task,
            decision_rule(config),
            stage_settings(config),
            config.seed,
            device,
            self._place,
        )
        place = fit_path(config)
        self.shared = RunDirectory(Path(config.output.root, "runs") / place, place.as_posix())

    def execute(self) -> dict[str, Any]:
        """Fit, train, evaluate and write the record."""
        config = self.config
        write_json(
            self.directory.path / "env.json", describe_environment(self.device, config.threads)
        )
        logger.info("%s", self.directory.path)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            self._refuse_other_architecture()
            trained = learn(
                self.steps,
                partial(make_predictor, config),
                partial(make_estimator, config),
                refit=config.fit.refit,
                fitting=partial(self.shared.locked, wait=True),
            )
        predictor = trained.predictor
        self.directory.check_held()
        write_tensors(self.directory.weights, predictor.state_dict())
        write_interface(self.directory.path, Interface.of(self.task))
        started = time.perf_counter()
        result = None
        if config.evaluation.test:
            result = self.steps.evaluate(predictor, "test", config.evaluation.num_large)
        evaluated = time.perf_counter() - started
        summary = make_record(
            self.identity,
            trained,
            result,
            self.steps.baselines() if result is not None else {},
            higher_is_better=self.task.higher_is_better,
            solver=self.steps.layer.statistics.counts(),
            seconds={
                "solving": self.steps.layer.statistics.seconds,
                "evaluation": evaluated,
                "total": time.perf_counter() - self.start,
            },
            resources={
                "device": self.device.type,
                "threads": config.threads,
                "peak_memory_bytes": peak_memory_bytes(self.device),
            },
        )
        if result is not None:
            labels = self.task.dataset.row_names[self.task.dataset.test]
            write_rows(self.directory.path / "rows.csv", labels, result)
        write_json(self.directory.summary, summary)
        names = ("summary.json", "config.yaml", "env.json", "metrics.jsonl", "rows.csv")
        files = [self.directory.path / name for name in names]
        self.mirrors.record(summary, [file for file in files if file.exists()])
        return summary

    def _refuse_other_architecture(self) -> None:
        """Read a checkpoint of the last stage first, so that the fit is not made for nothing."""
        checkpoint = self.directory.checkpoint
        if checkpoint.exists():
            saved = checkpoint.load(torch.device("cpu"))
            predictor = self.steps.prepare(partial(make_predictor, self.config))
            refuse_other_architecture(checkpoint.path, saved["predictor"], predictor)

    def _place(self, name: StageName, label: str, epochs: int) -> tuple[Checkpoint, EpochLog]:
        """The fit's files are shared by runs; those of ``train`` are the run's own."""
        directory = self.directory if name == "train" else self.shared
        log = EpochLog(
            directory.metrics,
            self.mirrors,
            epochs,
            f"{self.identity.model}-{self.identity.grad} seed {self.config.seed} {label}",
        )
        checkpoint = directory.checkpoint
        if label not in (
            "fit",
            "train",
        ):  # Of several stages in a directory one has the plain name.
            checkpoint = Checkpoint(checkpoint.path.with_name(f"{label}.pt"), directory.owner)
        return checkpoint, log


def _facts(config: DictConfig, identity: Identity, directory: Path) -> RunFacts:
    """What mirrors say about a run."""
    place = identity.path
    container = OmegaConf.to_container(without_places(config), resolve=True)
    assert isinstance(container, dict)
    return RunFacts(
        identity.task,
        directory,
        group=f"{identity.task}/{place.parent.name}",
        name=f"{place.parent.name}-s{identity.seed}",
        key=digest([place.as_posix(), identity.config_hash], 16),
        tags=(identity.task, identity.model, identity.grad, identity.scale, identity.source),
        config={str(key): value for key, value in container.items()},
    )


def _mirrors(config: DictConfig) -> dict[str, Callable[[RunFacts], Mirror]]:
    """Makers of the mirrors that ``logger=`` asks for; packages are imported when they are called."""
    settings = config.logger
    makers: dict[str, Callable[[RunFacts], Mirror]] = {}
    if settings.wandb:
        from diffusion_dfl.suite.loggers.wandb import WandbMirror

        makers["wandb"] = partial(
            WandbMirror,
            project=settings.project,
            entity=settings.entity,
            tags=tuple(settings.tags),
        )
    if settings.tensorboard:
        from diffusion_dfl.suite.loggers.tensorboard import TensorBoardMirror

        makers["tensorboard"] = TensorBoardMirror
    return makers
