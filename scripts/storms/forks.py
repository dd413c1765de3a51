"""Workers that are forked here, each with the runs in an order of its own."""

import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from diffusion_dfl.errors import RunFailed, UserError
from diffusion_dfl.suite.runs.run import run
from storms.faults import EXPIRY, FAULTS, become_a_host, put
from storms.sweep import Sweep

# Nobody: root may write where no one may.
_NOBODY = 65534


@contextmanager
def _as_nobody() -> Iterator[None]:
    if os.getuid() != 0:
        yield
        return
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


class Storm:
    """Kills and faults of forked workers.

    Args:
        sweep: done whole.
        workers: at a time.
        hosts: whether each is a host of its own, to be suspended too.
    """

    def __init__(self, sweep: Sweep, workers: int, hosts: bool) -> None:
        self.sweep, self.size, self.hosts = sweep, workers, hosts
        self.random = sweep.random
        self.workers: dict[int, str] = {}  # of a process its fault
        self.asleep: dict[int, float] = {}  # and when it is woken
        self.kills = 0

    def blow(self, kills: int, minutes: float) -> None:
        """Kill, damage and start again until the kills are made and every run is finished."""
        if self.hosts:
            become_a_host("driver")
        start = time.monotonic()
        while time.monotonic() < start + 60 * minutes:
            storming = self.kills < kills
            done = not storming and self.sweep.finished()
            if done and not self.workers:
                print(f"all finished {time.monotonic() - start:.0f} s after the first", flush=True)
                if self.hosts:
                    time.sleep(2 * EXPIRY)  # Until the last that was killed counts as dead.
                return
            for pid in [pid for pid, until in self.asleep.items() if until < time.monotonic()]:
                del self.asleep[pid]
                os.kill(pid, signal.SIGCONT)
            while not done and len(self.workers) - len(self.asleep) < self.size:
                self._begin(self.random.choice(FAULTS) if storming else "none")
            time.sleep(self.random.expovariate(2.0) if storming else 0.2)
            if storming:
                self._strike(self.random.choice(list(self.workers)))
            self._gather()
        print("gave up", flush=True)

    def _strike(self, victim: int) -> None:
        counts = self.sweep.counts
        if self.hosts and victim not in self.asleep and self.random.random() < 0.5:
            os.kill(victim, signal.SIGSTOP)
            self.asleep[victim] = time.monotonic() + self.random.uniform(0.5, 3) * EXPIRY
            counts["suspended and woken"] += 1
            return
        os.kill(victim, signal.SIGKILL)
        _, status = os.waitpid(victim, 0)
        self.kills += os.WIFSIGNALED(status)
        del self.workers[victim]
        self.asleep.pop(victim, None)
        with _as_nobody():  # What it makes anew is the workers' to write.
            if self.random.random() < 0.3:
                self.sweep.damage()
            if self.sweep.finished():  # Nothing left to break.
                self.sweep.forget()

    def _gather(self) -> None:
        for pid in list(self.workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.asleep.pop(pid, None)
                code = os.waitstatus_to_exitcode(status)
                told = f"worker with fault {self.workers.pop(pid)} ended with {code}"
                self.sweep.counts[told] += 1

    def _begin(self, fault: str) -> None:
        for path in self.sweep.paths:  # As the user of a killed worker would.
            folder = self.sweep.broken / "runs" / path
            if folder.exists() and not folder.stat().st_mode & stat.S_IWUSR:
                os.chmod(folder, 0o755)
        if fault != "none":
            self.sweep.counts[f"fault: {fault}"] += 1
        order = list(range(len(self.sweep.configs)))
        self.random.shuffle(order)
        start = self.random.random()
        pid = os.fork()
        if pid:
            self.workers[pid] = fault
            return
        try:
            self._work(fault, order, start)
            os._exit(0)
        except BaseException as error:
            print(f"a worker with fault {fault} died of {error!r}", flush=True)
            os._exit(3)

    def _work(self, fault: str, order: list[int], start: float) -> None:
        """All runs, in a process of its own; the fault is gone after the first."""
        if self.hosts:
            become_a_host(f"host-{os.getpid()}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        if os.getuid() == 0:
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
        undo = put(fault, self.sweep.broken / "runs" / self.sweep.paths[order[0]], start)
        for index in order:
            # In use, or stopped by the fault: the next life tries again.
            with suppress(UserError, RunFailed):
                run(self.sweep.configs[index])
            if undo is not None:
                undo()
                undo = None
