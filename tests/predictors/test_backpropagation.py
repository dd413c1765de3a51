"""How a pathwise gradient passes a sampler: in full, by checkpoints, through the last steps."""

import gc

import pytest
import torch
from torch import Tensor

from diffusion_dfl.predictors import (
    Backpropagation,
    DeterministicPredictor,
    DiffusionPredictor,
    GaussianPredictor,
)
from diffusion_dfl.predictors.base import FULL
from tests.configs import by_keys

STEPS = 6
CHECKPOINT = Backpropagation("checkpoint")


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _predictor(**knobs: object) -> DiffusionPredictor:
    torch.manual_seed(0)
    knobs = {"num_diffusion_steps": 30, "num_sampling_steps": STEPS, **knobs}
    predictor: DiffusionPredictor = by_keys(DiffusionPredictor, 2, 3, width=8, layers=2, **knobs)
    rows = torch.randn(50, 2, generator=_generator(1)), torch.randn(50, 3, generator=_generator(2))
    predictor.fit_scaling(*rows)
    return predictor.eval()


def _last(steps: int) -> Backpropagation:
    return Backpropagation("last", steps)


def _scenarios(predictor: DiffusionPredictor, how: Backpropagation, count: int = 5) -> Tensor:
    context = torch.randn(4, 2, generator=_generator(3))
    return predictor.sample(context, count, _generator(4), True, how)


def _gradient(predictor: DiffusionPredictor, how: Backpropagation) -> dict[str, Tensor]:
    predictor.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    _scenarios(predictor, how).sin().sum().backward()
    return {
        name: weight.grad.clone()
        for name, weight in predictor.named_parameters()
        if weight.grad is not None
    }


KINDS = [
    {"sampler": "ddim", "eta": 0.5},
    {"sampler": "ancestral", "variance": "beta", "final_noise": True},
    {"sampler": "dpm_solver", "prediction": "v"},
    {"outcome_scaling": "residual", "prediction": "x0", "clip": 0.8},
]


@pytest.mark.parametrize("knobs", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpoints_give_the_full_gradient_to_the_last_bit(
    knobs: dict[str, object], dropout: float
) -> None:
    """With dropout in training mode too: a step run again drops the same units."""
    predictor = _predictor(dropout=dropout, **knobs).train(dropout > 0)
    full, again = _gradient(predictor, FULL), _gradient(predictor, CHECKPOINT)
    assert set(full) == set(again) and len(full) > 5
    for name, value in full.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.parametrize("knobs", KINDS)
def test_the_last_of_all_steps_are_all(knobs: dict[str, object]) -> None:
    predictor = _predictor(**knobs)
    full, last = _gradient(predictor, FULL), _gradient(predictor, _last(STEPS))
    for name, value in full.items():
        assert torch.equal(value, last[name]), name


@pytest.mark.parametrize("how", [FULL, CHECKPOINT, _last(1), _last(3), _last(STEPS)])
@pytest.mark.parametrize("knobs", KINDS)
def test_scenarios_are_the_same_however_they_are_differentiated(
    knobs: dict[str, object], how: Backpropagation
) -> None:
    predictor = _predictor(**knobs)
    assert torch.equal(_scenarios(predictor, how).detach(), _scenarios(predictor, FULL).detach())


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_last_steps_are_those_from_a_state_held_fixed(steps: int) -> None:
    """The gradient by hand: the walk goes on from the state before them, without its graph."""
    predictor = _predictor(clip=0.0, prediction="x0")
    context = torch.randn(4, 2, generator=_generator(3))
    states = predictor.sample_path(context, 5, _generator(4)).states
    found = _gradient(predictor, _last(steps))

    predictor.zero_grad(set_to_none=True)
    coefficients = predictor.sampler.steps
    features = predictor.denoiser.context_features(predictor.contexts(context)).unsqueeze(1)
    state = states[STEPS - steps]
    for i in range(STEPS - steps, STEPS):
        t = predictor.sampler.timesteps[STEPS - 1 - i]
        clean = predictor.denoiser(
            state, predictor.denoiser.time_features(torch.tensor(t)), features
        )
        step = coefficients[i]
        moved = step.clean * clean + step.keep * state
        # The noise of the step is what is left of the sampled state.
        state = moved + (states[i + 1] - moved).detach()
    predictor.outcomes.inverse(state).sin().sum().backward()
    for name, weight in predictor.denoiser.named_parameters():
        torch.testing.assert_close(found[f"denoiser.{name}"], weight.grad, rtol=1e-4, atol=1e-5)


def test_fewer_steps_are_a_biased_gradient() -> None:
    predictor = _predictor()
    full, last = _gradient(predictor, FULL), _gradient(predictor, _last(2))
    assert all(bool(value.isfinite().all()) for value in last.values())
    name = "denoiser.from_outcome.weight"
    difference = float((full[name] - last[name]).norm())
    assert 0.01 * float(full[name].norm()) < difference


def _bytes_held(predictor: DiffusionPredictor, how: Backpropagation) -> int:
    """Bytes saved for backward when the scenarios are there, for 200 of them a context."""
    held: dict[int, int] = {}

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor
            held[id(self)] = tensor.numel() * tensor.element_size()

        def __del__(self) -> None:
            held.pop(id(self), None)

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda kept: kept.tensor):
        scenarios = _scenarios(predictor, how, 200)
        gc.collect()
    assert scenarios.requires_grad
    return sum(held.values())


def test_the_graph_holds_the_last_steps_only_and_little_of_checkpointed_ones() -> None:
    predictor = _predictor()
    full = _bytes_held(predictor, FULL)
    one, two, three = (_bytes_held(predictor, _last(k)) for k in (1, 2, 3))
    assert one < two < three < full
    # A step more is a step's activations more.
    assert (three - two) == pytest.approx(two - one, rel=0.05)
    assert (full - three) == pytest.approx((STEPS - 3) * (two - one), rel=0.05)
    assert _bytes_held(predictor, CHECKPOINT) < 0.4 * full


def test_more_steps_than_the_sampler_takes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"last_steps=7 must be at most num_sampling_steps=6"):
        _scenarios(_predictor(), _last(STEPS + 1))


@pytest.mark.parametrize(
    ("kind", "steps", "message"),
    [
        ("half", 0, "backpropagation='half'"),
        ("last", 0, "last_steps=0 with backpropagation=last"),
        ("last", -1, "last_steps=-1 must be an integer >= 0"),
        ("full", 3, "last_steps=3 with backpropagation=full"),
        ("checkpoint", 3, "last_steps=3 with backpropagation=checkpoint"),
    ],
)
def test_senseless_ways_are_refused_by_name(kind: str, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backpropagation(kind, steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "predictor", [GaussianPredictor(2, 3, 8, 1), DeterministicPredictor(2, 3, 8, 1)]
)
@pytest.mark.parametrize("how", [CHECKPOINT, _last(1)])
def test_predictors_without_steps_refuse_anything_but_full(
    predictor: GaussianPredictor | DeterministicPredictor, how: Backpropagation
) -> None:
    with pytest.raises(
        ValueError, match=rf"backpropagation={how.kind}.*{type(predictor).__name__}"
    ):
        predictor.sample(torch.zeros(1, 2), 3, _generator(), True, how)
