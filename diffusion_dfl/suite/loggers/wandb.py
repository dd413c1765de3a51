"""A mirror for Weights & Biases, offline unless WANDB_MODE says otherwise.

An offline run cannot be resumed by W&B, so a repeated run writes its offline folder anew, with the
epochs of the earlier processes in it: one folder a run, nothing twice. Online, W&B resumes by the run's
key and takes only the epochs it has not seen.
"""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from diffusion_dfl.suite.loggers.mirror import RunFacts, scalars

logger = logging.getLogger(__name__)

#: Test numbers that the dashboard compares within a task.
COMPARED = ("task", "rmse_scenario", "crps")

# Seconds W&B may take: to answer at all, to begin, to end.
_REACH, _BEGIN, _END = 3.0, 30.0, 30.0


class WandbMirror:
    """A run of ``project``: group ``<task>/<model>-<grad>``, its seed in its name.

    The summary holds the record's test numbers (``test/task``, ...), timings and memory; the record's
    files and its learning curves are an artifact of type ``run-record``.

    Args:
        facts: of the run.
        project, entity: where it goes when uploaded.
        tags: besides task, model, grad, scale and source.
    """

    def __init__(
        self,
        facts: RunFacts,
        project: str = "diffusion-dfl",
        entity: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        import wandb

        self._wandb, self._facts = wandb, facts
        mode = os.environ.get("WANDB_MODE") or "offline"
        if mode in ("online", "shared"):
            reason = _unreachable()
            if reason:
                _warn_once(reason)
                mode = "offline"
        if mode != "online":
            for old in (facts.directory / "wandb").glob("offline-run-*"):
                shutil.rmtree(old, ignore_errors=True)
        self._run = wandb.init(
            project=project,
            entity=entity,
            group=facts.group,
            name=facts.name,
            id=facts.key,
            job_type="train",
            tags=[*facts.tags, *tags],
            config=facts.config,
            dir=str(facts.directory),
            mode=mode,  # type: ignore[arg-type]  # WANDB_MODE, which W&B checks.
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                disable_job_creation=True,
                init_timeout=_BEGIN,
                finish_timeout=_END,
                x_disable_stats=True,
                # No host, user or path leaves the machine.
                x_disable_meta=True,
                x_disable_machine_info=True,
            ),
        )
        # Epochs W&B has seen in an earlier process; 0 offline.
        self._seen = int(self._run.step or 0)
        self._step = 0
        self._stages: set[str] = set()
        self._curves: dict[str, list[tuple[int, float]]] = {}

    def epoch(self, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/epoch", hidden=True)
            for names in (f"{stage}/*", f"{self._facts.task}/{stage}/*"):
                self._run.define_metric(names, step_metric=f"{stage}/epoch")
        if "validation_score" in values:
            self._curves.setdefault(stage, []).append((epoch, values["validation_score"]))
        if self._step >= self._seen:
            told = {f"{stage}/epoch": epoch, **dict(scalars(values, stage))}
            if "validation_score" in values:
                # Scores of different tasks do not go in one plot; a dashboard cannot filter plots.
                told[f"{self._facts.task}/{stage}/validation_score"] = values["validation_score"]
            self._run.log(told, step=self._step)
        self._step += 1

    def record(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        parts = ("test", "validation", "timing", "resources")
        self._run.summary.update(dict(scalars({part: summary[part] for part in parts})))
        compared = {name: summary["test"].get(name) for name in COMPARED}
        self._run.summary.update(dict(scalars(compared, f"{self._facts.task}/test")))
        artifact = self._wandb.Artifact(f"record-{self._facts.key}", type="run-record")
        for file in files:
            artifact.add_file(str(file), policy="immutable", skip_cache=True)
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder, "learning-curves.png")
            if self._draw(picture):
                # Copied by W&B, since the folder goes.
                artifact.add_file(str(picture), policy="mutable")
                self._run.log({"learning_curves": self._wandb.Image(str(picture))}, step=self._step)
            self._run.log_artifact(artifact)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)

    def _draw(self, path: Path) -> bool:
        """Validation scores against epochs, a panel a stage."""
        if not self._curves:
            return False
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.0 * len(self._curves), 3.0), layout="constrained")
        for column, (stage, points) in enumerate(self._curves.items(), start=1):
            axes = figure.add_subplot(1, len(self._curves), column)
            axes.plot(*zip(*points, strict=True), marker=".")
            axes.set(title=stage, xlabel="epoch", ylabel="validation score")
        figure.savefig(path, dpi=100)
        return True


def _unreachable() -> str:
    """Why W&B cannot be reached, in words; empty where it can."""
    import wandb

    # Asked before W&B is: without a key it would ask at the terminal, without a network it would wait.
    if not wandb.api.api_key:
        return "there is no API key (WANDB_API_KEY, or `wandb login`)"
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "http_proxy")):
        return ""
    address = urlsplit(wandb.setup().settings.base_url)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_REACH).close()
    except OSError as error:
        return f"{address.hostname} cannot be reached ({error.strerror or error})"
    return ""


@cache
def _warn_once(reason: str) -> None:
    logger.warning(
        "logger=wandb: WANDB_MODE=online, but %s; writing offline, `make wandb-sync` uploads it",
        reason,
    )
