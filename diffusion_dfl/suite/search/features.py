"""Which features of the power task carry over to later years? Validation days only.

The Gaussian two-stage model on subsets of the features decides with M = 100, c = 1.5, on two kinds of
validation days: the week blocks training uses, and the whole of 2014, after a fit on the years before it.
The test period lies after 2014, so the second tells more about it.
"""

from collections.abc import Iterator

import numpy as np
import torch

from diffusion_dfl.data import Dataset, power_dataset
from diffusion_dfl.estimators import Batch, TwoStage
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import GaussianPredictor, Predictor
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.tasks.evaluation import decision_scores
from diffusion_dfl.training.loop import Stage
from diffusion_dfl.training.settings import TrainingSettings
from diffusion_dfl.training.streams import numpy_stream, stream_seed, torch_stream

CPU = torch.device("cpu")
NUM_SCENARIOS, BANDWIDTH_SCALE = 100, 1.5
SETTINGS = TrainingSettings(
    epochs=60, batch_size=64, learning_rate=1e-3, ema_decay=0.99, patience=20
)


def _subsets(data: Dataset) -> dict[str, np.ndarray]:
    """Name -> contexts restricted or transformed."""
    names = list(data.feature_names)
    x = data.contexts

    def pick(*prefixes: str) -> np.ndarray:
        return x[:, [i for i, name in enumerate(names) if name.startswith(prefixes)]]

    def column(name: str) -> np.ndarray:
        return x[:, names.index(name)]

    small = pick("prev_h", "weekday_s", "daylight", "year_sin1", "year_cos1")
    holiday = column("holiday")[:, None]
    relative = np.stack(
        [column(name) - column("prev_mean") for name in ("lag2_mean", "lag7_mean", "roll7_mean")]
        + [column("roll28_mean") - column("roll7_mean"), column("roll7_std")],
        axis=1,
    )
    level = column("prev_mean")[:, None]
    shape = np.concatenate([pick("prev_h") - level, level], axis=1)
    calendar = pick(
        "weekday_", "holiday", "daylight", "year_sin1", "year_cos1", "year_sin2", "year_cos2"
    )
    few = np.concatenate([pick("weekday_s", "daylight", "year_sin1", "year_cos1"), holiday], axis=1)
    return {
        "all": x,
        "previous day and calendar": np.concatenate([small, holiday], axis=1),
        "previous day, every weekday, days around holidays, two harmonics": np.concatenate(
            [pick("prev_h"), calendar], axis=1
        ),
        "previous day as shape and level, calendar": np.concatenate([shape, few], axis=1),
        "previous day as shape and level, every weekday, days around holidays, two harmonics": (
            np.concatenate([shape, calendar], axis=1)
        ),
        "previous day as shape and level, calendar, lags relative to the previous day": (
            np.concatenate([shape, few, relative], axis=1)
        ),
        "the same, every weekday, days around holidays, two harmonics": np.concatenate(
            [shape, calendar, relative], axis=1
        ),
        "previous day and calendar, lags relative to the previous day": np.concatenate(
            [small, holiday, relative], axis=1
        ),
    }


class _Silent:
    """A log of nothing."""

    def epoch(self, stage: str, epoch: int, values: dict[str, float]) -> None: ...

    def restore(self, stage: str, epochs: object) -> None: ...


def _cost(data: Dataset, x: np.ndarray, train: np.ndarray, judge: np.ndarray, seed: int) -> float:
    """Decision cost on the rows ``judge`` after a fit on the rows ``train``."""

    def rows(index: np.ndarray) -> Batch:
        outcome = torch.as_tensor(data.outcomes[index]).float()
        return Batch(torch.as_tensor(x[index]).float(), outcome)

    torch.manual_seed(stream_seed(seed, "initialisation"))
    predictor = GaussianPredictor(x.shape[1], data.outcomes.shape[1], dropout=0.1)
    trained, held = rows(train), rows(judge)
    predictor.fit_scaling(trained.context, trained.outcome)
    layer = DecisionLayer(PowerProgram(), BANDWIDTH_SCALE, sample_size=NUM_SCENARIOS)

    def score(candidate: Predictor) -> float:
        with torch.no_grad():
            noise = torch_stream(seed, "validation", CPU)
            return float(candidate.loss(held.context, held.outcome, noise))

    noise = torch_stream(seed, "fit", CPU)
    Stage(
        "fit", predictor, TwoStage(), layer, trained, SETTINGS, score, noise, None, _Silent()
    ).run()
    noise = torch_stream(seed, "validation", CPU)
    return decision_scores(predictor, [layer], held, NUM_SCENARIOS, noise)[0]


def study(seeds: int) -> Iterator[str]:
    """The table as Markdown, a line as soon as its fits are made: means over seeds, standard errors."""
    yield "# Features and drift (validation days; `python scripts/feature_study.py`)"
    yield ""
    yield "| Features | Number | Week blocks | 2014 after a fit on 2008-2013 |"
    yield "|---|---|---|---|"
    every = [
        power_dataset("real", numpy_stream(seed, "split"), features="full") for seed in range(seeds)
    ]
    for name in _subsets(every[0]):
        blocks, later = [], []
        for seed, data in enumerate(every):
            assert data.dates is not None
            x = _subsets(data)[name]
            year = data.dates.astype("datetime64[Y]").astype(int) + 1970
            before = data.dates < data.dates[data.test[0]]
            blocks.append(_cost(data, x, data.train, data.validation, seed))
            earlier, last = np.flatnonzero(year < 2014), np.flatnonzero((year == 2014) & before)
            later.append(_cost(data, x, earlier, last, seed))
        entries = [
            f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"
            for values in (blocks, later)
        ]
        yield f"| {name} | {x.shape[1]} | {' | '.join(entries)} |"
