"""Weights of rows through a whole training: they follow their rows, and nothing else changes."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import diffusion_dfl as ddfl
from diffusion_dfl.predictors import BoostedQuantiles, LinearPredictor
from diffusion_dfl.training.loop import Stage
from tests.training.problems import RULE, WHOLE, task

torch.set_num_threads(1)
SMALL = partial(ddfl.GaussianPredictor, width=8, layers=1, dropout=0.2)
RESIDUAL = partial(SMALL, outcome_scaling="residual", base_models=ddfl.BaseModels(2, 8, 1))
POINT = partial(ddfl.DeterministicPredictor, width=8, layers=1)
DIFFUSION = partial(
    ddfl.DiffusionPredictor,
    width=8,
    layers=1,
    num_diffusion_steps=8,
    sampling=ddfl.Sampling(3, sampler="ancestral", variance="beta", final_noise=True),
)
BATCHES = dataclasses.replace(WHOLE, batch_size=16, patience=2, ema_decay=0.5)
DAYS = 80


def _task(weights: NDArray[np.float64] | None, **changes: Any) -> ddfl.FrameTask:
    made = task(gap=3, days=DAYS)
    data = dataclasses.replace(made.dataset, weights=weights, **changes)
    return ddfl.FrameTask(made.name, made.program, data, ("a", "b"))


def _train(problem: ddfl.FrameTask, predictor: Any, estimator: Any, **options: Any) -> ddfl.Fitted:
    given = {"fit": BATCHES, "train": BATCHES, "foundation": BATCHES, "device": "cpu", **options}
    return ddfl.train(problem, predictor, estimator, decision=RULE, **given)


def _uneven(seed: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).gamma(1.0, 1.0, DAYS)


def _assert_equal(one: ddfl.Fitted, other: ddfl.Fitted) -> None:
    first, second = one.predictor.state_dict(), other.predictor.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert name.endswith("fitted_on") or torch.equal(value, second[name]), name
    assert one.validation_cost == other.validation_cost
    assert one.history.keys() == other.history.keys()
    for stage, epochs in one.history.items():
        assert repr(epochs) == repr(other.history[stage])


CASES = {
    "gaussian, score": (SMALL, ddfl.Score(6)),
    "residual, reparam": (RESIDUAL, ddfl.Reparam(6)),
    "diffusion, score path": (DIFFUSION, ddfl.ScorePath(6)),
    "policy": (partial(ddfl.PolicyNetwork, width=8), ddfl.Policy()),
    "bootstrap": (
        partial(ddfl.ResidualBootstrap, base_models=ddfl.BaseModels(2, base="linear")),
        None,
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_weights_that_are_all_the_same_are_none_to_the_last_bit(name: str) -> None:
    plain, same = (_task(weights) for weights in (None, np.full(DAYS, 0.3)))
    _assert_equal(*(_train(one, *CASES[name], refit=True) for one in (plain, same)))


@pytest.mark.parametrize("name", list(CASES))
def test_a_row_of_weight_0_is_no_row_to_the_last_bit(name: str) -> None:
    """Against data where it is a test row: in training, validation, scales, folds and the refit."""
    weights = _uneven()
    whole = task(gap=3, days=DAYS).dataset
    out = np.sort(np.concatenate([whole.train[3:9], whole.validation[2:5], [46, 47]]))
    weights[out] = 0.0
    left = {part: np.setdiff1d(getattr(whole, part), out) for part in ("train", "validation")}
    absent = _task(np.where(weights > 0, weights, 7.0), **left, test=np.union1d(whole.test, out))
    assert np.isin([46, 47], np.setdiff1d(whole.known, [*whole.train, *whole.validation])).all()
    _assert_equal(*(_train(one, *CASES[name], refit=True) for one in (_task(weights), absent)))


def test_the_unit_of_weights_is_nothing() -> None:
    weights = _uneven()
    pair = [_train(_task(scale * weights), *CASES["residual, reparam"]) for scale in (1.0, 2.0**9)]
    _assert_equal(*pair)
    assert pair[0].history != _train(_task(None), *CASES["residual, reparam"]).history


def test_weights_stay_with_their_rows_in_folds_stages_and_the_refit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = _task(_uneven())
    data = problem.dataset
    assert data.weights is not None
    known = dict(zip(data.contexts[:, 0].astype(np.float32), data.weights, strict=True))
    seen: list[str] = []
    run = Stage.run

    def watched(stage: Stage) -> Any:
        wanted = torch.tensor([known[key] for key in stage.rows.context[:, 0].numpy()])
        assert stage.rows.weights is not None
        torch.testing.assert_close(stage.rows.weights, wanted / wanted.mean())
        seen.append(stage.name)
        return run(stage)

    monkeypatch.setattr(Stage, "run", watched)
    _train(problem, RESIDUAL, ddfl.Reparam(6), refit=True)
    stages = ["foundation-0", "foundation-1", "fit", "train"]
    assert seen == [*stages, *(f"refit-{stage}" for stage in stages)]


def test_a_step_has_the_weights_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = _task(_uneven())
    data = problem.dataset
    assert data.weights is not None
    mean = data.weights[data.train].mean()
    known = dict(zip(data.contexts[:, 0].astype(np.float32), data.weights, strict=True))
    call = ddfl.TwoStage.__call__

    def watched(self: Any, predictor: Any, layer: Any, batch: ddfl.Batch, generator: Any) -> Any:
        wanted = torch.tensor([known[key] / mean for key in batch.context[:, 0].numpy()])
        assert batch.weights is not None
        torch.testing.assert_close(batch.weights, wanted)
        return call(self, predictor, layer, batch, generator)

    monkeypatch.setattr(ddfl.TwoStage, "__call__", watched)
    _train(problem, SMALL, ddfl.TwoStage())


def test_epochs_are_chosen_by_weighted_means_of_loss_and_cost() -> None:
    held = task(gap=3, days=DAYS).dataset.validation[:2]
    start = _train(_task(None), POINT, None).predictor

    def scores(*weights: float) -> NDArray[np.float64]:
        every = np.ones(DAYS)
        every[held] = weights
        problem = _task(every, validation=held)
        fit = _train(problem, POINT, None).history["fit"]
        train = _train(problem, start, ddfl.Reparam(6), fit=None).history["train"]
        return np.array([stage[0][1]["validation_score"] for stage in (fit, train)])

    np.testing.assert_allclose(scores(1, 3), (scores(1, 0) + 3 * scores(0, 1)) / 4, rtol=1e-5)


def test_a_heavy_row_draws_the_fit_to_itself() -> None:
    weights = np.ones(DAYS)
    weights[5] = 1e4
    longer = dataclasses.replace(WHOLE, epochs=150)
    for predictor in (POINT, LinearPredictor):
        found, plain = (_train(_task(w), predictor, None, fit=longer) for w in (weights, None))
        data = found.task.dataset
        miss = [
            abs(one.sample(data.contexts[5:6], 1)[0, 0] - data.outcomes[5]).max()
            for one in (found, plain)
        ]
        assert miss[0] < 0.2 * miss[1]


def test_the_test_counts_every_row_once() -> None:
    weights = _uneven()
    weights[-3:] = 0.0
    found = _train(_task(weights), SMALL, None)
    again = dataclasses.replace(found, task=_task(None))
    assert found.evaluate(num_large=6).metrics == again.evaluate(num_large=6).metrics
    assert len(found.evaluate(num_large=6).per_row) == len(found.task.dataset.test)
    train = found.evaluate("train", num_large=6)
    assert len(train.per_row) == len(found.task.dataset.train)


def test_a_folder_of_other_weights_is_refused(tmp_path: Path) -> None:
    _train(_task(_uneven()), SMALL, None, directory=tmp_path)
    with pytest.raises(ddfl.UserError, match="is the checkpoint of stock"):
        _train(_task(_uneven(2)), SMALL, None, directory=tmp_path)


class Old(ddfl.GaussianPredictor):
    """A predictor of the user's own without an argument for weights."""

    def loss(self, context: Any, outcome: Any, generator: Any) -> Any:  # type: ignore[override]
        return super().loss(context, outcome, generator)


class OldBase(ddfl.GaussianPredictor):
    """One whose base has none."""

    def __init__(self, context_size: int, outcome_size: int) -> None:
        super().__init__(context_size, outcome_size)
        self.base = ddfl.ResidualBase([Old(context_size, outcome_size)])


class OldTrees(BoostedQuantiles):
    """One fitted in closed form."""

    def fit_rows(self, contexts: Any, outcomes: Any) -> None:  # type: ignore[override]
        super().fit_rows(contexts, outcomes)


class OldScore:
    """An estimator of the user's own that says nothing of weights."""

    decision_focused = True

    def __call__(self, predictor: Any, layer: Any, batch: Any, generator: Any) -> ddfl.Loss:
        return ddfl.Loss(predictor.loss(batch.context, batch.outcome, generator))


@pytest.mark.parametrize(
    ("predictor", "estimator", "message"),
    [
        (Old, None, r"task=stock: the data have weights, and Old\.loss has no argument for them"),
        (OldBase, None, r"and Old\.loss has no argument"),
        (OldTrees, None, r"OldTrees\.fit_rows has no argument .* or leave out weights="),
        (SMALL, OldScore(), r"OldScore does not say takes_weights = True.*batch\.weights"),
    ],
)
def test_weights_that_would_be_left_unread_are_refused_before_anything_is_trained(
    predictor: Any, estimator: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(_task(None), predictor, estimator)
    monkeypatch.setattr(Stage, "run", lambda *_: pytest.fail("trained"))
    with pytest.raises(ddfl.UserError, match=message):
        _train(_task(_uneven()), predictor, estimator)
