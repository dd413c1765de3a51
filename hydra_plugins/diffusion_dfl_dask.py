"""``hydra/launcher=dask``; Hydra finds it here, what it does is in diffusion_dfl/suite/launching.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class DaskLauncherConf:
    _target_: str = "hydra_plugins.diffusion_dfl_dask.DaskLauncher"

    # Processes on this machine; null for as many as its cores, and GPUs, have runs.
    workers: int | None = None
    # Of a scheduler that is there, tcp://HOST:PORT, whose workers are taken; null for this machine's.
    address: str | None = None
    # Threads that a worker must have.
    cores_per_run: int = 1
    # 0.25: four runs share a GPU.
    gpus_per_run: float = 0.0
    # How often a run is begun again elsewhere when its worker is lost.
    retries: int = 3


ConfigStore.instance().store(
    group="hydra/launcher", name="dask", node=DaskLauncherConf, provider="diffusion_dfl"
)


class DaskLauncher(Launcher):
    """Runs of a sweep as tasks of dask.distributed.

    Args:
        settings: as in :class:`DaskLauncherConf`.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.parts = hydra_context, config, task_function

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from diffusion_dfl.suite.launching import Settings, launch

        return launch(Settings(**self.settings), self.parts, job_overrides, initial_job_idx)
