"""Reparameterisation through samplers: ways back, refusals, finite differences of the cost."""

import pytest
import torch
from torch import Tensor

from diffusion_dfl.estimators import Batch, Reparam
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import (
    DeterministicPredictor,
    DiffusionPredictor,
    GaussianPredictor,
    PolicyNetwork,
)
from diffusion_dfl.programs import PowerProgram
from tests.configs import by_keys

PROGRAM = PowerProgram(num_decisions=3, ramp=0.3)
STEPS = 4


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _batch() -> Batch:
    outcome = 1.5 + 0.3 * torch.randn(4, 3, generator=_generator(8))
    return Batch(torch.randn(4, 2, generator=_generator(9)), outcome)


def _predictor(**knobs: object) -> DiffusionPredictor:
    torch.manual_seed(0)
    knobs = {"num_diffusion_steps": 30, "num_sampling_steps": STEPS, **knobs}
    predictor: DiffusionPredictor = by_keys(DiffusionPredictor, 2, 3, width=8, layers=1, **knobs)
    predictor.fit_scaling(
        torch.randn(50, 2, generator=_generator(1)),
        1.5 + 0.3 * torch.randn(50, 3, generator=_generator(2)),
    )
    return predictor.eval()


def _loss(predictor: DiffusionPredictor, estimator: Reparam) -> Tensor:
    return estimator(predictor, DecisionLayer(PROGRAM, 1.5), _batch(), _generator(3)).value


def _gradient(predictor: DiffusionPredictor, estimator: Reparam) -> list[Tensor]:
    weights = [weight for weight in predictor.parameters() if weight.requires_grad]
    return list(torch.autograd.grad(_loss(predictor, estimator), weights))


KINDS = [
    {"sampler": "ddim", "eta": 1.0},
    {"sampler": "dpm_solver"},
    {"sampler": "ancestral", "prediction": "v", "outcome_scaling": "residual"},
]


@pytest.mark.parametrize("knobs", KINDS)
def test_checkpoints_and_the_last_of_all_steps_are_the_full_gradient(
    knobs: dict[str, object],
) -> None:
    predictor = _predictor(**knobs)
    full = _gradient(predictor, Reparam(20, fit_weight=0.0))
    for other in (
        Reparam(20, fit_weight=0.0, backpropagation="checkpoint"),
        Reparam(20, fit_weight=0.0, backpropagation="last", last_steps=STEPS),
    ):
        for one, two in zip(full, _gradient(predictor, other), strict=True):
            assert torch.equal(one, two)


def test_the_last_steps_are_finite_and_not_the_full_gradient() -> None:
    predictor = _predictor()
    full = torch.cat([part.flatten() for part in _gradient(predictor, Reparam(20, fit_weight=0.0))])
    for steps in (1, 2):
        estimator = Reparam(20, fit_weight=0.0, backpropagation="last", last_steps=steps)
        last = torch.cat([part.flatten() for part in _gradient(predictor, estimator)])
        assert bool(last.isfinite().all())
        assert float((last - full).norm()) > 0.01 * float(full.norm())


@pytest.mark.parametrize("knobs", KINDS)
def test_the_gradient_is_the_difference_of_the_cost_of_the_decision(
    knobs: dict[str, object],
) -> None:
    """Along the output bias of the network: sampler, bandwidth, ramps and cost in one chain."""
    predictor = _predictor(**knobs)
    bias = predictor.denoiser.trunk[-1].bias
    value = _loss(predictor, Reparam(20, fit_weight=0.0))
    (gradient,) = torch.autograd.grad(value, bias)
    start = bias.detach().clone()

    def moved(step: float) -> float:
        with torch.no_grad():
            bias.copy_(start + step * gradient / gradient.norm())
            found = float(_loss(predictor, Reparam(20, fit_weight=0.0)))
            bias.copy_(start)
        return found

    size = 3e-4  # single precision, and clipped outcomes between which the cost is smooth
    numerical = (moved(size) - moved(-size)) / (2 * size)
    assert float(gradient.norm()) == pytest.approx(numerical, rel=3e-3)


def test_a_predictor_without_a_pathwise_gradient_is_refused() -> None:
    policy = PolicyNetwork(2, 3, 8, 1)
    with pytest.raises(TypeError, match="grad=reparam: PolicyNetwork has no pathwise gradient"):
        Reparam(5)(policy, DecisionLayer(PROGRAM), _batch(), _generator())


@pytest.mark.parametrize("kind", [GaussianPredictor, DeterministicPredictor])
@pytest.mark.parametrize(("how", "steps"), [("checkpoint", 0), ("last", 2)])
def test_partial_backpropagation_is_refused_where_there_are_no_steps(
    kind: type[GaussianPredictor] | type[DeterministicPredictor], how: str, steps: int
) -> None:
    estimator = Reparam(5, backpropagation=how, last_steps=steps)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"backpropagation={how} must be full: {kind.__name__}"):
        estimator(kind(2, 3, 8, 1), DecisionLayer(PROGRAM), _batch(), _generator())


def test_more_last_steps_than_the_sampler_takes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"last_steps=5 must be at most num_sampling_steps=4"):
        _loss(_predictor(), Reparam(5, backpropagation="last", last_steps=5))
    with pytest.raises(ValueError, match="last_steps=3 with backpropagation=full"):
        Reparam(5, last_steps=3)
