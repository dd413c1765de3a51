"""A mirror for TensorBoard: event files in ``<run>/tensorboard``."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_dfl.suite.loggers.mirror import RunFacts, scalars


class TensorBoardMirror:
    """Scalars by stage, ``<stage>/<metric>`` against the epoch; the configuration as text.

    A resumed run writes its events anew, so that none stands twice.
    """

    def __init__(self, facts: RunFacts) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = facts.directory / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(log_dir=str(folder))
        text = json.dumps(facts.config, indent=1)
        self._writer.add_text("config", f"```\n{text}\n```")

    def epoch(self, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in scalars(values, stage):
            self._writer.add_scalar(name, value, epoch)

    def record(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        for name, value in scalars({"test": summary["test"]}):
            self._writer.add_scalar(name, value, 0)

    def close(self, finished: bool) -> None:
        self._writer.close()
