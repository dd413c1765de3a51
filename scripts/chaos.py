"""A sweep under a driver that breaks it: processes killed, disks full, files damaged, folders locked,
solvers failing, NaN in the loss. In the end every run must equal the unbroken one.

    python scripts/chaos.py --runs 40 --kills 200 --workers 2
    python scripts/chaos.py --runs 40 --kills 200 --workers 3 --hosts

The driver does every run once, unbroken, and then the same sweep in forked workers. Each worker takes
the runs in an order of its own; the driver kills one at a random moment, damages a random file between
two lives, and starts another, until the kills are made and every run is finished. A worker may also be
born with a fault: a limit on the size of files, a folder it may not write, a solver that solves nothing,
a loss that is not a number, a disk whose fsync fails. With ``--hosts`` every worker is a host of its
own on a file system whose locks do not reach the others, and in place of a kill it may be suspended
until it counts as dead, and woken while another is in its run. The exit code is 1 if a number, a line
or a lock is not as it should be.
"""

import argparse
import errno
import json
import os
import random
import resource
import signal
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from diffusion_dfl.errors import RunFailed, UserError
from diffusion_dfl.estimators import Loss, TwoStage
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.suite.config.compose import compose_config, identify
from diffusion_dfl.suite.runs.lease import Lease
from diffusion_dfl.suite.runs.run import run

SMALL = (
    "data=simulated",
    "data.num_days=150",
    "scale=smoke",
    "model.width=8",
    "foundation.epochs=2",
    "fit.epochs=3",
    "fit.validate_every=1",
    "train.epochs=3",
    "decision.num_scenarios=5",
    "evaluation.num_large=10",
    "device=cpu",
)
CELLS = (
    ("diffusion", "score"),
    ("gaussian", "score"),
    ("gaussian", "reparam"),
    ("diffusion", "two_stage"),
)
FAULTS = ("none", "none", "none", "disk", "permission", "solver", "nan", "sync")
# Seconds between signs of life, and without one until a host counts as dead, in a storm of hosts.
_BEAT, _EXPIRY = 0.1, 1.0
# Nobody: root may write where no one may.
_NOBODY = 65534


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--hosts", action="store_true", help="a host a worker; some are suspended")
    parser.add_argument("--seed", type=int, default=0, help="of what breaks when")
    parser.add_argument("--minutes", type=float, default=60, help="give up after")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        storm = Storm(Path(folder), arguments)
        storm.whole()
        if arguments.hosts:
            _become_a_host("driver")
        storm.break_it()
        return storm.report()


class Storm:
    """The driver.

    Args:
        folder: for the unbroken and the broken sweep.
        arguments: sizes.
    """

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.unbroken, self.broken = folder / "unbroken", folder / "broken"
        self.arguments = arguments
        self.random = random.Random(arguments.seed)
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.words = [
            (f"model={model}", f"grad={grad}", f"seed={seed}")
            for seed in range(-(-arguments.runs // len(CELLS)))
            for model, grad in CELLS
        ][: arguments.runs]

    def config(self, root: Path, words: Sequence[str]) -> Any:
        return compose_config([*SMALL, *words, f"output.root={root}"])

    def whole(self) -> None:
        """Every run once, with nothing in its way; also loads everything that forks will need."""
        start = time.perf_counter()
        self.paths = []
        for words in self.words:
            config = self.config(self.unbroken, words)
            self.paths.append(identify(config).path)
            run(config)
        self.configs = [self.config(self.broken, words) for words in self.words]
        seconds = time.perf_counter() - start
        print(f"{len(self.words)} runs unbroken in {seconds:.0f} s", flush=True)

    def break_it(self) -> None:
        """Kill, damage and start again until the kills are made and every run is finished."""
        self.broken.mkdir(mode=0o777)
        os.chmod(self.broken, 0o777)
        deadline = time.monotonic() + 60 * self.arguments.minutes
        workers: dict[int, str] = {}
        asleep: dict[int, float] = {}
        start = time.perf_counter()
        while time.monotonic() < deadline:
            storming = self.counts["killed"] < self.arguments.kills
            done = not storming and self._all_finished()
            if done and not workers:
                print(
                    f"all finished {time.perf_counter() - start:.0f} s after the first", flush=True
                )
                return
            for pid in [pid for pid, until in asleep.items() if until < time.monotonic()]:
                del asleep[pid]
                os.kill(pid, signal.SIGCONT)
            while not done and len(workers) - len(asleep) < self.arguments.workers:
                fault = self.random.choice(FAULTS) if storming else "none"
                self._unlock_folders()
                workers[self._worker(fault)] = fault
                if fault != "none":
                    self.counts[f"fault: {fault}"] += 1
            time.sleep(self.random.expovariate(2.0) if storming else 0.2)
            if storming:
                victim = self.random.choice(list(workers))
                if self.arguments.hosts and victim not in asleep and self.random.random() < 0.5:
                    os.kill(victim, signal.SIGSTOP)
                    asleep[victim] = time.monotonic() + self.random.uniform(0.5, 3) * _EXPIRY
                    self.counts["suspended and woken"] += 1
                    continue
                os.kill(victim, signal.SIGKILL)
                _, status = os.waitpid(victim, 0)
                self.counts["killed"] += os.WIFSIGNALED(status)
                del workers[victim]
                asleep.pop(victim, None)
                if self.random.random() < 0.3:
                    self._damage()
                if self._all_finished():
                    # Nothing left to break: start a run over.
                    self._forget(self.random.choice(self.paths))
            for pid in list(workers):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    asleep.pop(pid, None)
                    code = os.waitstatus_to_exitcode(status)
                    self.refused[f"worker with fault {workers.pop(pid)} ended with {code}"] += 1
        print("gave up", flush=True)

    def _unlock_folders(self) -> None:
        """Undo what a killed worker did to permissions, as its user would."""
        for path in self.paths:
            folder = self.broken / "runs" / path
            if folder.exists() and not folder.stat().st_mode & stat.S_IWUSR:
                os.chmod(folder, 0o755)

    def _worker(self, fault: str) -> int:
        order = list(range(len(self.configs)))
        self.random.shuffle(order)
        start = self.random.random()
        pid = os.fork()
        if pid:
            return pid
        try:
            if self.arguments.hosts:
                _become_a_host(f"host-{os.getpid()}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            if os.getuid() == 0:
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
            undo = _break(fault, self.broken / "runs" / self.paths[order[0]], start)
            for index in order:
                # In use, or stopped by the fault: the next life tries again.
                with suppress(UserError, RunFailed):
                    run(self.configs[index])
                if undo is not None:
                    undo()
                    undo = None
            os._exit(0)
        except BaseException as error:
            print(f"a worker with fault {fault} died of {error!r}", flush=True)
            os._exit(3)

    def _damage(self) -> None:
        """Damage one file of a run that no worker is in, as a bad disk would."""
        folder = self.broken / "runs" / self.random.choice(self.paths)
        names = (
            "status.json",
            "summary.json",
            "metrics.jsonl",
            "rows.csv",
            "weights.pt",
            "env.json",
        )
        there = [folder / name for name in names if (folder / name).exists()]
        generations = [folder / "checkpoint.pt", folder / "checkpoint.previous.pt"]
        if all(path.exists() for path in generations):
            there.append(self.random.choice(generations))
        if not there:
            return
        path = self.random.choice(there)
        try:
            with Lease(folder):
                content = path.read_bytes()
                at = self.random.randrange(len(content) + 1)
                kind = self.random.choice(["cut", "flip", "empty"])
                if kind == "flip" and content:
                    changed = bytearray(content)
                    changed[at % len(content)] ^= 1 << self.random.randrange(8)
                    content = bytes(changed)
                path.write_bytes(
                    b"" if kind == "empty" else content[:at] if kind == "cut" else content
                )
                self.counts[f"damaged: {path.name}"] += 1
        except UserError:
            return

    def _forget(self, path: Path) -> None:
        folder = self.broken / "runs" / path
        try:
            with Lease(folder):
                for item in folder.iterdir():
                    if not item.name.startswith("."):
                        item.unlink()
        except UserError:
            return
        self.counts["started over"] += 1

    def _all_finished(self) -> bool:
        return all(_status(self.broken / "runs" / path) == "finished" for path in self.paths)

    def report(self) -> int:
        """Compare, print what happened, and return the exit code."""
        wrong: list[str] = []
        if self.arguments.hosts:
            time.sleep(2 * _EXPIRY)  # Until the last that was killed counts as dead.
        for config, path in zip(self.configs, self.paths, strict=True):
            folder = self.broken / "runs" / path
            if _status(folder) != "finished":
                wrong.append(f"{path}: {_status(folder)}")
                continue
            run(config)  # Files damaged after the end are made good here.
            for name in ("summary.json", "metrics.jsonl", "rows.csv"):
                ours, theirs = folder / name, self.unbroken / "runs" / path / name
                if ours.exists() != theirs.exists() or (
                    theirs.exists() and _numbers(ours) != _numbers(theirs)
                ):
                    wrong.append(f"{path}: {name} is not that of the unbroken run")
            leftover = {item.name for item in folder.iterdir() if item.name.startswith(".")}
            if leftover - {".lock"}:
                wrong.append(f"{path}: left behind {', '.join(leftover)}")
        for name, count in sorted({**self.counts, **self.refused}.items()):
            print(f"{count:5d} {name}")
        for line in wrong:
            print(f"wrong: {line}")
        verdict = "as unbroken" if not wrong else f"{len(wrong)} things wrong"
        print(f"{len(self.paths)} runs after {self.counts['killed']} kills: {verdict}")
        return 1 if wrong else 0


def _become_a_host(name: str) -> None:
    """A host of its own on a file system whose locks do not reach the others."""
    Lease.__init__.__defaults__ = (False, _BEAT, _EXPIRY, name)
    Lease._lock_here = lambda self: False  # type: ignore[method-assign]


def _break(fault: str, folder: Path, start: float) -> Callable[[], None] | None:
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


def _status(folder: Path) -> str:
    try:
        return str(json.loads((folder / "status.json").read_text(encoding="utf-8"))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _numbers(path: Path) -> Any:
    """What must be equal: all of a file, but the times and sizes of a record."""
    text = path.read_text(encoding="utf-8")
    if path.name != "summary.json":
        return text
    return {
        key: value for key, value in json.loads(text).items() if key not in ("timing", "resources")
    }


if __name__ == "__main__":
    sys.exit(main())
