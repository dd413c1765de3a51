"""A stage of a row searched by several workers at once, as jobs of a Hydra launcher."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.schema import register
from diffusion_dfl.suite.places import CONFIG_DIRECTORY
from diffusion_dfl.suite.search.rows import Row, bench
from diffusion_dfl.suite.search.space import Budget

#: How a word for a launcher begins: ``hydra/launcher=NAME``, ``hydra.launcher.KEY=VALUE``.
LAUNCHER = ("hydra/launcher=", "hydra.launcher.")


def search(row: Row, budget: Budget) -> None:
    """Spend what is left of a stage's budget, in this process."""
    row.run(bench(row.root, torch.device("cpu")), budget)


def share(row: Row, budget: Budget, workers: int, launcher: Sequence[str]) -> None:
    """Spend it by workers that share the study; back when the last one is.

    Args:
        row: stage.
        budget: of all of them together.
        workers: jobs of the launcher; a single one is this process.
        launcher: words as for a sweep of runs.

    Raises:
        UserError: no launcher is named; what a worker raised.
    """
    if workers == 1:
        search(row, budget)
        return
    if not any(word.startswith(LAUNCHER[0]) for word in launcher):
        raise UserError(
            f"--workers {workers}: workers need a launcher; add hydra/launcher=joblib, dask, "
            "submitit_local or submitit_slurm"
        )
    row.begun()
    words = [f"task={row.task}", f"model={row.model}", f"grad={row.grad}", *row.overrides]
    register()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3", job_name="search"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", [*words, *launcher], RunMode.MULTIRUN)
        engine = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(loader, Callbacks(config)),
            task_function=partial(_work, replace(row), budget),
            config=config,
        )
        for done in engine.launch([words] * workers, initial_job_idx=0):
            _ = done.return_value  # Raises what the worker raised.


def _work(row: Row, budget: Budget, _: DictConfig) -> None:
    """A worker's job; a row composes configurations of its own."""
    GlobalHydra.instance().clear()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    torch.set_num_threads(1)
    search(row, budget)
