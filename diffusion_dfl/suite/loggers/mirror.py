"""What a mirror does, and a row of them that cannot stop a run."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from diffusion_dfl.extras import installing

logger = logging.getLogger(__name__)

#: Epochs of a stage: ``(epoch, metrics)``.
Epochs = Sequence[tuple[int, dict[str, float]]]


@dataclass(frozen=True)
class RunFacts:
    """What a mirror may say about a run.

    Attributes:
        task: its task.
        directory: the run's; mirrors keep their files in folders of their own in it.
        group: ``<task>/<model>-<grad>``, with the hash of what differs from the preset.
        name: the group's last part with the seed.
        key: unique and the same whenever the run is repeated.
        tags: task, model, grad, scale, source.
        config: the configuration without paths.
    """

    task: str
    directory: Path
    group: str
    name: str
    key: str
    tags: tuple[str, ...]
    config: dict[str, Any]


class Mirror(Protocol):
    """One mirror of one run; made by its class with the run's facts."""

    def epoch(self, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        """One epoch of a stage."""

    def record(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        """The finished run's record and its files."""

    def close(self, finished: bool) -> None:
        """End the mirror, whatever became of the run."""


class Mirrors:
    """All mirrors of a run.

    Args:
        facts: of the run.
        makers: name and maker of each; a maker raises ImportError where its package is missing.

    Attributes:
        given_up: names of those that failed.
    """

    def __init__(self, facts: RunFacts, makers: Mapping[str, Callable[[RunFacts], Mirror]]) -> None:
        self._open: dict[str, Mirror] = {}
        self.given_up: list[str] = []
        for name, make in makers.items():
            self._guard(name, partial(self._make, name, make, facts))

    def restore(self, stage: str, epochs: Epochs) -> None:
        """Tell the epochs that a stage has been through in earlier processes."""
        for epoch, values in epochs:
            self.epoch(stage, epoch, values)

    def epoch(self, stage: str, epoch: int, values: Mapping[str, float]) -> None:
        for name, mirror in list(self._open.items()):
            self._guard(name, partial(mirror.epoch, stage, epoch, values))

    def record(self, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
        for name, mirror in list(self._open.items()):
            self._guard(name, partial(mirror.record, summary, files))

    def close(self, finished: bool) -> None:
        for name, mirror in list(self._open.items()):
            self._guard(name, partial(mirror.close, finished))
        self._open.clear()

    def _make(self, name: str, make: Callable[[RunFacts], Mirror], facts: RunFacts) -> None:
        self._open[name] = make(facts)

    def _guard(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except ImportError as error:
            self.given_up.append(name)
            package = (error.name or name).split(".")[0]
            logger.warning(
                "logger=%s: the package %s is not installed, so this run is not mirrored; "
                "%s adds it",
                name,
                package,
                installing(name),
            )
        except Exception as error:  # Whatever breaks in a mirror, the run goes on.
            self._open.pop(name, None)
            self.given_up.append(name)
            reason = (str(error).splitlines() or [""])[0]
            logger.warning(
                "logger=%s: %s: %s; the run goes on without it", name, type(error).__name__, reason
            )


def scalars(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Finite numbers of nested mappings as ``a/b``; lists and words are left out."""
    for key, value in values.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from scalars(value, name)
        elif (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ):
            yield name, float(value)
