"""The decision's weight as a share of gradient norms: by hand, free of units, kept in checkpoints."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffusion_dfl.estimators import Batch, Loss, Mixture, Reparam, Score
from diffusion_dfl.estimators.base import Estimator
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import GaussianPredictor, Predictor
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.training.balance import GradientBalance
from diffusion_dfl.training.checkpoint import Checkpoint
from diffusion_dfl.training.loop import Stage, TrainingDiverged
from diffusion_dfl.training.settings import TrainingSettings

DECISIONS = [torch.tensor([3.0, 4.0]), torch.tensor([0.0, -20.0]), torch.tensor([1.0, 1.0])]
FITS = [torch.tensor([0.0, 0.1]), torch.tensor([0.3, 0.4]), torch.tensor([-0.2, 0.0])]


def _step(
    balance: GradientBalance, decision: Tensor, fit: Tensor, mixture: Mixture
) -> tuple[Tensor, dict[str, float]]:
    """The gradient of two linear losses with these slopes, and what is told of it."""
    weight = nn.Parameter(torch.zeros(2))
    loss = mixture.loss((decision * weight).sum(), (fit * weight).sum(), {})
    told = balance.backward(loss, [weight])
    assert weight.grad is not None
    return weight.grad, {name: float(value) for name, value in told.items()}


@pytest.mark.parametrize(("decision_weight", "fit_weight"), [(1.0, 1.0), (0.3, 2.0)])
def test_the_gradient_is_that_of_the_fit_and_the_decision_in_norms_of_earlier_steps(
    decision_weight: float, fit_weight: float
) -> None:
    """``g = fit_weight g_f + decision_weight (n_f / n_d) g_d``, the first step by its own norms."""
    balance = GradientBalance()
    squares: tuple[float, float] | None = None  # of the decision's and the fit's, as known before
    for decision, fit in zip(DECISIONS, FITS, strict=True):
        own = (float(decision.square().sum()), float(fit.square().sum()))
        known = own if squares is None else squares
        scale = decision_weight * math.sqrt(known[1] / known[0])
        found, told = _step(balance, decision, fit, Mixture(decision_weight, fit_weight))
        torch.testing.assert_close(found, fit_weight * fit + scale * decision)
        assert told == pytest.approx(
            {
                "decision_norm": math.sqrt(own[0]),
                "fit_norm": math.sqrt(own[1]),
                "decision_scale": scale,
            }
        )
        squares = (0.9 * known[0] + 0.1 * own[0], 0.9 * known[1] + 0.1 * own[1])


def test_a_step_with_more_at_stake_moves_more() -> None:
    """A step is not divided by its own size, which would be a bias."""
    small, large = [], []
    for factor, moves in ((1.0, small), (10.0, large)):
        balance = GradientBalance()
        _step(balance, DECISIONS[0], FITS[0], Mixture())
        found, _ = _step(balance, factor * DECISIONS[1], FITS[1], Mixture())
        moves.append(found - FITS[1])
    torch.testing.assert_close(large[0], 10 * small[0])


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 0.5)])
def test_without_balance_the_gradient_is_that_of_the_sum(weights: tuple[float, float]) -> None:
    balance = GradientBalance()
    for decision, fit in zip(DECISIONS, FITS, strict=True):
        found, told = _step(balance, decision, fit, Mixture(*weights, balance="none"))
        torch.testing.assert_close(found, weights[0] * decision + weights[1] * fit)
        assert told == {}
    assert balance.state() is None


def test_one_term_alone_is_not_scaled() -> None:
    weight = nn.Parameter(torch.zeros(2))
    loss = Mixture(2.0, 0.0).loss((DECISIONS[0] * weight).sum(), None, {})
    assert GradientBalance().backward(loss, [weight]) == {}
    torch.testing.assert_close(weight.grad, 2 * DECISIONS[0])


def test_weights_that_only_one_term_reaches_get_its_gradient() -> None:
    shared, own, other, idle = (nn.Parameter(torch.ones(1)) for _ in range(4))
    loss = Mixture(1.0, 2.0).loss((3 * shared + 4 * own).sum(), (shared + 6 * other).sum(), {})
    GradientBalance().backward(loss, [shared, own, other, idle])
    ratio = math.sqrt(1 + 36) / 5  # of the first step's norms
    assert float(shared.grad) == pytest.approx(2 * 1 + ratio * 3)
    assert float(own.grad) == pytest.approx(ratio * 4)
    assert float(other.grad) == pytest.approx(2 * 6)
    assert idle.grad is None


def test_a_decision_that_had_no_gradient_yet_enters_by_its_own_norm() -> None:
    """Steps in which no instance was solved, say: a ratio to their norm would be without bound."""
    balance, none = GradientBalance(), torch.zeros(2)
    for _ in range(3):
        found, told = _step(balance, none, FITS[0], Mixture())
        torch.testing.assert_close(found, FITS[0])
        assert told["decision_norm"] == 0.0
    found, told = _step(balance, DECISIONS[0], FITS[0], Mixture())
    assert told["decision_scale"] == pytest.approx(float(FITS[0].norm() / DECISIONS[0].norm()))
    assert float((found - FITS[0]).norm()) == pytest.approx(float(FITS[0].norm()))


def test_the_state_goes_on_where_it_was_left() -> None:
    whole, cut = GradientBalance(), GradientBalance()
    for number, (decision, fit) in enumerate(zip(DECISIONS, FITS, strict=True)):
        expected, _ = _step(whole, decision, fit, Mixture())
        later = GradientBalance()
        later.restore(cut.state(), torch.device("cpu"))
        cut = later
        found, _ = _step(cut, decision, fit, Mixture())
        assert torch.equal(found, expected), number
        assert cut.state() == whole.state()
    fresh, _ = _step(GradientBalance(), DECISIONS[-1], FITS[-1], Mixture())
    assert not torch.allclose(fresh, expected)


# In a stage


HOURS = 2


@dataclass(frozen=True)
class _Dear(PowerProgram):
    """The same decisions at another price."""

    price: float = 1.0

    def cost(self, outcome: Tensor, decision: Tensor) -> Tensor:
        return self.price * super().cost(outcome, decision)


class _Log:
    """Epochs in memory."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def epoch(self, stage: str, epoch: int, values: dict[str, float]) -> None:
        self.epochs.append(values)

    def restore(self, stage: str, epochs: object) -> None:
        pass


def _rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    contexts = torch.randn(24, 3, generator=generator)
    return contexts, 1 + 0.3 * contexts[:, :HOURS] + 0.1 * torch.randn(24, 2, generator=generator)


def _stage(
    estimator: Estimator,
    price: float = 1.0,
    epochs: int = 2,
    checkpoint: Checkpoint | None = None,
    log: _Log | None = None,
    seed: int = 0,
) -> Stage:
    torch.manual_seed(seed)
    predictor = GaussianPredictor(3, HOURS, width=8, layers=1)
    predictor.fit_scaling(*_rows())
    return Stage(
        "train",
        predictor,
        estimator,
        DecisionLayer(_Dear(num_decisions=HOURS, price=price), 1.5),
        Batch(*_rows()),
        TrainingSettings(epochs=epochs, batch_size=8, learning_rate=1e-2),
        None,
        torch.Generator().manual_seed(seed),
        checkpoint,
        log or _Log(),
    )


def _weights(stage: Stage) -> Tensor:
    stage.run()
    return torch.cat([one.detach().flatten() for one in stage.predictor.parameters()])


@pytest.mark.parametrize("kind", [Reparam, Score])
def test_the_unit_of_the_cost_changes_nothing_where_norms_are_balanced(
    kind: type[Reparam] | type[Score],
) -> None:
    euros, thousandths = (_weights(_stage(kind(20), price)) for price in (1.0, 1000.0))
    torch.testing.assert_close(thousandths, euros, rtol=1e-4, atol=1e-5)
    # The check has teeth: of the losses themselves the weight is another.
    one, other = (_weights(_stage(kind(20, balance="none"), price)) for price in (1.0, 1000.0))
    assert float((one - other).norm()) > 1e-2


@pytest.mark.parametrize("balance", ["gradient_norms", "none"])
def test_the_epoch_tells_both_norms_where_they_are_balanced(balance: str) -> None:
    log = _Log()
    _stage(Score(20, balance=balance), log=log).run()  # type: ignore[arg-type]
    names = {"decision_norm", "fit_norm", "decision_scale"}
    assert not names & set(log.epochs[0])  # before the first step
    for values in log.epochs[1:]:
        if balance == "none":
            assert not names & set(values)
        else:
            assert all(values[name] > 0 for name in names)


@pytest.mark.parametrize("kind", [Reparam, Score])
def test_a_stage_cut_at_an_epoch_goes_on_with_the_norms_it_had(
    kind: type[Reparam] | type[Score], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _stage(kind(20), epochs=4)
    expected = _weights(whole)
    path = tmp_path / "train.pt"
    for number in range(1, 4):
        cut = _stage(kind(20), epochs=4, checkpoint=Checkpoint(path), seed=number)
        if number == 1:
            cut = _stage(kind(20), epochs=4, checkpoint=Checkpoint(path))
        epoch, ended = cut._epoch, number

        def one(epoch=epoch, stage=cut, ended=ended) -> None:  # type: ignore[no-untyped-def]
            if stage.progress.epoch == ended:
                raise KeyboardInterrupt
            epoch()

        monkeypatch.setattr(cut, "_epoch", one)
        with pytest.raises(KeyboardInterrupt):
            cut.run()
    last = _stage(kind(20), epochs=4, checkpoint=Checkpoint(path), seed=9)
    assert torch.equal(_weights(last), expected)
    assert last.balance.state() == whole.balance.state()
    assert last.balance.state() is not None


class _Exploding:
    """Both losses are finite, and one's gradient is not."""

    decision_focused = True

    def __call__(
        self, predictor: Predictor, layer: DecisionLayer, batch: Batch, generator: torch.Generator
    ) -> Loss:
        fit = predictor.loss(batch.context, batch.outcome, generator)
        other = predictor.loss(batch.context, batch.outcome, generator)
        return Mixture().loss(other + (0.0 * other).sqrt(), fit, {})


def test_a_gradient_of_one_part_that_is_not_finite_stops_the_stage() -> None:
    with pytest.raises(TrainingDiverged, match=r"epoch 1, step 1: loss [\d.]+, gradient norm nan"):
        _stage(_Exploding()).run()
