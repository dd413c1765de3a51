"""Telling epochs: to metrics.jsonl, to mirrors, and to the person at the terminal."""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from diffusion_dfl.suite.loggers import Mirrors
from diffusion_dfl.suite.runs.directory import MetricsLog

logger = logging.getLogger(__name__)


class EpochLog:
    """Epochs of one stage.

    Args:
        metrics: the file.
        mirrors: W&B and others.
        epochs: how many the stage may take.
        title: shown before each, or beside the bar.
    """

    def __init__(self, metrics: MetricsLog, mirrors: Mirrors, epochs: int, title: str) -> None:
        self.metrics, self.mirrors, self.epochs, self.title = metrics, mirrors, epochs, title
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=epochs, desc=title, unit="epoch", leave=False)

    def restore(self, stage: str, epochs: Sequence[tuple[int, dict[str, float]]]) -> None:
        """Begin with the epochs of a checkpoint."""
        self.metrics.restore(stage, epochs)
        self.mirrors.restore(stage, epochs)

    def epoch(self, stage: str, epoch: int, values: dict[str, float]) -> None:
        """Write an epoch, and show it: a bar on a terminal, a line elsewhere."""
        self.metrics.append(stage, epoch, values)
        self.mirrors.epoch(stage, epoch, values)
        shown = {
            k: v for k, v in values.items() if k in ("loss", "decision_cost", "validation_score")
        }
        text = " ".join(f"{key}={value:.4g}" for key, value in shown.items())
        if self._bar is None:
            logger.info("%s epoch %d/%d %s", self.title, epoch, self.epochs, text)
            return
        self._bar.n = epoch
        self._bar.set_postfix_str(text, refresh=True)
        if epoch >= self.epochs:
            self._bar.close()
