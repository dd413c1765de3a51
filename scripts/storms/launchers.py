"""The command of a sweep under every launcher in turn: its workers killed, and it itself."""

import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from diffusion_dfl.files import read_object
from storms.sweep import GRADS, MODELS, SMALL, Sweep

#: Words of each launcher, with two workers where there is more than one.
LAUNCHERS = {
    "basic": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "dask": ("hydra/launcher=dask", "hydra.launcher.workers=2"),
    "submitit": ("hydra/launcher=submitit_local",),
}
# Of a process that a storm began, in its environment.
_MARK = "DIFFUSION_DFL_STORM"
# Kills of the command itself among all, and seconds between kills, on average.
_OWN, _BETWEEN = 0.2, 2.0


class Storm:
    """Kills of what a launcher begins.

    Args:
        sweep: done whole.
        launcher: one of :data:`LAUNCHERS`.
    """

    def __init__(self, sweep: Sweep, launcher: str) -> None:
        self.sweep, self.launcher = sweep, launcher
        self.mark = secrets.token_hex(8)
        self.kills = self.commands = 0

    def blow(self, kills: int, minutes: float) -> None:
        """Kill and repeat the command until the kills are made and it ends well."""
        start = time.monotonic()
        command, code = self._command(), None
        while time.monotonic() < start + 60 * minutes:
            if self.kills < kills:
                time.sleep(self.sweep.random.expovariate(1 / _BETWEEN))
                self._strike(command)
            else:
                time.sleep(0.2)
            if (code := command.poll()) is None:
                continue
            self.sweep.counts[f"{self.launcher}: ended with {code}"] += 1
            if self.kills >= kills and code == 0 and self.sweep.finished():
                print(f"{self.launcher}: {self.kills} kills, {self.commands} commands", flush=True)
                return
            if self.sweep.finished():  # Nothing left to break.
                self.sweep.forget()
            command = self._command()
        print(f"{self.launcher}: gave up", flush=True)

    def end(self) -> None:
        """End what is still there of killed commands."""
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _command(self) -> "subprocess.Popen[bytes]":
        words = [
            *SMALL,
            f"model={','.join(MODELS)}",
            f"grad={','.join(GRADS)}",
            f"seed={','.join(map(str, range(self.sweep.seeds)))}",
            f"output.root={self.sweep.broken}",
        ]
        self.commands += 1
        return subprocess.Popen(
            [sys.executable, "train.py", *words, *LAUNCHERS[self.launcher], "-m"],
            env={**os.environ, _MARK: self.mark},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _strike(self, command: "subprocess.Popen[bytes]") -> None:
        """Kill who is in a run, or the command while one is."""
        owners = [read_object(path).get("pid") for path in self.sweep.broken.rglob(".owner")]
        workers = [pid for pid in owners if pid in self._processes()]
        if not workers:
            return
        own = self.sweep.random.random() < _OWN
        with suppress(ProcessLookupError):
            os.kill(command.pid if own else self.sweep.random.choice(workers), signal.SIGKILL)
            self.kills += 1
        self.sweep.counts[f"{self.launcher}: the command killed"] += own
        if self.sweep.random.random() < 0.3:
            self.sweep.damage()

    def _processes(self) -> set[int]:
        """Of this storm, that live."""
        found = set()
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{_MARK}={self.mark}".encode() in (place / "environ").read_bytes():
                    found.add(int(place.name))
        return found
