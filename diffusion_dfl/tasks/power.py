"""Power scheduling on real or simulated load (section 6.2, appendix A.10), sound protocol."""

from pathlib import Path

import numpy as np

from diffusion_dfl.data import power_dataset
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.tasks.task import Task


def power_task(
    source: str,
    rng: np.random.Generator,
    *,
    shortage: float = 50.0,
    excess: float = 0.5,
    ramp: float = 0.4,
    root: str | None = None,
    url: str,
    directory: str,
    num_days: int,
    validation_fraction: float,
    block_weeks: int,
    gap_days: int,
) -> Task:
    """Program and data of ``task=power``; see :func:`diffusion_dfl.data.power_dataset`.

    Args:
        source: ``real`` or ``simulated``.
        rng: stream of the train/validation split.
        shortage, excess, ramp: gamma_s, gamma_e, c_r of the program.
        root: folder with the two load files, or None for the environment variable or a download.
        url: where the files are downloaded from.
        directory: where downloads are kept.
        num_days: days of the simulated source.
        validation_fraction, block_weeks, gap_days: the split.
    """
    dataset = power_dataset(
        source,
        rng,
        root=None if root is None else Path(root),
        url=url,
        directory=Path(directory),
        num_days=num_days,
        validation_fraction=validation_fraction,
        block_weeks=block_weeks,
        gap_days=gap_days,
    )
    return Task("power", PowerProgram(shortage, excess, ramp, dataset.outcomes.shape[1]), dataset)
