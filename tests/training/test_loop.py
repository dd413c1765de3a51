"""A stage of training: resuming it, choosing its best weights, stopping it."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffusion_dfl.errors import UserError
from diffusion_dfl.estimators import Batch, Loss, Reparam, Score, ScorePath, TwoStage
from diffusion_dfl.estimators.base import Estimator
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import (
    BaseModels,
    DiffusionPredictor,
    ElboSurrogate,
    GaussianPredictor,
    Predictor,
    Sampling,
    Scaling,
)
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.training.checkpoint import Checkpoint, read_tensors
from diffusion_dfl.training.loop import Stage, TrainingDiverged
from diffusion_dfl.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("every_epoch")

HOURS, EPOCHS = 2, 4
Score_ = Callable[[Predictor], float]


def _rows(count: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    contexts = torch.randn(count, 3, generator=generator)
    noise = 0.1 * torch.randn(count, HOURS, generator=generator)
    return contexts, 1 + 0.3 * contexts[:, :HOURS] + noise


def _gaussian() -> Predictor:
    return GaussianPredictor(3, HOURS, width=8, layers=1, dropout=0.3)


def _diffusion() -> Predictor:
    return DiffusionPredictor(
        3, HOURS, width=8, layers=1, dropout=0.3, num_diffusion_steps=20, sampling=Sampling(3)
    )


def _importance(timesteps: str = "stratified_importance") -> Predictor:
    return DiffusionPredictor(
        3,
        HOURS,
        width=8,
        layers=1,
        num_diffusion_steps=20,
        sampling=Sampling(3, sampler="ancestral", final_noise=True),
        elbo=ElboSurrogate(elbo_timesteps=timesteps),  # type: ignore[arg-type]
    )


def _loss_on_rows(predictor: Predictor) -> float:
    with torch.no_grad():
        return float(predictor.loss(*_rows(), torch.Generator().manual_seed(5)))


class Setup:
    """A stage in a directory; every call makes all objects anew, as another process would."""

    def __init__(
        self,
        path: Path,
        make: Callable[[], Predictor] = _gaussian,
        estimator: Estimator | None = None,
        score: Score_ | None = _loss_on_rows,
        stop: int | None = None,
        **settings: object,
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.make, self.score, self.stop = path, make, score, stop
        self.estimator = TwoStage() if estimator is None else estimator
        self.settings = TrainingSettings(
            **{"epochs": EPOCHS, "batch_size": 16, "learning_rate": 1e-2, **settings}  # type: ignore[arg-type]
        )
        self.lines: list[tuple[str, int, dict[str, float]]] = []

    def stage(self, seed: int = 0, stop: Callable[[int], None] = lambda epoch: None) -> Stage:
        torch.manual_seed(seed)
        predictor = self.make()
        predictor.fit_scaling(*_rows())

        lines = self.lines

        class Log:
            def restore(self, stage: str, epochs: Sequence[tuple[int, dict[str, float]]]) -> None:
                lines[:] = [line for line in lines if line[0] != stage]
                lines.extend((stage, *epoch) for epoch in epochs)

            def epoch(self, stage: str, epoch: int, values: dict[str, float]) -> None:
                lines.append((stage, epoch, values))
                stop(epoch)

        return Stage(
            "fit",
            predictor,
            self.estimator,
            DecisionLayer(PowerProgram(num_decisions=HOURS), 1.5),
            Batch(*_rows()),
            self.settings,
            self.score,
            torch.Generator().manual_seed(seed),
            Checkpoint(self.path / "checkpoint.pt"),
            Log(),
            stop=self.stop,
        )


def _equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class Killed(BaseException):
    """Stands for the end of the process."""


CASES = [
    (_gaussian, TwoStage()),
    (_diffusion, TwoStage()),
    (_gaussian, Reparam(5, fit_weight=0.5)),
    (_diffusion, Score(5, fit_weight=0.5)),
    (_importance, Score(20, fit_weight=1.0, trust_region=1.5, weight_clip=2.0)),
    (_importance, Score(20, num_gradient_scenarios=8)),
    (_importance, ScorePath(20, fit_weight=1.0)),
    (lambda: _importance("importance"), Score(20, fit_weight=1.0)),
    (_diffusion, Reparam(20, backpropagation="checkpoint")),
    (_diffusion, Reparam(20, backpropagation="last", last_steps=2)),
]


@pytest.mark.parametrize(
    "case",
    [0, *(pytest.param(case, marks=pytest.mark.slow) for case in range(1, len(CASES)))],
)
def test_a_stage_goes_on_from_any_epoch_to_the_same_digits(case: int, tmp_path: Path) -> None:
    make, estimator = CASES[case]
    knobs = {
        "ema_decay": 0.8,
        "decay": "cosine",
        "weight_decay": 0.1,
        "context_noise": 0.2,
        "gradient_clip": 5.0,
    }
    whole = Setup(tmp_path / "whole", make, estimator, **knobs)
    unbroken = whole.stage()
    progress = unbroken.run()

    for stop in (1 + case % 2, 3 + case % 2):
        setup = Setup(tmp_path / f"killed-{stop}", make, estimator, **knobs)

        def kill(epoch: int, stop: int = stop) -> None:
            if epoch == stop:
                raise Killed  # after the line of the epoch, before its checkpoint

        with pytest.raises(Killed):
            setup.stage(stop=kill).run()
        resumed = setup.stage(seed=100 + stop)
        result = resumed.run()
        assert _equal(resumed.predictor, unbroken.predictor)
        assert _equal(resumed.evaluated, unbroken.evaluated)
        assert setup.lines == whole.lines
        assert (result.best_score, result.best_epoch) == (progress.best_score, progress.best_epoch)
        assert (result.first_score, result.epoch) == (progress.first_score, EPOCHS)
    assert len(whole.lines) == EPOCHS + 1


def test_the_history_of_importance_sampling_is_in_the_checkpoint(tmp_path: Path) -> None:
    stage = Setup(tmp_path, _importance, Score(5), epochs=2).stage()
    stage.run()
    saved = read_tensors(stage.checkpoint.path, torch.device("cpu"))["predictor"]["elbo.history"]
    assert bool((saved > 0).any())
    later = Setup(tmp_path, _importance, Score(5), epochs=3).stage(seed=9)
    later._load()
    assert isinstance(later.predictor, DiffusionPredictor)
    assert torch.equal(later.predictor.elbo.history, saved)


def test_a_stage_killed_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    whole, setup = Setup(tmp_path / "whole"), Setup(tmp_path / "killed")
    whole_stage = whole.stage()
    whole_stage.run()

    def kill(epoch: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        setup.stage(stop=kill).run()
    stage = setup.stage()
    stage.run()
    assert _equal(stage.predictor, whole_stage.predictor)


def test_a_finished_stage_trains_no_further(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    first = setup.stage()
    first.run()
    lines = [*setup.lines]
    again = setup.stage(seed=9)
    assert again.run().epoch == EPOCHS
    assert _equal(again.predictor, first.predictor)
    assert setup.lines == lines


def _scripted(scores: list[float]) -> Score_:
    """A validation that returns these scores in turn."""
    remaining = iter(scores)
    return lambda predictor: next(remaining)


def test_the_best_weights_are_kept_not_the_last(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    scores = iter([5.0, 4.0, 2.0, 3.0, 2.0])

    def score(predictor: Predictor) -> float:
        seen.append({k: v.clone() for k, v in predictor.state_dict().items()})
        return next(scores)

    stage = Setup(tmp_path, score=score).stage()
    progress = stage.run()
    assert (progress.best_epoch, progress.best_score, progress.epoch) == (2, 2.0, EPOCHS)
    assert all(torch.equal(seen[2][k], v) for k, v in stage.predictor.state_dict().items())
    assert not stage.predictor.training


def test_the_last_weights_are_kept_where_asked_for_unless_their_score_is_not_finite(
    tmp_path: Path,
) -> None:
    seen: list[dict[str, Tensor]] = []
    scores = iter([5.0, 1.0, 2.0, 3.0, math.nan])

    def score(predictor: Predictor) -> float:
        seen.append({k: v.clone() for k, v in predictor.state_dict().items()})
        return next(scores)

    stage = Setup(tmp_path, score=score, keep="last").stage()
    progress = stage.run()
    assert (progress.best_epoch, progress.best_score, progress.diverged) == (3, 3.0, True)
    assert all(torch.equal(seen[3][k], v) for k, v in stage.predictor.state_dict().items())


def test_weights_that_never_improve_are_those_of_the_start(tmp_path: Path) -> None:
    setup = Setup(tmp_path, score=_scripted([1.0, 2.0, 3.0, 4.0, 5.0]))
    stage = setup.stage()
    before = {k: v.clone() for k, v in stage.predictor.state_dict().items()}
    assert stage.run().best_epoch == 0
    assert all(torch.equal(before[k], v) for k, v in stage.predictor.state_dict().items())


def test_patience_stops_a_stage_that_no_longer_improves(tmp_path: Path) -> None:
    setup = Setup(tmp_path, score=_scripted([5, 4, 3, 4, 4, 4, 4]), epochs=50, patience=3)
    progress = setup.stage().run()
    assert (progress.epoch, progress.best_epoch, progress.diverged) == (5, 2, False)


@pytest.mark.parametrize("bad", [10.1, math.inf, math.nan])
def test_a_score_far_above_the_first_stops_the_stage_and_keeps_the_best(
    bad: float, tmp_path: Path
) -> None:
    setup = Setup(
        tmp_path, score=_scripted([5.0, 4.0, 10.0, bad]), epochs=50, divergence_factor=2.0
    )
    progress = setup.stage().run()
    assert progress.diverged
    assert (progress.epoch, progress.best_epoch, progress.best_score) == (3, 1, 4.0)


def test_without_a_divergence_factor_high_scores_are_tolerated(tmp_path: Path) -> None:
    progress = Setup(tmp_path, score=_scripted([1, 50, 50, 50, 50])).stage().run()
    assert (progress.epoch, progress.diverged) == (EPOCHS, False)


def test_validation_happens_every_so_many_epochs_and_at_the_end(tmp_path: Path) -> None:
    setup = Setup(tmp_path, epochs=7, validate_every=3)
    setup.stage().run()
    validated = [epoch for _, epoch, values in setup.lines if "validation_score" in values]
    assert validated == [0, 3, 6, 7]


def test_no_epochs_means_no_training(tmp_path: Path) -> None:
    stage = Setup(tmp_path, epochs=0, decay="cosine").stage()
    before = {k: v.clone() for k, v in stage.predictor.state_dict().items()}
    assert stage.run().epoch == 0
    assert all(torch.equal(before[k], v) for k, v in stage.predictor.state_dict().items())


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
def test_a_stage_that_validates_nothing_ends_with_its_last_weights(
    ema_decay: float, tmp_path: Path
) -> None:
    setup = Setup(tmp_path, score=None, ema_decay=ema_decay)
    stage = setup.stage()
    progress = stage.run()
    assert (progress.epoch, progress.best_epoch) == (EPOCHS, EPOCHS)
    assert progress.best_score == progress.first_score == math.inf
    assert not any("validation_score" in values for _, _, values in setup.lines)
    assert len(setup.lines) == EPOCHS + 1
    watched = Setup(tmp_path / "watched", keep="last", ema_decay=ema_decay).stage()
    watched.run()
    assert _equal(stage.predictor, watched.predictor)
    assert _equal(stage.predictor, stage.evaluated)


@pytest.mark.parametrize("decay", ["constant", "cosine"])
@pytest.mark.parametrize("stop", [0, 2])
def test_a_stage_told_to_stop_is_the_beginning_of_the_whole_one(
    stop: int, decay: str, tmp_path: Path
) -> None:
    """With the learning rates of all its epochs, whatever its patience."""
    seen: list[dict[str, Tensor]] = []

    def score(predictor: Predictor) -> float:
        seen.append({k: v.clone() for k, v in predictor.state_dict().items()})
        return 0.0

    Setup(tmp_path / "whole", score=score, decay=decay).stage().run()
    stage = Setup(tmp_path / "cut", score=None, stop=stop, decay=decay, patience=1).stage()
    assert stage.run().epoch == stop
    assert all(torch.equal(seen[stop][k], v) for k, v in stage.predictor.state_dict().items())


def test_only_weights_that_are_trained_are_the_optimisers(tmp_path: Path) -> None:
    """A base is fixed; AdamW would let its weights decay."""

    def residual() -> Predictor:
        return GaussianPredictor(
            3,
            HOURS,
            width=8,
            layers=1,
            outcome_scaling="residual",
            base_models=BaseModels(2, 8, 1),
        )

    stage = Setup(tmp_path, residual, weight_decay=0.1).stage()
    own = [p for name, p in stage.predictor.named_parameters() if not name.startswith("base.")]
    held = [p for group in stage.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in own}
    assert stage.optimizer.defaults["fused"] is True
    assert stage.predictor.base is not None
    before = {k: v.clone() for k, v in stage.predictor.base.state_dict().items()}
    stage.run()
    assert all(torch.equal(before[k], v) for k, v in stage.predictor.base.state_dict().items())


def test_rows_are_seen_under_their_own_scaling_whatever_their_order(tmp_path: Path) -> None:
    found: dict[float, float] = {}

    class Watch(TwoStage):
        def __call__(self, predictor, layer, batch, generator):  # type: ignore[no-untyped-def]
            location, scale = predictor.scaling(batch.context)
            for row, place, width in zip(batch.outcome, location, scale, strict=True):
                found[float(row[0])] = float(place[0])
                assert float(width[0]) == 2.0
            return super().__call__(predictor, layer, batch, generator)

    stage = Setup(tmp_path, estimator=Watch(), epochs=1, batch_size=8).stage()
    count = len(stage.rows.outcome)
    number = torch.arange(float(count)).unsqueeze(1).expand(-1, HOURS)
    stage.scaling = Scaling(number, torch.full((count, HOURS), 2.0))
    stage.run()
    assert found == {float(row[0]): float(k) for k, row in enumerate(stage.rows.outcome)}


class Poison:
    """An estimator whose loss, or its gradient alone, is not finite from a step on."""

    decision_focused = True

    def __init__(self, first_bad: int, gradient_only: bool = False) -> None:
        self.calls, self.first_bad, self.gradient_only = 0, first_bad, gradient_only

    def __call__(
        self, predictor: Predictor, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> Loss:
        self.calls += 1
        value = predictor.loss(batch.context, batch.outcome, generator)
        if self.calls >= self.first_bad and self.gradient_only:
            # The root has an infinite slope at 0, and 0 times that is no number.
            value = value + (0.0 * value).sqrt()
        elif self.calls >= self.first_bad:
            value = value * math.nan
        return Loss(value, {"fit_loss": value.detach()})


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_loss_or_gradient_that_is_not_finite_stops_with_the_place_and_the_best_weights(
    gradient_only: bool, tmp_path: Path
) -> None:
    # Forty rows in batches of 16: two full ones and one of 8, three steps an epoch.
    seen: list[dict[str, Tensor]] = []
    scores = iter([5.0, 1.0, 3.0])

    def score(predictor: Predictor) -> float:
        seen.append({k: v.clone() for k, v in predictor.state_dict().items()})
        return next(scores)

    setup = Setup(tmp_path, estimator=Poison(8, gradient_only), score=score)
    stage = setup.stage()
    bad = r"loss [\d.]+, gradient norm nan" if gradient_only else "loss nan"
    with pytest.raises(
        TrainingDiverged, match=rf"'fit', epoch 3, step 2: {bad}.*those of epoch 1"
    ) as caught:
        stage.run()
    # Which rows, and the size of what is in them.
    assert re.search(
        r"The batch: 16 training rows \((\d+, ){8}\.\.\.\), contexts in -[\d.]+\.\.[\d.]+, "
        r"outcomes in -?[\d.]+\.\.[\d.]+$",
        str(caught.value),
    )
    assert all(torch.equal(seen[1][k], v) for k, v in stage.predictor.state_dict().items())
    assert all(bool(v.isfinite().all()) for v in stage.predictor.state_dict().values())
    saved = read_tensors(stage.checkpoint.path, torch.device("cpu"))
    assert saved["progress"]["epoch"] == 2
    assert all(torch.equal(seen[1][k], v) for k, v in saved["best"].items())


@pytest.mark.parametrize(("decay", "ends"), [("constant", 1.0), ("cosine", 0.5)])
def test_learning_rate_over_the_epochs(decay: str, ends: float, tmp_path: Path) -> None:
    stage = Setup(tmp_path, decay=decay, epochs=8).stage()
    rates = [stage._rate(epoch) for epoch in range(8)]
    assert rates[0] == 1.0
    assert rates[4] == pytest.approx(ends)
    expected = [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert rates == pytest.approx(expected if decay == "cosine" else [1.0] * 8)
    used = []
    original = stage.optimizer.step

    def step(*arguments: object, **knobs: object) -> object:
        used.append(stage.optimizer.param_groups[0]["lr"])
        return original(*arguments, **knobs)  # type: ignore[arg-type]

    stage.optimizer.step = step  # type: ignore[method-assign, assignment]
    stage.run()
    assert used[::3] == pytest.approx([1e-2 * rate for rate in rates])


def test_averaged_weights_are_those_validated_and_kept(tmp_path: Path) -> None:
    stage = Setup(tmp_path, ema_decay=0.9).stage()
    expected: dict[str, Tensor] = {}
    original = stage.optimizer.step

    def step(*arguments: object, **knobs: object) -> object:
        result = original(*arguments, **knobs)  # type: ignore[arg-type]
        for name, value in stage.predictor.named_parameters():
            new = value.detach().clone()
            old = expected.get(name)
            expected[name] = new if old is None else 0.9 * old + 0.1 * new
        return result

    stage.optimizer.step = step  # type: ignore[method-assign, assignment]
    stage.run()
    for name, value in stage.evaluated.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name])


def test_dropout_is_used_only_where_the_stage_says_so(tmp_path: Path) -> None:
    for dropout in (True, False):
        modes = []

        class Watch(TwoStage):
            def __call__(self, predictor, *arguments):  # type: ignore[no-untyped-def]
                modes.append(predictor.training)  # noqa: B023
                return super().__call__(predictor, *arguments)

        Setup(tmp_path / str(dropout), estimator=Watch(), dropout=dropout).stage().run()
        assert set(modes) == {dropout}


def test_a_sliver_of_a_batch_is_left_out(tmp_path: Path) -> None:
    sizes = []

    class Watch(TwoStage):
        def __call__(self, predictor, layer, batch, generator):  # type: ignore[no-untyped-def]
            sizes.append(len(batch))
            return super().__call__(predictor, layer, batch, generator)

    Setup(tmp_path / "a", estimator=Watch(), epochs=1, batch_size=18).stage().run()
    assert sizes == [18, 18]  # of 40 rows, 4 are less than half a batch
    sizes.clear()
    Setup(tmp_path / "b", estimator=Watch(), epochs=1, batch_size=1000).stage().run()
    assert sizes == [40]


def test_a_checkpoint_of_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    Setup(tmp_path, epochs=1).stage().run()
    wider = Setup(tmp_path, lambda: GaussianPredictor(3, HOURS, width=9, layers=1), epochs=2)
    with pytest.raises(UserError, match=r"another architecture: network\.0\.bias is of shape .8,"):
        wider.stage().run()


def test_a_report_of_divergence_says_which_rows_and_what_was_in_them(tmp_path: Path) -> None:
    stage = Setup(tmp_path, epochs=1).stage()
    stage.rows.context[3, 0] = torch.nan
    with pytest.raises(TrainingDiverged, match=r"training rows \(.*contexts in .* 1 not finite"):
        stage.run()


def test_a_stage_reports_the_bytes_of_a_step(tmp_path: Path) -> None:
    with_sampler = Setup(tmp_path / "a", _diffusion, Reparam(20), epochs=1).stage()
    without = Setup(tmp_path / "b", _diffusion, Score(20), epochs=1).stage()
    assert with_sampler.run().saved_bytes > 0
    assert without.run().saved_bytes > 0


def test_a_stage_may_go_the_beginning_of_a_longer_decay(tmp_path: Path) -> None:
    """An epoch that a search chose is one of the decay that it saw."""
    part = Setup(tmp_path, epochs=3, decay="cosine", decay_epochs=8).stage()
    whole = Setup(tmp_path, epochs=8, decay="cosine").stage()
    assert [part._rate(epoch) for epoch in range(4)] == [whole._rate(epoch) for epoch in range(4)]
    assert part._rate(3) == pytest.approx(0.5 * (1 + math.cos(3 * math.pi / 8)))
    longer = Setup(tmp_path, epochs=8, decay="cosine", decay_epochs=3).stage()
    assert longer._rate(7) == whole._rate(7)
