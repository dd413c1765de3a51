"""The steps of a run: task, two-stage fit, decision-focused training, evaluation, record."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig

from diffusion_dfl.suite.config.compose import Identity
from diffusion_dfl.suite.loggers import Mirrors
from diffusion_dfl.suite.runs.compile import check_rule_of, compiled
from diffusion_dfl.suite.runs.directory import RunDirectory, fit_directory
from diffusion_dfl.suite.runs.environment import (
    describe_environment,
    peak_memory_bytes,
    source_version,
)
from diffusion_dfl.suite.runs.interface import NAME as INTERFACE
from diffusion_dfl.suite.runs.interface import interface_record
from diffusion_dfl.suite.runs.mirroring import facts, files, makers_of
from diffusion_dfl.suite.runs.progress import EpochLog
from diffusion_dfl.suite.runs.record import make_record, write_rows
from diffusion_dfl.tasks.problem import check_problem
from diffusion_dfl.training.checkpoint import Checkpoint, Version, write_tensors
from diffusion_dfl.training.experiment import StageName
from diffusion_dfl.training.interface import Interface
from diffusion_dfl.training.learning import learn
from diffusion_dfl.training.loop import refuse_other_architecture
from diffusion_dfl.training.steps import Steps

logger = logging.getLogger(__name__)


class Execution:
    """The steps of one run; state that several of them share.

    Making one reads the data and refuses what cannot be trained; only :meth:`execute` writes.

    Args:
        config: valid.
        identity: what the run is.
        device: resolved.
        directory: the run's; held and claimed when it is executed.

    Raises:
        UserError: data, a problem or parts that cannot be trained.
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
        experiment = compiled(config)
        self.task = experiment.task
        check_problem(self.task)
        check_rule_of(config, self.task.program)
        with self._own_randomness():
            sizes = (self.task.dataset.contexts.shape[1], self.task.dataset.outcomes.shape[1])
            experiment.check(experiment.make(*sizes))
        self.steps = Steps(experiment, device, self._place)
        self.checkpoints: list[Checkpoint] = []
        self.shared = fit_directory(config)

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Leave torch's generators as they were."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            yield

    def execute(self) -> dict[str, Any]:
        """Fit, train, evaluate, write the record and say that the run is finished."""
        config = self.config
        self.mirrors = Mirrors(facts(config, self.identity, self.directory.path), makers_of(config))
        try:
            summary = self._executed()
            self.directory.finish()
        except BaseException:
            self.mirrors.close(finished=False)
            raise
        self.mirrors.close(finished=True)
        return summary

    def _executed(self) -> dict[str, Any]:
        config = self.config
        self.directory.write_json("env.json", describe_environment(self.device, config.threads))
        logger.info("%s", self.directory.path)
        with self._own_randomness():
            if config.force:
                with self.shared.locked(wait=True):
                    self.shared.keep_other_versions_aside()
            self._refuse_other_architecture()
            trained = learn(self.steps, partial(self.shared.locked, wait=True))
        predictor = trained.predictor
        write_tensors(self.directory.weights, predictor.state_dict(), self.directory.replacing)
        self.directory.write_json(INTERFACE, interface_record(Interface.of(self.task)))
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
            sources=self._sources,
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
            with self.directory.replacing(self.directory.path / "rows.csv") as rows:
                write_rows(rows, labels, result)
        self.directory.write_json(self.directory.summary.name, summary)
        self.mirrors.record(summary, files(self.directory.path))
        return summary

    def _refuse_other_architecture(self) -> None:
        """Read a checkpoint of the last stage first, so that the fit is not made for nothing."""
        checkpoint = self.directory.checkpoint(accept_other=self.config.accept_source_change)
        if checkpoint.exists():
            saved = checkpoint.load(torch.device("cpu"))
            predictor = self.steps.prepare()
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
        # Of several stages in a directory one has the plain name.
        file = "checkpoint" if label in ("fit", "train") else label
        checkpoint = directory.checkpoint(file, self.config.accept_source_change)
        self.checkpoints.append(checkpoint)
        return checkpoint, log

    @property
    def _sources(self) -> list[Version]:
        """Versions of the source that made this run, in their order."""
        made = [version for one in self.checkpoints for version in one.versions]
        return list(dict.fromkeys([*made, source_version()]))
