"""Training rows are standardised by a base that did not see them, at their true contexts."""

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import diffusion_dfl as ddfl
from diffusion_dfl.data.folds import block_folds, fold_of_rows
from diffusion_dfl.predictors import BaseModels, Predictor, ResidualBase, residual_base
from diffusion_dfl.predictors.base import FULL, Backpropagation, LogDensity
from diffusion_dfl.training.loop import Stage
from diffusion_dfl.training.streams import numpy_stream
from tests.training.problems import RULE, WHOLE, task

torch.set_num_threads(1)
NOISY = dataclasses.replace(WHOLE, context_noise=0.5)
FOLDS = 3


@dataclasses.dataclass
class Note:
    """What a call of the loss was given, and what it made of it."""

    stage: str
    context: Tensor
    outcome: Tensor
    standardised: Tensor
    drawn_under: list[Tensor]


class Own(Predictor):
    """A residual predictor as a user writes one: it passes its base on, and no more."""

    has_density = False
    notes: ClassVar[list[Note]] = []
    stage = ""

    def __init__(self, context_size: int, outcome_size: int, folds: int = FOLDS) -> None:
        base = residual_base(context_size, outcome_size, BaseModels(folds, 8, 1))
        super().__init__(context_size, outcome_size, base)
        self.network = torch.nn.Linear(context_size, outcome_size)
        self.drawn: list[Tensor] = []

    def loss(self, context: Tensor, outcome: Tensor, generator: torch.Generator) -> Tensor:
        value = self.standardised(context, outcome.unsqueeze(1)).squeeze(1)
        if self.training:
            Own.notes.append(Note(Own.stage, context, outcome, value, list(self.drawn)))
            self.drawn.clear()
        return (self.network(self.contexts(context)) - value).square().mean()

    def sample(
        self,
        context: Tensor,
        num_scenarios: int,
        generator: torch.Generator,
        differentiable: bool = False,
        backpropagation: Backpropagation = FULL,
    ) -> Tensor:
        if differentiable:
            self.drawn.append(torch.stack(tuple(self.scaling(context))))
        with torch.set_grad_enabled(differentiable):
            centre = self.network(self.contexts(context)).unsqueeze(1)
            shape = (len(context), num_scenarios, self.outcome_size)
            return self.raw(context, centre + torch.randn(shape, generator=generator))

    def weighted_log_density(self, *arguments: Any, **options: Any) -> LogDensity:
        raise TypeError("has no density")


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[Note]:
    """Every call of the loss of an :class:`Own` in training, with the stage that made it."""
    step = Stage._step

    def named(stage: Stage, *arguments: Any) -> Any:
        Own.stage = stage.name
        return step(stage, *arguments)

    monkeypatch.setattr(Stage, "_step", named)
    Own.notes = []
    return Own.notes


def _train(predictor: Any, estimator: Any = None, **options: Any) -> ddfl.Fitted:
    given = {"fit": WHOLE, "train": WHOLE, "foundation": WHOLE, "device": "cpu", **options}
    problem = given.pop("task", task(gap=2))
    return ddfl.train(problem, predictor, estimator, decision=RULE, **given)


def _rows_of(found: ddfl.Fitted, note: Note) -> Tensor:
    """The rows of a batch, which their outcomes tell."""
    outcomes = torch.as_tensor(found.task.dataset.outcomes, dtype=torch.float32)
    same = (note.outcome[:, None] == outcomes[None]).all(2)
    assert bool((same.sum(1) == 1).all())
    return same.long().argmax(1)


@pytest.mark.parametrize("refit", [False, True])
def test_a_row_has_the_scaling_of_the_member_that_did_not_see_it_in_every_stage(
    refit: bool, notes: list[Note]
) -> None:
    """At its true context, whatever noise is added to the one the network sees."""
    found = _train(Own, ddfl.Reparam(6), fit=NOISY, train=NOISY, refit=refit, seed=5)
    data = found.task.dataset
    last = "refit-" if refit else ""
    rows = data.known if refit else data.train
    folds = block_folds(data, rows, FOLDS, numpy_stream(5, "folds"))
    contexts, outcomes = (
        torch.as_tensor(values, dtype=torch.float32) for values in (data.contexts, data.outcomes)
    )
    base = found.predictor.base
    assert isinstance(base, ResidualBase) and base.folds == FOLDS
    member_of = torch.full((len(contexts),), -1)
    member_of[torch.as_tensor(rows)] = torch.as_tensor(fold_of_rows(rows, folds))

    for number, member in enumerate(base.members):
        assert isinstance(member, Predictor)
        # Its own scales are of the rows it was fitted on.
        for part, values in ((member.contexts, contexts), (member.outcomes, outcomes)):
            seen = values[torch.as_tensor(folds[number].rest)].double()
            torch.testing.assert_close(part.mean.double(), seen.mean(0), rtol=1e-5, atol=1e-6)
            assert not torch.allclose(
                part.mean.double(), values[torch.as_tensor(rows)].double().mean(0)
            )

    for stage in ("fit", "train"):
        mine = [note for note in notes if note.stage == last + stage]
        assert mine
        for note in mine:
            index = _rows_of(found, note)
            assert sorted(index.tolist()) == rows.tolist()
            assert not torch.allclose(note.context, contexts[index])  # the network's is noisy
            of = member_of[index]
            known = [member.location_and_scale(contexts[index]) for member in base.members]
            place = torch.arange(len(index))
            location = torch.stack([one.location for one in known])[of, place].detach()
            scale = torch.stack([one.scale for one in known])[of, place].detach()
            torch.testing.assert_close(
                note.standardised, (outcomes[index] - location) / scale, rtol=1e-4, atol=1e-4
            )
            # Scenarios of the decision stage are drawn under the same.
            assert len(note.drawn_under) == (stage == "train")
            for under in note.drawn_under:
                torch.testing.assert_close(under, torch.stack([location, scale]))


def test_noise_in_the_contexts_leaves_what_the_loss_is_given_as_it_is(notes: list[Note]) -> None:
    """To the last bit: it reached the base before, which added its own errors to the outcomes."""
    given = {}
    for settings in (WHOLE, NOISY):
        notes.clear()
        found = _train(Own, fit=settings)
        by_row = {}
        for note in (note for note in notes if note.stage == "fit"):
            for row, value in zip(_rows_of(found, note).tolist(), note.standardised, strict=True):
                by_row.setdefault(row, value)
                assert torch.equal(by_row[row], value)
        given[settings.context_noise] = by_row
    assert given[0.0].keys() == given[0.5].keys()
    for row, value in given[0.0].items():
        assert torch.equal(given[0.5][row], value), row


def test_new_rows_have_the_scaling_of_all_members(notes: list[Note]) -> None:
    found = _train(Own)
    contexts = torch.as_tensor(found.task.dataset.contexts, dtype=torch.float32)
    base = found.predictor.base
    assert base is not None
    torch.testing.assert_close(found.predictor.scaling(contexts), base(contexts))


def test_the_base_is_not_trained_after_its_stage(notes: list[Note]) -> None:
    plain = _train(Own)
    decided = _train(Own, ddfl.Reparam(6), train=NOISY)
    assert plain.predictor.base is not None and decided.predictor.base is not None
    one, other = plain.predictor.base.state_dict(), decided.predictor.base.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(module.training for module in decided.predictor.base.modules())


def test_a_single_base_is_chosen_on_the_validation_rows_and_sees_all_training_rows(
    notes: list[Note],
) -> None:
    found = _train(lambda *sizes: Own(*sizes, folds=1))
    assert "foundation" in found.history and "foundation-0" not in found.history
    base = found.predictor.base
    assert base is not None
    member, data = base.members[0], found.task.dataset
    assert isinstance(member, Predictor)
    mean = torch.as_tensor(data.outcomes[data.train].mean(0))
    torch.testing.assert_close(member.outcomes.mean.double(), mean, rtol=1e-5, atol=1e-6)


def test_every_member_has_a_stage_of_its_own_judged_on_its_fold() -> None:
    found = _train(Own)
    stages = {f"foundation-{number}" for number in range(FOLDS)}
    assert stages <= set(found.history)
    first = [found.history[stage][0][1]["validation_score"] for stage in sorted(stages)]
    assert len(set(first)) == FOLDS


# Refusals


def test_more_folds_than_blocks_are_one_error_that_names_the_key(notes: list[Note]) -> None:
    with pytest.raises(
        ddfl.UserError,
        match=r"^model\.base_folds=5: 46 rows make 4 blocks of 14 rows.* a number from 2 to 4$",
    ):
        _train(lambda *sizes: Own(*sizes, folds=5))
    assert notes == []


def test_a_base_of_another_seed_may_have_seen_the_rows_and_is_refused(notes: list[Note]) -> None:
    fitted = _train(Own, seed=3).predictor
    again = _train(fitted, ddfl.Reparam(6), fit=None, seed=3)
    direct = _train(Own, ddfl.Reparam(6), seed=3)
    for name, value in direct.predictor.state_dict().items():
        assert torch.equal(again.predictor.state_dict()[name], value), name
    with pytest.raises(
        ddfl.UserError, match=r"base of this Own was fitted on other rows or folds.*seed=4 here"
    ):
        _train(fitted, ddfl.Reparam(6), fit=None, seed=4)


@pytest.mark.parametrize("case", ["other rows", "refitted", "never fitted"])
def test_a_base_of_other_rows_is_refused(case: str, notes: list[Note]) -> None:
    fitted: Predictor = Own(2, 2) if case == "never fitted" else _train(Own).predictor
    if case == "refitted":
        fitted = _train(Own, refit=True).predictor
    other = task(gap=9 if case == "other rows" else 2)
    with pytest.raises(ddfl.UserError, match="was fitted on other rows or folds"):
        _train(fitted, ddfl.Reparam(6), fit=None, task=other)


def test_what_only_fits_on_needs_no_fold(notes: list[Note]) -> None:
    """A predictor fitted before decides without a training stage, whatever its base has seen."""
    fitted = _train(Own, seed=3).predictor
    found = _train(fitted, None, fit=None, seed=4)
    assert found.train is None and found.fit is None
