"""One pass or two: a refit trains again, for the epochs that were found, on all rows before the test."""

import dataclasses
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusion_dfl as ddfl
from diffusion_dfl.training.loop import Stage
from diffusion_dfl.training.steps import Steps
from tests.training.problems import RULE, WHOLE, task

pytestmark = pytest.mark.usefixtures("every_epoch")

torch.set_num_threads(1)
SMALL = partial(ddfl.GaussianPredictor, width=8, layers=1, dropout=0.2)
RESIDUAL = partial(SMALL, outcome_scaling="residual", base_models=ddfl.BaseModels(2, 8, 1))
LAST = dataclasses.replace(WHOLE, keep="last", patience=0)


def _train(predictor: Any = SMALL, estimator: Any = None, **options: Any) -> ddfl.Fitted:
    given = {"fit": WHOLE, "train": WHOLE, "foundation": WHOLE, "device": "cpu", **options}
    problem = given.pop("task", task(gap=3))
    estimator = ddfl.Reparam(6) if estimator is None else estimator
    return ddfl.train(problem, predictor, estimator, decision=RULE, **given)


def _weights(found: ddfl.Fitted) -> dict[str, Tensor]:
    return found.predictor.state_dict()


def _equal(one: ddfl.Fitted, other: ddfl.Fitted) -> bool:
    first, second = _weights(one), _weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit validates best after its second epoch, the training after its first."""
    fit, train = iter([5.0, 3.0, 1.0, 2.0]), iter([5.0, 1.0, 2.0, 3.0, 7.5])
    monkeypatch.setattr(Steps, "_own_loss", lambda *_: next(fit))
    monkeypatch.setattr(Steps, "_scores", lambda *_: [next(train)])


class _Seen:
    """The stages that began, the weights they began with, and the rows of every step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: dict[str, list[list[float]]] = {}
        self.start: dict[str, dict[str, Tensor]] = {}
        run, step = Stage.run, Stage._step

        def began(stage: Stage) -> Any:
            self.steps[stage.name] = []
            weights = stage.predictor.named_parameters()
            self.start[stage.name] = {name: value.detach().clone() for name, value in weights}
            return run(stage)

        def stepped(stage: Stage, index: Tensor, number: int) -> Any:
            self.steps[stage.name].append(sorted(stage.rows.context[index][:, 0].tolist()))
            return step(stage, index, number)

        monkeypatch.setattr(Stage, "run", began)
        monkeypatch.setattr(Stage, "_step", stepped)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> _Seen:
    return _Seen(monkeypatch)


def _column(found: ddfl.Fitted, rows: np.ndarray) -> list[float]:
    """What identifies rows: their first feature, as networks see it."""
    return sorted(found.task.dataset.contexts[rows, 0].astype(np.float32).tolist())


def test_a_refit_sees_training_validation_and_gap_rows_for_the_epochs_that_validated_best(
    scripted: None, seen: _Seen
) -> None:
    found = _train(refit=True)
    data = found.task.dataset
    assert len(data.known) == len(data.train) + len(data.validation) + 3
    assert list(seen.steps) == ["fit", "train", "refit-fit", "refit-train"]
    for stage, epochs, rows in (
        ("fit", 3, data.train),
        ("train", 3, data.train),
        ("refit-fit", 2, data.known),
        ("refit-train", 1, data.known),
    ):
        assert seen.steps[stage] == [_column(found, rows)] * epochs, stage
        assert [epoch for epoch, _ in found.history[stage]] == list(range(epochs + 1))
    assert found.validation_cost == 7.5
    assert found.fit is not None and found.fit.best_epoch == 2
    assert found.train is not None and found.train.best_epoch == 1


def test_without_a_refit_there_is_one_pass(scripted: None, seen: _Seen) -> None:
    found = _train()
    assert list(seen.steps) == ["fit", "train"]
    assert found.validation_cost == 7.5


def test_a_refit_begins_with_the_weights_the_first_pass_began_with(
    scripted: None, seen: _Seen
) -> None:
    _train(refit=True)
    first, second = seen.start["fit"], seen.start["refit-fit"]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    first, second = seen.start["train"], seen.start["refit-train"]
    assert not all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_refit_is_the_training_those_rows_would_have_had(ema_decay: float) -> None:
    """To the last digit: against a data set whose training rows they are, its epochs given."""
    problem = task(gap=3)
    settings = dataclasses.replace(WHOLE, ema_decay=ema_decay, batch_size=16)
    refitted = _train(fit=settings, train=settings, refit=True, task=problem)
    data = problem.dataset
    test = data.test
    whole = ddfl.FrameTask(
        problem.name,
        problem.program,
        dataclasses.replace(data, train=data.known, validation=test[:4], test=test[4:]),
        ("a", "b"),
    )
    given = {
        stage: dataclasses.replace(
            settings, epochs=len(refitted.history[f"refit-{stage}"]) - 1, keep="last", patience=0
        )
        for stage in ("fit", "train")
    }
    direct = _train(task=whole, **given)
    assert _equal(refitted, direct)


def test_a_schedule_of_learning_rates_is_that_of_all_epochs_in_a_refit_too(
    scripted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: dict[str, list[float]] = {}
    epoch = Stage._epoch

    def noted(stage: Stage) -> None:
        epoch(stage)
        rates.setdefault(stage.name, []).append(stage.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(Stage, "_epoch", noted)
    _train(fit=dataclasses.replace(WHOLE, decay="cosine"), refit=True)
    assert rates["refit-fit"] == rates["fit"][:2]
    assert len(set(rates["fit"])) == 3


def test_the_base_is_refitted_for_the_mean_of_its_members_epochs_on_folds_of_all_rows(
    seen: _Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two members and the fit, four scores each: best after 0, 3 and 2 epochs.
    scores = iter([1.0, 2.0, 3.0, 4.0] + [4.0, 3.0, 2.0, 1.0] + [4.0, 3.0, 1.0, 2.0])
    monkeypatch.setattr(Steps, "_own_loss", lambda *_: next(scores))
    found = _train(RESIDUAL, refit=True)
    data = found.task.dataset
    assert [len(seen.steps[f"foundation-{k}"]) for k in (0, 1)] == [3, 3]
    assert [len(seen.steps[f"refit-foundation-{k}"]) for k in (0, 1)] == [2, 2]
    assert len(seen.steps["refit-fit"]) == 2
    folds = [seen.steps[f"refit-foundation-{k}"][0] for k in (0, 1)]
    known = _column(found, data.known)
    assert all(set(fold) < set(known) for fold in folds)
    # A row next to the other fold is in neither; every row is in one at least.
    assert len(set(folds[0]) | set(folds[1])) >= len(known) - 2 * 5
    assert set(folds[0]) & set(_column(found, data.validation)) or set(folds[1]) & set(
        _column(found, data.validation)
    )


def test_scales_are_those_of_the_rows_of_the_pass(scripted: None) -> None:
    found = _train(refit=True)
    data = found.task.dataset
    mean = torch.as_tensor(data.outcomes[data.known].mean(0))
    torch.testing.assert_close(found.predictor.outcomes.mean.double(), mean, rtol=1e-5, atol=1e-6)


def test_where_every_stage_keeps_its_last_weights_there_is_one_pass_that_validates_nothing(
    seen: _Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_own_loss", "_scores"):
        monkeypatch.setattr(Steps, name, lambda *_: pytest.fail("validated"))
    found = _train(RESIDUAL, fit=LAST, train=LAST, foundation=LAST, refit=True)
    stages = ["refit-foundation-0", "refit-foundation-1", "refit-fit", "refit-train"]
    assert list(seen.steps) == stages
    assert all(len(seen.steps[stage]) == 3 for stage in stages)
    assert found.validation_cost is None
    assert found.fit is not None and found.fit.epoch == 3
    assert found.train is not None and found.train.epoch == 3
    assert all("validation_score" not in values for _, values in found.history["refit-fit"])


@pytest.mark.parametrize("estimator", [ddfl.TwoStage(), ddfl.Reparam(6)])
def test_a_fit_that_keeps_its_last_weights_is_refitted_alike_with_a_first_pass_and_without(
    estimator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of two stages make none, those of decisions one, and both share the fit's files."""
    scores: Iterator[float] = iter(range(100))  # the first pass would choose its first epoch
    monkeypatch.setattr(Steps, "_own_loss", lambda *_: float(next(scores)))
    found = _train(SMALL, estimator, fit=LAST, refit=True)
    assert ("fit" in found.history) == estimator.decision_focused
    assert len(found.history["refit-fit"]) - 1 == LAST.epochs


def test_the_solves_of_a_pass_are_not_told_with_the_fit_of_the_next(scripted: None) -> None:
    found = _train(refit=True)
    assert any("solver_instances" in values for _, values in found.history["refit-train"])
    for stage in ("fit", "refit-fit"):
        for _, values in found.history[stage]:
            assert not [name for name in values if name.startswith("solver_")], stage


def test_a_stage_that_never_gets_better_is_left_out_of_the_refit_and_told(
    seen: _Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scores: Iterator[float] = iter(range(100))
    monkeypatch.setattr(Steps, "_scores", lambda *_: [float(next(scores))])
    with caplog.at_level(logging.WARNING):
        found = _train(refit=True)
    assert seen.steps["refit-train"] == []
    assert "no epoch of stage train validates better than none" in caplog.text
    assert [epoch for epoch, _ in found.history["refit-train"]] == [0]


def test_what_was_fitted_before_cannot_be_refitted() -> None:
    fitted = _train(estimator=ddfl.TwoStage()).predictor
    with pytest.raises(ddfl.UserError, match="refit=True with fit=None: .* or leave refit out"):
        _train(fitted, fit=None, refit=True)


def test_a_policy_is_refitted_too(seen: _Seen) -> None:
    found = _train(partial(ddfl.PolicyNetwork, width=8), ddfl.Policy(), refit=True)
    assert list(seen.steps) == ["train", "refit-train"]
    assert found.fit is None and found.validation_cost is not None


# Killed


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("label", "epoch"),
    [
        ("foundation-1", 1),
        ("train", 2),
        ("refit-foundation-0", 1),
        ("refit-fit", 0),
        ("refit-fit", 1),
        ("refit-train", 1),
    ],
)
@pytest.mark.slow
def test_a_training_killed_in_any_stage_goes_on_to_the_same_digits(
    label: str, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Falling scores: every stage of the refit makes all its epochs.
    settings = dataclasses.replace(WHOLE, batch_size=16, ema_decay=0.5)
    options: dict[str, Any] = dict.fromkeys(("foundation", "fit", "train"), settings)
    scores = {"own": 0.0, "cost": 0.0}

    def falling(kind: str) -> float:
        scores[kind] -= 1.0
        return scores[kind]

    monkeypatch.setattr(Steps, "_own_loss", lambda *_: falling("own"))
    monkeypatch.setattr(Steps, "_scores", lambda *_: [falling("cost")])
    whole = _train(RESIDUAL, refit=True, **options)
    original = Stage._epoch

    def kill(stage: Stage) -> None:
        if (stage.name, stage.progress.epoch) == (label, epoch):
            raise Killed
        original(stage)

    with monkeypatch.context() as patched:
        patched.setattr(Stage, "_epoch", kill)
        with pytest.raises(Killed):
            _train(RESIDUAL, refit=True, directory=tmp_path, **options)
    resumed = _train(RESIDUAL, refit=True, directory=tmp_path, **options)
    assert _equal(resumed, whole)
    assert resumed.history.keys() == whole.history.keys()
    files = {path.name for path in tmp_path.glob("*.pt") if "previous" not in path.name}
    stages = ("foundation-0", "foundation-1", "fit", "train")
    assert files == {f"{prefix}{stage}.pt" for prefix in ("", "refit-") for stage in stages}


def test_a_folder_of_one_pass_is_not_taken_for_one_of_two(tmp_path: Path) -> None:
    _train(directory=tmp_path)
    with pytest.raises(ddfl.UserError, match="is the checkpoint of stock"):
        _train(directory=tmp_path, refit=True)


@pytest.mark.parametrize("changes", [{"block_rows": 7}, {"gap_rows": 3}])
def test_a_folder_of_other_folds_is_refused(changes: dict[str, int], tmp_path: Path) -> None:
    problem = task()
    other = ddfl.FrameTask(
        problem.name, problem.program, dataclasses.replace(problem.dataset, **changes), ("a", "b")
    )
    _train(RESIDUAL, ddfl.TwoStage(), task=problem, directory=tmp_path)
    with pytest.raises(ddfl.UserError, match="is the checkpoint of stock"):
        _train(RESIDUAL, ddfl.TwoStage(), task=other, directory=tmp_path)
