"""The training loop: epochs, model selection on validation, checkpoints."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from diffusion_dfl.errors import RunFailed, UserError
from diffusion_dfl.estimators import Batch, Estimator, Loss
from diffusion_dfl.layers import DecisionLayer, LayerStatistics, SolverFailure
from diffusion_dfl.predictors import DecisionMaker, Predictor, Scaling
from diffusion_dfl.training.average import WeightAverage
from diffusion_dfl.training.balance import GradientBalance
from diffusion_dfl.training.checkpoint import Checkpoint
from diffusion_dfl.training.memory import SavedBytes
from diffusion_dfl.training.settings import TrainingSettings


class TrainingDiverged(RunFailed):
    """A loss or a gradient is not finite; the message says where, the best weights are kept."""


@dataclass
class Progress:
    """Where a stage stands; all of it is in the checkpoint."""

    epoch: int = 0
    best_score: float = math.inf
    best_epoch: int = 0
    first_score: float = math.inf
    diverged: bool = False
    done: bool = False
    seconds: dict[str, float] = field(
        default_factory=lambda: {"forward": 0.0, "backward": 0.0, "validation": 0.0}
    )
    saved_bytes: int = 0


class Log(Protocol):
    """Where a stage tells its epochs."""

    def epoch(self, stage: str, epoch: int, values: dict[str, float]) -> None:
        """One epoch; validation before the first is epoch 0."""

    def restore(self, stage: str, epochs: Sequence[tuple[int, dict[str, float]]]) -> None:
        """The epochs a checkpoint holds: of the stage no others have been."""


class Stage:
    """One stage of training of a predictor, resumable to the last digit.

    Args:
        name: ``fit`` or ``train``, the name in the log.
        predictor: trained in place; holds the best weights after :meth:`run`.
        estimator: turns a batch into a loss.
        layer: decision layer handed to the estimator.
        rows: training rows, on the predictor's device.
        settings: knobs.
        score: validation score of a predictor in evaluation mode, lower is better; None validates
            nothing, and the stage ends with its last weights.
        generator: noise of batches and estimators.
        checkpoint: where the state is kept; None keeps none.
        log: told every epoch.
        scaling: of the rows, for a predictor with a base: that of a base that did not see them.
        stop: epoch after which the stage ends, whatever its patience; None for ``settings.epochs``, of
            which a schedule of learning rates is in any case.
    """

    def __init__(
        self,
        name: str,
        predictor: DecisionMaker,
        estimator: Estimator,
        layer: DecisionLayer,
        rows: Batch,
        settings: TrainingSettings,
        score: Callable[[Any], float] | None,
        generator: torch.Generator,
        checkpoint: Checkpoint | None,
        log: Log,
        scaling: Scaling | None = None,
        stop: int | None = None,
    ) -> None:
        self.name, self.predictor, self.estimator, self.layer = name, predictor, estimator, layer
        self.rows, self.device = rows, rows.context.device
        self.settings, self.score, self.generator = settings, score, generator
        self.checkpoint, self.log = checkpoint, log
        self.scaling, self.stop = scaling, settings.epochs if stop is None else stop
        self.balance = GradientBalance()
        # A base is fixed. Listed once: looking for parameters costs as much as a small network's step.
        self.parameters = [one for one in predictor.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.average: WeightAverage | None = None
        if settings.ema_decay:
            self.average = WeightAverage(predictor, settings.ema_decay)
        self.best = copy.deepcopy(predictor.state_dict())
        self.progress = Progress()
        self.history: list[tuple[int, dict[str, float]]] = []

    @property
    def evaluated(self) -> DecisionMaker:
        """The weights that are validated: the average if there is one."""
        return self.predictor if self.average is None else self.average.module

    def run(self) -> Progress:
        """Train to the end from the start or the checkpoint; load the best weights.

        Raises:
            TrainingDiverged: a loss or gradient that is not finite. The best weights so far are
                in the predictor.
        """
        if self.checkpoint is not None and self.checkpoint.exists():
            self._load()
        elif not self.progress.done:
            self.log.restore(self.name, [])
            self._validate({})
            self.progress.done = self.stop == 0
            self._save()
        try:
            while not self.progress.done:
                self._epoch()
        finally:
            self.predictor.load_state_dict(self.best)
            self.predictor.eval()
        return self.progress

    def _epoch(self) -> None:
        settings, progress = self.settings, self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * self._rate(progress.epoch)
        rows = len(self.rows)
        order = torch.randperm(rows, generator=self.generator, device=self.device)
        self.predictor.train(self.settings.dropout)
        totals: dict[str, Tensor] = {}
        steps = 0
        for index in order.split(settings.batch_size):
            if len(index) < min(settings.batch_size, rows) // 2:
                continue  # a last sliver of a batch is all noise
            for key, value in self._step(index, steps).items():
                totals[key] = totals.get(key, torch.zeros_like(value)) + value
            steps += 1
        progress.epoch += 1
        metrics = {key: float(value) / steps for key, value in totals.items()}
        if self.layer.statistics.instances:
            # Totals since the run began.
            counts = self.layer.statistics.counts().items()
            metrics.update({f"solver_{name}": float(value) for name, value in counts})
        last = progress.epoch >= self.stop
        if last or progress.epoch % settings.validate_every == 0:
            self._validate(metrics)
        else:
            self._tell(metrics)
        stale = progress.epoch - progress.best_epoch
        if last or progress.diverged or (settings.patience and stale >= settings.patience):
            progress.done = True
        self._save()

    def _rate(self, epoch: int) -> float:
        if self.settings.decay == "constant":
            return 1.0
        course = max(self.settings.decay_epochs, self.settings.epochs)
        return 0.5 * (1.0 + math.cos(math.pi * epoch / course))

    def _step(self, index: Tensor, step: int) -> dict[str, Tensor]:
        start = time.perf_counter()
        clean = self.rows.select(index)
        noisy = self._noisy(clean.context)
        batch = replace(clean, context=noisy, exact_context=clean.outcome_context)
        seen = self.predictor
        if self.scaling is not None:
            assert isinstance(seen, Predictor)
            seen = seen.under(self.scaling.rows(index))
        loss = self._loss(seen, batch, step)
        middle = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        balanced = self.balance.backward(loss, self.parameters)
        limit = self.settings.gradient_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        if not bool(torch.isfinite(norm) & torch.isfinite(loss.value)):
            raise TrainingDiverged(
                f"stage {self.name!r}, epoch {self.progress.epoch + 1}, step {step + 1}: loss "
                f"{float(loss.value.detach())}, gradient norm {float(norm)}; "
                + ", ".join(f"{k} {float(v):.4g}" for k, v in loss.metrics.items())
                + ". Lower the learning rate or the decision weight, or clip gradients; the best "
                f"weights are those of epoch {self.progress.best_epoch}. {_describe(batch, index)}"
            )
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        end = time.perf_counter()
        self.progress.seconds["forward"] += middle - start
        self.progress.seconds["backward"] += end - middle
        told = {"loss": loss.value.detach(), "gradient_norm": norm.detach()}
        return {**told, **balanced, **loss.metrics}

    def _loss(self, predictor: DecisionMaker, batch: Batch, step: int) -> Loss:
        """The estimator's loss; the first one's bytes saved for backward are counted."""
        try:
            if self.progress.saved_bytes:
                return self.estimator(predictor, self.layer, batch, self.generator)
            with SavedBytes() as counter:
                loss = self.estimator(predictor, self.layer, batch, self.generator)
        except SolverFailure as error:
            raise self._explained(
                error, f"epoch {self.progress.epoch + 1}, step {step + 1}"
            ) from error
        self.progress.saved_bytes = counter.peak
        return loss

    def _explained(self, error: SolverFailure, where: str) -> RunFailed:
        """What a solver that was given no numbers says about the training."""
        if not error.invalid:
            return error
        return TrainingDiverged(
            f"stage {self.name!r}, {where}: the predictor's scenarios are no longer finite. Lower the "
            "learning rate or clip gradients; the best weights are those of epoch "
            f"{self.progress.best_epoch}. ({error})"
        )

    def _noisy(self, contexts: Tensor) -> Tensor:
        level = self.settings.context_noise
        if not level:
            return contexts
        noise = torch.randn(contexts.shape, generator=self.generator, device=contexts.device)
        return contexts + level * self.predictor.contexts.scale * noise

    def _validate(self, metrics: dict[str, float]) -> None:
        start = time.perf_counter()
        progress, evaluated = self.progress, self.evaluated
        evaluated.eval()
        if self.score is None:
            progress.best_epoch = progress.epoch
            if progress.epoch >= self.stop:
                self.best = copy.deepcopy(evaluated.state_dict())
            self._tell(metrics)
            return
        try:
            score = self.score(evaluated)
        except SolverFailure as error:
            where = f"validation of epoch {progress.epoch}"
            raise self._explained(error, where) from error
        progress.seconds["validation"] += time.perf_counter() - start
        if progress.first_score == math.inf:
            progress.first_score = score
        last = self.settings.keep == "last" and math.isfinite(score)
        if score < progress.best_score or last:
            progress.best_score, progress.best_epoch = score, progress.epoch
            self.best = copy.deepcopy(evaluated.state_dict())
        limit = self.settings.divergence_factor * progress.first_score
        if not math.isfinite(score) or (limit > 0 and score > limit):
            progress.diverged = True
        self._tell({**metrics, "validation_score": score})

    def _tell(self, metrics: dict[str, float]) -> None:
        self.history.append((self.progress.epoch, metrics))
        self.log.epoch(self.name, self.progress.epoch, metrics)

    def _save(self) -> None:
        if self.checkpoint is None or not (self.progress.done or self.checkpoint.due):
            return
        device_states: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            device_states["cuda"] = torch.cuda.get_rng_state(self.device)
        self.checkpoint.save(
            {
                "stage": self.name,
                "history": self.history,
                "predictor": self.predictor.state_dict(),
                "average": None if self.average is None else self.average.state(),
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "global_generators": device_states,
                "progress": asdict(self.progress),
                "balance": self.balance.state(),
                "layer": asdict(self.layer.statistics),
            },
        )

    def _load(self) -> None:
        assert self.checkpoint is not None
        saved = self.checkpoint.load(self.device)
        path = self.checkpoint.path
        if saved.get("stage") != self.name:
            raise UserError(
                f"{path} is no checkpoint of stage {self.name!r}; move it away and repeat the command"
            )
        refuse_other_architecture(path, saved["predictor"], self.predictor)
        self.predictor.load_state_dict(saved["predictor"])
        if self.average is not None:
            self.average.restore(saved["average"])
        self.best = saved["best"]
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"].cpu())
        torch.set_rng_state(saved["global_generators"]["cpu"].cpu())
        if "cuda" in saved["global_generators"]:
            torch.cuda.set_rng_state(saved["global_generators"]["cuda"].cpu(), self.device)
        self.progress = Progress(**saved["progress"])
        self.balance.restore(saved.get("balance"), self.device)
        self.layer.statistics = LayerStatistics(**saved["layer"])
        self.history = [(epoch, values) for epoch, values in saved["history"]]
        self.log.restore(self.name, self.history)


def _describe(batch: Batch, index: Tensor) -> str:
    """What a batch was, for a report: its training rows and the size of what is in it."""
    rows = ", ".join(str(row) for row in index[:8].tolist())
    parts = []
    for name, values in (("contexts", batch.context), ("outcomes", batch.outcome)):
        finite = values[values.isfinite()]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (math.nan,) * 2
        bad = values.numel() - len(finite)
        parts.append(f"{name} in {low:.4g}..{high:.4g}" + (f" and {bad} not finite" if bad else ""))
    return f"The batch: {len(index)} training rows ({rows}, ...), " + ", ".join(parts)


def refuse_other_architecture(
    checkpoint: Path, saved: dict[str, Tensor], predictor: DecisionMaker
) -> None:
    """Raise UserError if a checkpoint's weights do not fit the predictor, naming the first."""
    own = predictor.state_dict()
    if predictor.closed_form:
        # What it keeps of its rows is as long as there are rows; their weights it may have or not.
        own = {name: saved.get(name, value) for name, value in own.items()}
        own |= {name: saved[name] for name in predictor._buffers.keys() & saved.keys()}
    mend = "move it away, or add force=true to start over"
    for name in sorted(own.keys() | saved.keys()):
        there = tuple(saved[name].shape) if name in saved else None
        here = tuple(own[name].shape) if name in own else None
        if there != here:
            raise UserError(
                f"{checkpoint} is of another architecture: {name} is {_shape(there)} there and "
                f"{_shape(here)} in this configuration; {mend}"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"
