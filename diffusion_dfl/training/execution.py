"""The steps of a run: task, two-stage fit, decision-focused training, evaluation, record."""

import inspect
import logging
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_method, instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_dfl.config.compose import (
    Identity,
    check_decision_rule,
    digest,
    fit_path,
)
from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Estimator, TwoStage
from diffusion_dfl.files import write_json
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.loggers import Mirror, Mirrors, RunFacts
from diffusion_dfl.predictors import PolicyNetwork, Predictor
from diffusion_dfl.solvers import solve
from diffusion_dfl.tasks import Judgement, Task, evaluate
from diffusion_dfl.tasks.evaluation import decision_score
from diffusion_dfl.training.checkpoint import Checkpoint, write_tensors
from diffusion_dfl.training.environment import (
    describe_environment,
    peak_memory_bytes,
)
from diffusion_dfl.training.loop import (
    Progress,
    Stage,
    TrainingSettings,
    refuse_other_architecture,
)
from diffusion_dfl.training.progress import EpochLog
from diffusion_dfl.training.record import make_record, write_rows
from diffusion_dfl.training.run_directory import RunDirectory, without_places
from diffusion_dfl.training.streams import Stream, numpy_stream, stream_seed, torch_stream

logger = logging.getLogger(__name__)

# Noise draws of the predictor's own validation loss: enough to rank epochs.
_FIT_SCORE_DRAWS = 8


def make_task(config: DictConfig) -> Task:
    """The task its ``_target_`` makes, from its own keys and those of ``data`` it has names for."""
    keys = {str(key): value for key, value in config.task.items() if key != "name"}
    names = inspect.signature(get_method(keys["_target_"])).parameters
    given = {str(key): value for key, value in config.data.items() if key in names}
    if "source" not in names and config.data.source != "simulated":
        raise UserError(
            f"data={config.data.source}: task={config.task.name} simulates its own data; leave data= "
            "out, or write data=simulated"
        )
    try:
        task = instantiate(keys, rng=numpy_stream(config.seed, "split"), **given, _convert_="all")
    except InstantiationException as error:
        reason = error.__cause__ or error
        if isinstance(reason, UserError):
            raise reason from None
        raise UserError(f"task={config.task.name}: {reason}") from error
    assert isinstance(task, Task)
    return task


def check_parts(config: DictConfig) -> None:
    """Refuse a model or a grad that cannot be made, before anything is on disk."""
    with torch.random.fork_rng(devices=[]):
        make_predictor(config, 2, 2)
    make_estimator(config)


def make_predictor(config: DictConfig, context_size: int, outcome_size: int) -> Predictor:
    """The untrained predictor of ``model=``.

    Raises:
        UserError: an argument it does not take.
    """
    arguments = {k: v for k, v in config.model.items() if k != "name"}
    try:
        predictor = instantiate(arguments, context_size, outcome_size)
    except Exception as error:
        reason = error.__cause__ or error
        raise UserError(f"model={config.model.name}: {reason}") from error
    assert isinstance(predictor, Predictor)
    return predictor


def make_estimator(config: DictConfig) -> Estimator:
    """The estimator of ``grad=``.

    Raises:
        UserError: an argument it does not take.
    """
    arguments = {k: v for k, v in config.grad.items() if k != "name"}
    if config.grad.name in ("reparam", "score", "score_path"):
        arguments["num_scenarios"] = config.decision.num_scenarios
    try:
        estimator: Estimator = instantiate(arguments)
    except Exception as error:
        reason = error.__cause__ or error
        raise UserError(f"grad={config.grad.name}: {reason}") from error
    return estimator


def make_layer(config: DictConfig, task: Task) -> DecisionLayer:
    """The run's decision rule; each call's has statistics of its own."""
    settings = config.decision
    return DecisionLayer(
        task.program,
        settings.bandwidth_scale,
        sample_size=settings.num_scenarios,
        curvature=settings.curvature,
        solver=settings.solver,
        on_failure=settings.on_failure,
        max_failure_share=settings.max_failure_share,
    )


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
        check_decision_rule(config, self.task.program.kinked)
        self.layer = make_layer(self.config, self.task)

    def execute(self) -> dict[str, Any]:
        """Fit, train, evaluate and write the record."""
        config = self.config
        write_json(
            self.directory.path / "env.json", describe_environment(self.device, config.threads)
        )
        logger.info("%s", self.directory.path)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            predictor, fit_progress = self._fitted_predictor()
            train_progress = self._train(predictor)
        self.directory.check_held()
        write_tensors(self.directory.weights, predictor.state_dict())
        started = time.perf_counter()
        validation = self._score(predictor, make_layer(self.config, self.task))
        result = None
        if config.evaluation.test:
            result = evaluate(
                predictor,
                self.layer,
                *self._rows("test"),
                self._num_scenarios(predictor),
                torch_stream(config.seed, "test", self.device),
                self._judge,
                config.evaluation.num_large,
                self.task.pooled,
            )
        evaluated = time.perf_counter() - started
        summary = make_record(
            self.identity,
            validation,
            result,
            self._baselines() if result is not None else {},
            fit_progress,
            train_progress,
            higher_is_better=self.task.higher_is_better,
            solver=self.layer.statistics.counts(),
            seconds={
                "solving": self.layer.statistics.seconds,
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

    def _judge(self, decisions: NDArray[np.float64]) -> Judgement:
        return self.task.judge(self.task.dataset.test, decisions)

    def _baselines(self) -> dict[str, float | None]:
        """Headline number of the task's plain baselines on the same test rows; None for infinity."""
        found = {name: self._judge(made).task for name, made in self.task.baselines().items()}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    def _rows(self, part: str, stage: str = "train") -> tuple[Tensor, Tensor]:
        """Contexts and outcomes of ``train``, ``validation`` or ``test``, float32 on the device.

        ``foundation`` and ``fit`` are the stages that read the task's ``fit_dataset``.
        """
        data = self.task.dataset
        if stage != "train" and self.task.fit_dataset is not None:
            data = self.task.fit_dataset
        index = getattr(data, part)
        return (
            torch.as_tensor(data.contexts[index], dtype=torch.float32).to(self.device),
            torch.as_tensor(data.outcomes[index], dtype=torch.float32).to(self.device),
        )

    def _num_scenarios(self, predictor: Predictor) -> int:
        return self.config.decision.num_scenarios if predictor.stochastic else 1

    def _new_predictor(self) -> Predictor:
        torch.manual_seed(stream_seed(self.config.seed, "initialisation"))
        sizes = self.task.dataset.contexts.shape[1], self.task.dataset.outcomes.shape[1]
        predictor = make_predictor(self.config, *sizes)
        contexts, outcomes = self._rows("train")
        if self.task.all_rows_scale:
            contexts = contexts.new_tensor(self.task.dataset.contexts)
        if isinstance(predictor, PolicyNetwork):
            outcomes = self._hindsight(outcomes)
        predictor.fit_scaling(contexts, outcomes)
        return predictor.to(self.device)

    def _hindsight(self, outcomes: Tensor) -> Tensor:
        """The decisions that would have been best for training outcomes: a policy's scale."""
        solution = solve(self.task.program, outcomes.cpu().double().unsqueeze(1))
        return solution.decision[solution.solved].to(outcomes)

    def _fitted_predictor(self) -> tuple[Predictor, Progress | None]:
        """The two-stage weights, made once for all runs that share them, under a lock."""
        predictor = self._new_predictor()
        if self.directory.checkpoint.exists():
            # Of the last stage; read first, so that the fit is not made for nothing.
            saved = self.directory.checkpoint.load(torch.device("cpu"))
            path = self.directory.checkpoint.path
            refuse_other_architecture(path, saved["predictor"], predictor)
        if self.config.grad.name == "policy":
            return predictor, None
        place = fit_path(self.config)
        shared = RunDirectory(Path(self.config.output.root, "runs") / place, place.as_posix())
        base = predictor.foundation()
        with shared.locked(wait=True):
            if base is not None:
                base.requires_grad_(True)
                self._stage(
                    "foundation", base, TwoStage(), self.config.foundation, self._fit_score, shared
                ).run()
                base.requires_grad_(False)
            stage = self._stage(
                "fit", predictor, TwoStage(), self.config.fit, self._fit_score, shared
            )
            progress = stage.run()
        return predictor, progress

    def _fit_score(self, predictor: Predictor) -> float:
        """The predictor's own loss on the validation days, with the same noise every time."""
        generator = torch_stream(self.config.seed, "validation", self.device)
        rows = self._rows("validation", "fit")
        draws = _FIT_SCORE_DRAWS if predictor.stochastic else 1
        with torch.no_grad():
            losses = [predictor.loss(*rows, generator) for _ in range(draws)]
            return float(torch.stack(losses).mean())

    def _score(self, predictor: Predictor, layer: DecisionLayer) -> float:
        """Mean decision cost on the validation days under the run's rule, same noise every time."""
        return decision_score(
            predictor,
            layer,
            *self._rows("validation"),
            self._num_scenarios(predictor),
            torch_stream(self.config.seed, "validation", self.device),
            self.task.pooled,
        )

    def _train(self, predictor: Predictor) -> Progress | None:
        estimator = make_estimator(self.config)
        if not estimator.decision_focused:
            return None
        # Validation solves must not count as training solves.
        judge = make_layer(self.config, self.task)
        torch.manual_seed(stream_seed(self.config.seed, "training"))
        stage = self._stage(
            "train",
            predictor,
            estimator,
            self.config.train,
            lambda candidate: self._score(candidate, judge),
            self.directory,
        )
        return stage.run()

    def _stage(
        self,
        name: str,
        predictor: Predictor,
        estimator: Estimator,
        settings: DictConfig,
        score: Any,
        directory: RunDirectory,
    ) -> Stage:
        values = OmegaConf.to_container(settings)
        assert isinstance(values, dict)
        knobs = TrainingSettings(**{str(k): v for k, v in values.items()})
        log = EpochLog(
            directory.metrics,
            self.mirrors,
            knobs.epochs,
            f"{self.identity.model}-{self.identity.grad} seed {self.config.seed} {name}",
        )
        streams: dict[str, Stream] = {"foundation": "foundation", "fit": "fit", "train": "training"}
        # The fit's directory holds two stages.
        checkpoint = directory.checkpoint
        if name == "foundation":
            checkpoint = Checkpoint(checkpoint.path.with_name("foundation.pt"), directory.owner)
        return Stage(
            name,
            predictor,
            estimator,
            self.layer,
            *self._rows("train", name),
            knobs,
            score,
            torch_stream(self.config.seed, streams[name], self.device),
            checkpoint,
            log,
            self.task.pooled,
        )


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
        from diffusion_dfl.loggers.wandb import WandbMirror

        makers["wandb"] = partial(
            WandbMirror,
            project=settings.project,
            entity=settings.entity,
            tags=tuple(settings.tags),
        )
    if settings.tensorboard:
        from diffusion_dfl.loggers.tensorboard import TensorBoardMirror

        makers["tensorboard"] = TensorBoardMirror
    return makers
