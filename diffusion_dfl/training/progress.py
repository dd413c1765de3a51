"""Showing progress: a bar on a terminal, a line an epoch elsewhere."""

import logging
import sys
from typing import Any

from tqdm import tqdm

from diffusion_dfl.training.loop import Log
from diffusion_dfl.training.run_directory import MetricsLog

logger = logging.getLogger(__name__)


def epoch_log(metrics: MetricsLog, epochs: int, title: str) -> Log:
    """Write every epoch to ``metrics`` and show it: a bar on a terminal, a line elsewhere."""
    bar: tqdm[Any] | None = None
    if sys.stderr.isatty():
        bar = tqdm(total=epochs, desc=title, unit="epoch", leave=False)

    def log(stage: str, epoch: int, values: dict[str, float]) -> None:
        metrics.append(stage, epoch, values)
        shown = {
            k: v for k, v in values.items() if k in ("loss", "decision_cost", "validation_score")
        }
        text = " ".join(f"{key}={value:.4g}" for key, value in shown.items())
        if bar is None:
            logger.info("%s epoch %d/%d %s", title, epoch, epochs, text)
            return
        bar.n = epoch
        bar.set_postfix_str(text, refresh=True)
        if epoch >= epochs:
            bar.close()

    return log
