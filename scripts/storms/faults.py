"""Faults that a worker is born with."""

import errno
import os
import random
import resource
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffusion_dfl.errors import RunFailed
from diffusion_dfl.estimators import Loss, TwoStage
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.suite.runs import directory
from diffusion_dfl.suite.runs.lease import Lease

FAULTS = ("none", "none", "none", "disk", "permission", "solver", "nan", "sync", "version")
#: Seconds between signs of life, and without one until a host counts as dead, in a storm of hosts.
BEAT, EXPIRY = 0.1, 1.0


def become_a_host(name: str) -> None:
    """A host of its own on a file system whose locks do not reach the others."""
    Lease.__init__.__defaults__ = (False, BEAT, EXPIRY, name)
    Lease._lock_here = lambda self: False  # type: ignore[method-assign]


def put(fault: str, folder: Path, start: float) -> Callable[[], None] | None:
    """Put a fault in this process; returns what takes it away, None for one that stays."""
    if fault == "disk":
        # A write beyond the limit fails as on a full disk.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft = int(10 ** (2 + 3 * start))
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    if fault == "permission" and folder.exists():
        before = stat.S_IMODE(folder.stat().st_mode)
        os.chmod(folder, 0o555)
        return lambda: os.chmod(folder, before)
    if fault == "solver":
        solved = DecisionLayer.forward
        DecisionLayer.forward = _refuse  # type: ignore[method-assign]
        return lambda: setattr(DecisionLayer, "forward", solved)
    if fault == "sync":
        sync = os.fsync

        def fails(handle: Any) -> None:
            if random.random() < 0.2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(handle)

        os.fsync = fails  # type: ignore[assignment]
        return lambda: setattr(os, "fsync", sync)
    if fault == "version":
        # Of the suite alone: one that computed otherwise would be refused, which is no storm's to mend.
        told = directory.source_version
        other = told()._replace(source=f"{int(1e9 * start):016x}")
        directory.source_version = lambda: other  # type: ignore[assignment]
        return lambda: setattr(directory, "source_version", told)
    if fault == "nan":
        whole = TwoStage.__call__

        def poisoned(self: TwoStage, *arguments: Any, **named: Any) -> Loss:
            loss = whole(self, *arguments, **named)
            return Loss(loss.value * torch.nan, loss.metrics)

        TwoStage.__call__ = poisoned  # type: ignore[method-assign]
        return lambda: setattr(TwoStage, "__call__", whole)
    return None


def _refuse(self: DecisionLayer, *arguments: Any, **named: Any) -> Any:
    raise RunFailed("the solver solved nothing")
