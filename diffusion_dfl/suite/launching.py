"""The engine of ``hydra/launcher=dask``: runs of a sweep as tasks of dask.distributed.

A worker process does one run at a time, since Hydra's state and torch's settings are of the process.
Workers are given a run when they are idle and none ahead, so that one that is lost takes one run with it;
another goes on from that run's checkpoint.
"""

import heapq
import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from omegaconf import open_dict

from diffusion_dfl.errors import UserError, WorkerLost
from diffusion_dfl.extras import installing
from diffusion_dfl.suite.runs.lease import BEAT, EXPIRY, Held
from diffusion_dfl.suite.runs.signals import stoppable

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

# Seconds between looks for workers that came, and until a scheduler that does not answer is none.
_LOOK, _ANSWER = 1.0, 15.0
# And until a worker that did not come is asked for again.
_START = 60.0

_one_run = threading.Lock()


@dataclass(frozen=True)
class Settings:
    """``hydra.launcher``, as hydra_plugins/diffusion_dfl_dask.py says.

    Raises:
        UserError: a value that cannot be.
    """

    workers: int | None
    address: str | None
    cores_per_run: int
    gpus_per_run: float
    retries: int

    def __post_init__(self) -> None:
        least = {"workers": 1, "cores_per_run": 1, "gpus_per_run": 0, "retries": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UserError(f"hydra.launcher.{name}={value} must be at least {bound}")
        if self.workers is not None and self.address is not None:
            raise UserError(
                f"hydra.launcher.workers={self.workers}: the scheduler at hydra.launcher.address="
                f"{self.address} has workers of its own; leave out one of the two"
            )

    def devices(self, visible: Sequence[str]) -> list[str]:
        """``CUDA_VISIBLE_DEVICES`` of each worker that this machine's devices have room for."""
        share = self.gpus_per_run
        room = int(len(visible) / share + 1e-9)
        if not room:
            raise UserError(
                f"hydra.launcher.gpus_per_run={share}: {len(visible)} CUDA devices are visible; "
                "leave it out to run on cores"
            )
        if share < 1:  # Whole runs a device: at 0.4, two and none on two halves.
            each = int(1 / share + 1e-9)
            return [device for device in visible for _ in range(each)]
        size = -(-share // 1)
        return [",".join(visible[int(i * size) : int((i + 1) * size)]) for i in range(room)]


def launch(
    settings: Settings, parts: tuple[Any, ...], jobs: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Do the jobs, in the order they are given in as far as workers are free.

    Args:
        settings: of the launcher.
        parts: Hydra's context, configuration and task function.
        jobs: overrides of each.
        first: number of the first.

    Raises:
        UserError: dask is not installed, the scheduler does not answer, or its workers are too small.
    """
    try:
        import cloudpickle
        import distributed  # noqa: F401
    except ImportError:
        raise UserError(
            f"hydra/launcher=dask needs a package; `{installing('cluster')}` adds it"
        ) from None
    for name in ("distributed", "distributed.client"):  # What matters is told below.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    setup_globals()
    config = parts[1]
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    # By value, as the task function must be: its name is that of Hydra's wrapper.
    common = cloudpickle.dumps((*parts, Singleton.get_state(), sys.argv, os.getcwd()))
    with stoppable(), _client(settings, len(jobs)) as (client, devices):
        return _Sweep(client, settings, common, devices, jobs, first).run()


@contextmanager
def _client(settings: Settings, jobs: int) -> "Iterator[tuple[Client, list[str]]]":
    """Of the scheduler, or of processes here that end with the block; with the devices of each."""
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    if settings.address is not None:
        try:
            client = Client(settings.address, timeout=_ANSWER)
        except (OSError, ValueError) as error:
            raise UserError(
                f"hydra.launcher.address={settings.address}: no scheduler answers there ({error})"
            ) from None
        with client:
            yield client, []
        return
    room, devices = CPU_COUNT // settings.cores_per_run, []
    if settings.gpus_per_run:
        devices = settings.devices(_visible())
        room = min(room, len(devices))
    with (
        LocalCluster(
            n_workers=min(settings.workers or max(room, 1), jobs),
            threads_per_worker=settings.cores_per_run,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        try:
            yield client, devices
        except BaseException:  # What runs is not waited for.
            for worker in cluster.workers.values():
                if worker.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)
            raise


def _visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


class _Sweep:
    """Jobs that wait, are at work, and came back."""

    def __init__(
        self,
        client: "Client",
        settings: Settings,
        common: bytes,
        devices: list[str],
        jobs: Sequence[Sequence[str]],
        first: int,
    ) -> None:
        self.client, self.settings, self.common, self.devices = client, settings, common, devices
        self.jobs, self.first = jobs, first
        self.shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
        self.due = [(0.0, place) for place in range(len(jobs))]
        self.running: dict[Future, tuple[int, str]] = {}
        self.done: dict[int, JobReturn] = {}
        self.lost: Counter[int] = Counter()
        self.held: dict[int, float] = {}
        cluster: Any = client.cluster
        self.wanted = 0 if cluster is None else len(cluster.worker_spec)
        self.short: float | None = None  # since when workers are fewer

    def run(self) -> list[JobReturn]:
        """What the jobs returned, in their order.

        Raises:
            UserError: no worker is large enough, or the scheduler is gone.
        """
        from distributed import CancelledError

        try:
            self._drive()
        except (CancelledError, OSError) as error:
            raise UserError(
                f"hydra.launcher.address={self.settings.address}: the scheduler is gone "
                f"({type(error).__name__}); start one and repeat the command, which goes on where runs "
                "stopped"
            ) from error
        return [self.done[place] for place in range(len(self.jobs))]

    def _drive(self) -> None:
        from distributed import wait

        self.client.run_on_scheduler(_tell_losses)
        waiting = False
        while len(self.done) < len(self.jobs):
            there = self._workers()
            if not there and not waiting and self.settings.address:
                logger.info("waiting for workers of %s", self.settings.address)
            waiting = not there
            busy = {worker for _, worker in self.running.values()}
            for worker in there:
                if worker not in busy and self.due and self.due[0][0] <= time.monotonic():
                    self._begin(heapq.heappop(self.due)[1], worker)
            if self.running:
                with suppress(TimeoutError):
                    wait(list(self.running), timeout=_LOOK, return_when="FIRST_COMPLETED")
            else:
                time.sleep(_LOOK)
            for future in [future for future in self.running if future.done()]:
                self._end(future, self.running.pop(future)[0])

    def _workers(self) -> list[str]:
        """Addresses of those that are large enough.

        Raises:
            UserError: there are some, and none is.
        """
        cores, gpus = self.settings.cores_per_run, self.settings.gpus_per_run
        there = self.client.scheduler_info()["workers"]
        cluster: Any = self.client.cluster
        if len(there) >= self.wanted:
            self.short = None
        else:
            now = time.monotonic()
            self.short = now if self.short is None else self.short
            late = now - self.short > _START
            # dask gives a worker up that is killed and not back within its own time, but one that could not
            # start is there for it: it is let go now and asked for again at the next look, since of a
            # removal and a demand at once dask sees neither.
            cluster.scale(len(there) if late else self.wanted)
            if late:
                self.short = None
        found = [
            address
            for address, worker in there.items()
            if worker["nthreads"] >= cores
            and (self.devices or worker["resources"].get("GPU", 0) >= gpus)
        ]
        if there and not found and not self.running:
            raise UserError(
                f"hydra.launcher.cores_per_run={cores} hydra.launcher.gpus_per_run={gpus}: no worker of "
                f"{self.settings.address} has as much; start workers with --nthreads {cores}"
                + (f" --resources GPU={gpus}" if gpus else "")
            )
        return found

    def _begin(self, place: int, worker: str) -> None:
        future = self.client.submit(
            _work,
            self.common,
            list(self.jobs[place]),
            self.first + place,
            self.devices,
            pure=False,
            workers=[worker],
            allow_other_workers=True,
        )
        self.running[future] = place, worker

    def _end(self, future: "Future", place: int) -> None:
        """Keep what a job returned, or put it back into the queue."""
        from distributed import CancelledError, KilledWorker

        try:
            done = future.result()
        except CancelledError:
            raise
        except KilledWorker:
            self.lost[place] += 1
            if self.lost[place] <= self.settings.retries:
                logger.info("%s: its worker was lost; it goes on elsewhere", self._name(place))
                heapq.heappush(self.due, (0.0, place))
                return
            done = _failed(
                WorkerLost(
                    f"{self._name(place)}: its worker was lost {self.lost[place]} times "
                    f"(hydra.launcher.retries={self.settings.retries}), killed for want of memory or "
                    "with its node; the same command goes on where it stopped"
                )
            )
        except Exception as error:  # It could not be sent, or what it raised could not.
            done = _failed(
                UserError(
                    f"{self._name(place)}: {type(error).__name__}: {error}; a worker needs this "
                    "environment and this folder"
                )
            )
        now = time.monotonic()
        in_use = done.status == JobStatus.FAILED and isinstance(done._return_value, Held)
        # By a worker that was lost on another host, maybe, which shows after a minute.
        if in_use and now < self.held.setdefault(place, now) + EXPIRY + 2 * BEAT:
            heapq.heappush(self.due, (now + BEAT, place))
            return
        self.done[place] = done
        if self.settings.address:  # Whose workers print elsewhere.
            logger.info("%d of %d runs: %s", len(self.done), len(self.jobs), self._name(place))

    def _name(self, place: int) -> str:
        """What tells a job from the others."""
        return " ".join(word for word in self.jobs[place] if word not in self.shared)


def _tell_losses(dask_scheduler: Any) -> None:
    """A task whose worker is lost comes back at once, to be counted here."""
    dask_scheduler.allowed_failures = 0


def _failed(error: Exception) -> JobReturn:
    done = JobReturn()
    done.status, done.return_value = JobStatus.FAILED, error
    return done


def _work(common: bytes, overrides: list[str], number: int, devices: list[str]) -> JobReturn:
    """One job, in a worker."""
    from distributed import get_worker

    with _one_run:
        if devices:  # Before torch looks for them.
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(get_worker().name) % len(devices)]
        setup_globals()
        context, config, function, state, sys.argv, folder = pickle.loads(common)
        os.chdir(folder)
        Singleton.set_state(state)
        job = context.config_loader.load_sweep_config(config, overrides)
        with open_dict(job):
            job.hydra.job.id, job.hydra.job.num = f"{job.hydra.job.name}_{number}", number
        HydraConfig.instance().set_config(job)
        return run_job(
            hydra_context=context,
            config=job,
            task_function=function,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
