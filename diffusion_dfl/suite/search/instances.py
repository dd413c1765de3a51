"""What a trial is judged on: folds of the days before the test, and seeds, the same for every trial."""

import copy
from dataclasses import dataclass, replace

import numpy as np
from omegaconf import DictConfig, OmegaConf

from diffusion_dfl.data.folds import ahead_folds, block_folds
from diffusion_dfl.suite.config.compose import digest
from diffusion_dfl.suite.runs.compile import make_task
from diffusion_dfl.suite.search.space import FoldKind
from diffusion_dfl.tasks import Task
from diffusion_dfl.training.streams import numpy_stream

#: Of every search.
NUM_FOLDS = 4
SEEDS = (0, 1)


@dataclass(frozen=True)
class Instance:
    """A fold of a seed: its blocks validate, the other days but for the gap are trained on.

    Attributes:
        fold, seed: which.
        task: with the fold as its split, and without test rows.
    """

    fold: int
    seed: int
    task: Task

    @property
    def name(self) -> str:
        return f"fold {self.fold} seed {self.seed}"


def instances(
    config: DictConfig, kind: FoldKind = "blocks", num_folds: int = NUM_FOLDS
) -> list[Instance]:
    """Those of a search, in the order in which trials go through them: every fold once, then again.

    The seed draws blocks, initial weights and noise, and of a simulated task the data.

    Args:
        config: of the row.
        kind: of folds: :func:`~diffusion_dfl.data.folds.block_folds` or
            :func:`~diffusion_dfl.data.folds.ahead_folds`.
        num_folds: how many.

    Raises:
        DataError: more folds than the days make.
    """
    found: dict[tuple[int, int], Instance] = {}
    for seed in SEEDS:
        seeded = copy.deepcopy(config)
        OmegaConf.update(seeded, "seed", seed)
        task = without_test(make_task(seeded))
        rows = np.arange(len(task.dataset.contexts))
        if kind == "ahead":
            folds = ahead_folds(task.dataset, rows, num_folds, "search folds")
        else:
            rng = numpy_stream(seed, "folds")
            folds = block_folds(task.dataset, rows, num_folds, rng, "search folds")
        for number, fold in enumerate(folds):
            part = copy.copy(task)
            part.dataset = replace(task.dataset, train=fold.rest, validation=fold.held)
            found[number, seed] = Instance(number, seed, part)
    turns = [
        [(fold, SEEDS[(fold + turn) % len(SEEDS)]) for fold in range(num_folds)]
        for turn in range(len(SEEDS))
    ]
    return [found[key] for turn in turns for key in turn]


def without_test(task: Task) -> Task:
    """The task with no row of its test part, not even in memory."""
    data = task.dataset
    known = data.known
    part = copy.copy(task)
    part.dataset = replace(
        data,
        contexts=data.contexts[known],
        outcomes=data.outcomes[known],
        dates=None if data.dates is None else data.dates[known],
        weights=None if data.weights is None else data.weights[known],
        train=np.searchsorted(known, data.train),
        validation=np.searchsorted(known, data.validation),
        test=np.empty(0, dtype=np.int64),
    )
    return part


def data_digest(every: list[Instance]) -> str:
    """What tells these data and folds from others.

    Squares to nine digits: a sum may be 0, and the last digits of features know how many threads made them.
    """
    return digest(
        [
            [
                one.fold,
                one.seed,
                f"{np.square(one.task.dataset.contexts).sum():.9g}",
                f"{np.square(one.task.dataset.outcomes).sum():.9g}",
                one.task.dataset.validation.tolist(),
            ]
            for one in every
        ],
        16,
    )
