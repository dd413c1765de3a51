"""A run's directory: who may write in it, what it holds, and how its state is told.

config.yaml     the composed configuration
status.json     running, finished or failed, with the reason
metrics.jsonl   one line an epoch
checkpoint.pt   resumes the run
weights.pt      the trained predictor
rows.csv        headline number of every test row
summary.json    the record tables read
env.json        versions and device
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.config.compose import NEUTRAL, deciding_values, name_of_file
from diffusion_dfl.errors import UserError
from diffusion_dfl.training.files import read_json, write_json, write_text


class RunDirectory:
    """One run's files.

    Args:
        path: the directory; made if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.pt"
        self.weights = path / "weights.pt"
        self.summary = path / "summary.json"
        self.metrics = MetricsLog(path / "metrics.jsonl")

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Hold the directory; another process gets a UserError, or waits for its turn.

        Raises:
            UserError: the directory cannot be made or is in use.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            raise UserError(
                f"{self.path} is in use by another process; wait for it, or stop it and run again"
            ) from None
        except OSError as error:
            raise UserError(
                f"output.root: cannot write to {self.path} ({error.strerror}); "
                "make it writable or set output.root=FOLDER"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def claim(self, config: DictConfig, force: bool) -> None:
        """Make the directory this configuration's.

        With ``force`` what is there is kept aside first.

        Raises:
            UserError: the directory holds a run of another configuration.
        """
        stored = self.path / "config.yaml"
        if stored.exists() and force:
            self._keep_aside()
        if stored.exists():
            self._refuse_other(config, stored)
            return
        write_text(stored, OmegaConf.to_yaml(without_places(config), resolve=True))

    def _refuse_other(self, config: DictConfig, stored: Path) -> None:
        mine = deciding_values(without_places(config))
        try:
            loaded = OmegaConf.load(stored)
            assert isinstance(loaded, DictConfig)
            theirs = NEUTRAL | deciding_values(loaded)
        except Exception as error:
            raise UserError(
                f"{stored} cannot be read ({error}); move it away or add force=true, "
                "which keeps the old run aside and starts over"
            ) from error
        changed = [
            f"{key} ({theirs.get(key)!r} there, {mine.get(key)!r} here)"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]
        if changed:
            raise UserError(
                f"{self.path} was written by another configuration: {'; '.join(changed[:5])}. "
                "Add force=true to keep that run aside and start over, or set output.root=FOLDER"
            )

    def _keep_aside(self) -> None:
        number = 1
        while (old := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        old.mkdir()
        for item in self.path.iterdir():
            if item.name != ".lock":
                shutil.move(str(item), old / item.name)

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``failed`` or ``new``."""
        path = self.path / "status.json"
        if not path.exists():
            return "new"
        try:
            return str(read_json(path)["status"])
        except (ValueError, KeyError, TypeError):
            return "new"

    def set_status(self, status: str, **details: Any) -> None:
        write_json(self.path / "status.json", {"status": status, **details})

    def finished_summary(self) -> dict[str, Any] | None:
        """The record if the run is finished and its record is whole."""
        if self.status != "finished":
            return None
        try:
            summary = read_json(self.summary)
        except (OSError, ValueError):
            return None
        return summary if isinstance(summary, dict) else None


class MetricsLog:
    """Append-only JSON lines ``{"stage", "epoch", ...}``, one an epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, stage: str, epoch: int, values: dict[str, float]) -> None:
        line = json.dumps({"stage": stage, "epoch": epoch, **values})
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")

    def rewind(self, stage: str, epoch: int) -> None:
        """Drop what a killed process wrote of a stage after its last checkpoint, and torn lines."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["stage"] != stage or record["epoch"] <= epoch:
                kept.append(line + "\n")
        write_text(self.path, "".join(kept))


def without_places(config: DictConfig) -> DictConfig:
    """The configuration without paths of this machine, as records keep it."""
    copy = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(copy, DictConfig)
    for key in ("output", "force", "device"):
        copy.pop(key, None)
    for key in ("root", "directory"):
        copy.data.pop(key, None)
    if copy.data.get("file"):
        copy.data.file = name_of_file(copy.data.file)
    return copy
