"""One trial on one instance: fit, or train from a fit that is there, and what the decisions cost."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.predictors import DecisionMaker, Predictor
from diffusion_dfl.suite.config.compose import deciding_values, digest, fit_values
from diffusion_dfl.suite.runs.compile import compiled
from diffusion_dfl.suite.search.instances import Instance
from diffusion_dfl.training.checkpoint import Checkpoint
from diffusion_dfl.training.loop import Log
from diffusion_dfl.training.steps import StageName, Steps

#: The grid of c, the bandwidth scale of the decision rule, of every stochastic row.
BANDWIDTH_SCALES = (0.25, 0.5, 1.0, 1.5, 2.0, 2.5)


@dataclass(frozen=True)
class Outcome:
    """What came of a trial on an instance.

    Attributes:
        costs: mean validation cost by what is chosen afterwards, over all instances alike: by c of the
            fit (``"1.5"``), by epoch of the decision-focused stage (``"7"``).
        epochs: best epochs by stage, by the stage's own validation.
    """

    costs: Mapping[str, float]
    epochs: Mapping[str, float]


class _Silent:
    """A log that keeps the scores of one stage."""

    def __init__(self) -> None:
        self.scores: dict[int, float] = {}

    def epoch(self, stage: str, epoch: int, values: dict[str, float]) -> None:
        if "validation_score" in values:
            self.scores[epoch] = values["validation_score"]

    def restore(self, stage: str, epochs: Any) -> None:
        self.scores = {}
        for epoch, values in epochs:
            self.epoch(stage, epoch, values)


class Bench:
    """Where trials of a row are tried, with the fits that trials share.

    Args:
        cache: folder of fits and bases, which are found again by what they read.
        device: where networks and solvers run.
    """

    def __init__(self, cache: Path, device: torch.device) -> None:
        self.cache, self.device = cache, device

    def fit(self, config: DictConfig, instance: Instance) -> Outcome:
        """The two-stage fit, and its cost at every c."""
        steps, _ = self._steps(config, instance)
        predictor = self._fitted(steps)
        return Outcome(self._costs(steps, predictor), _best_epochs(steps))

    def train(self, config: DictConfig, instance: Instance) -> Outcome:
        """The decision-focused stage, and its cost after every epoch."""
        steps, log = self._steps(config, instance)
        with torch.random.fork_rng(devices=[]):
            predictor = steps.prepare()
            steps.experiment.check(predictor)
            if isinstance(predictor, Predictor):
                predictor = self._fitted(steps)
            steps.train(predictor, steps.experiment.estimator)
        costs = {str(epoch): score for epoch, score in log.scores.items()}
        return Outcome(costs, {"train": float(min(log.scores, key=log.scores.__getitem__))})

    def twin(self, config: DictConfig, instance: Instance, epochs: int) -> Outcome:
        """The same steps with decision weight 0, and their cost at every c."""
        config = trial_config(config, {"grad.decision_weight": 0.0})
        ends = {"train.epochs": epochs, "train.keep": "last", "train.patience": 0}
        config = trial_config(config, {**ends, "train.decay_epochs": config.train.epochs})
        steps, _ = self._steps(config, instance)
        predictor = self._fitted(steps)
        if epochs:
            with torch.random.fork_rng(devices=[]):
                steps.train(predictor, steps.experiment.estimator)
        return Outcome(self._costs(steps, predictor.eval()), {"train": float(epochs)})

    def forecasts(self, config: DictConfig, instance: Instance) -> dict[str, float]:
        """How well a fit's scenarios are calibrated on the held-out rows, and what they cost by c."""
        steps, _ = self._steps(config, instance)
        predictor = self._fitted(steps)
        found = steps.evaluate(predictor, "validation", config.evaluation.num_large).metrics
        names = ("crps", "coverage_90", "plan_level")
        told = {name: float(found[name]) for name in names if found.get(name) is not None}
        costs = self._costs(steps, predictor)
        return told | {f"cost at c={c}": cost for c, cost in costs.items()}

    @staticmethod
    def _costs(steps: Steps, predictor: DecisionMaker) -> dict[str, float]:
        """Validation cost by c; by the rule's own alone where there is nothing to smooth."""
        rules = [steps.rule]
        if predictor.stochastic and steps.task.program.kinked:
            rules = [replace(steps.rule, bandwidth_scale=c) for c in BANDWIDTH_SCALES]
        costs = steps.validation_costs(predictor, rules)
        return {f"{rule.bandwidth_scale:g}": cost for rule, cost in zip(rules, costs, strict=True)}

    def _fitted(self, steps: Steps) -> Predictor:
        with torch.random.fork_rng(devices=[]):
            predictor = steps.prepare()
            assert isinstance(predictor, Predictor)
            steps.fit(predictor)
        return predictor

    def _steps(self, config: DictConfig, instance: Instance) -> tuple[Steps, _Silent]:
        seeded = OmegaConf.merge(config, {"seed": instance.seed})
        assert isinstance(seeded, DictConfig)
        log = _Silent()

        def place(name: StageName, label: str, epochs: int) -> tuple[Checkpoint | None, Log]:
            if name == "train":
                return None, log
            read = _base_values(seeded) if name == "foundation" else fit_values(seeded)
            told = digest([read, instance.fold, instance.seed], 16)
            part = "base" if name == "foundation" else seeded.model.name
            folder = self.cache / f"{seeded.task.name}-{part}" / told
            folder.mkdir(parents=True, exist_ok=True)
            return Checkpoint(folder / f"{label}.pt", told), _Silent()

        return Steps(compiled(seeded, instance.task), self.device, place), log


def _base_values(config: DictConfig) -> dict[str, Any]:
    """What the fit of a base reads; a base of Gaussians is the same for all models on top."""
    values = fit_values(config)
    read = {key: value for key, value in values.items() if key.startswith("model.base_")}
    if values.get("model.base", "gaussian") != "gaussian":
        read["model.base"] = values["model.base"]
    return read | {
        key: value for key, value in values.items() if key.split(".")[0] not in ("fit", "model")
    }


def _best_epochs(steps: Steps) -> dict[str, float]:
    """Of a stage's folds the mean."""
    found: dict[str, list[int]] = {}
    for label, progress in steps.stages.items():
        found.setdefault(label.partition("-")[0], []).append(progress.best_epoch)
    return {name: sum(epochs) / len(epochs) for name, epochs in found.items()}


def trial_config(config: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    """The configuration of a trial."""
    changed = OmegaConf.create(OmegaConf.to_container(config))
    assert isinstance(changed, DictConfig)
    for key, value in changes.items():
        OmegaConf.update(changed, key, value)
    deciding_values(changed)  # Nothing may be missing.
    return changed
