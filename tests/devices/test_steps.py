"""One training step of every estimator on the fake CUDA device: same numbers, nothing on the CPU."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusion_dfl.estimators import (
    Batch,
    Estimator,
    Policy,
    Reparam,
    Score,
    ScorePath,
    TwoStage,
)
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import (
    Backpropagation,
    DeterministicPredictor,
    DiffusionPredictor,
    GaussianPredictor,
    PolicyNetwork,
    Predictor,
)
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.training.balance import GradientBalance
from tests.configs import by_keys
from tests.devices.fake_cuda import DEVICE, DeviceMistakeError, FakeCuda, fake_cuda

B, X, Y, M = 3, 3, 4, 6


def _diffusion(**knobs: Any) -> Predictor:
    keys = {"num_diffusion_steps": 20, "num_sampling_steps": 4, "chunk_rows": 10}
    predictor: Predictor = by_keys(
        DiffusionPredictor, X, Y, 8, **keys, **{"num_elbo_timesteps": 3, **knobs}
    )
    return predictor


def _gaussian(**knobs: Any) -> Predictor:
    predictor: Predictor = by_keys(GaussianPredictor, X, Y, 8, **knobs)
    return predictor


@dataclass(frozen=True)
class Step:
    """An estimator and what makes its predictor."""

    estimator: Estimator
    make: Callable[[], Predictor] = _diffusion
    fast: bool = False
    dropout: bool = False
    knobs: dict[str, Any] = field(default_factory=dict)

    def predictor(self) -> Predictor:
        torch.manual_seed(0)
        predictor = self.make(**self.knobs)
        predictor.fit_scaling(*_rows(40))
        return predictor.train(self.dropout)


_PATH = {"sampler": "ancestral", "final_noise": True}
_RESIDUAL = {"outcome_scaling": "residual", "sampler": "ancestral", "variance": "beta"}
STEPS = {
    "two_stage": Step(TwoStage(), fast=True),
    "two_stage-dropout": Step(TwoStage(), dropout=True, knobs={"dropout": 0.3}),
    "two_stage-gaussian": Step(TwoStage(), _gaussian, fast=True),
    "two_stage-deterministic": Step(TwoStage(), lambda: DeterministicPredictor(X, Y, 8)),
    "reparam": Step(Reparam(M, fit_weight=0.5), fast=True),
    "reparam-checkpoint": Step(Reparam(M, backpropagation="checkpoint"), fast=True),
    "reparam-last": Step(Reparam(M, backpropagation="last", last_steps=2)),
    "reparam-residual": Step(Reparam(M), knobs=_RESIDUAL),
    "reparam-dpm_solver": Step(Reparam(M), knobs={"sampler": "dpm_solver", "spacing": "log_snr"}),
    "reparam-gaussian": Step(Reparam(M), _gaussian),
    "reparam-deterministic": Step(Reparam(1), lambda: DeterministicPredictor(X, Y, 8)),
    "score-uniform": Step(Score(M), knobs={"elbo_timesteps": "uniform", "prediction": "v"}),
    "score-stratified": Step(
        Score(M, fit_weight=1.0, weight_clip=1.0, trust_region=0.5), fast=True
    ),
    "score-importance": Step(Score(M), knobs={"elbo_timesteps": "importance"}),
    "score-stratified_importance": Step(
        Score(M), knobs={"elbo_timesteps": "stratified_importance", "elbo_mixing": 0.1}
    ),
    "score-sampler-vlb": Step(
        Score(M),
        knobs={
            "elbo_steps": "sampler",
            "elbo_weighting": "vlb",
            "prediction": "x0",
            "common_noise": True,
            **_PATH,
        },
    ),
    "score-residual": Step(Score(M), knobs=_RESIDUAL),
    "score-dropout": Step(Score(M), dropout=True, knobs={"dropout": 0.3}),
    "score-fresh": Step(Score(M, num_gradient_scenarios=4)),
    "score-gaussian": Step(Score(M, trust_region=2.0), _gaussian),
    "score_path": Step(ScorePath(M, fit_weight=1.0, trust_region=2.0), knobs=_PATH, fast=True),
    "score_path-dropout": Step(ScorePath(M), dropout=True, knobs={"dropout": 0.3, **_PATH}),
    "reparam-gaussian-residual": Step(
        Reparam(M), _gaussian, knobs={"outcome_scaling": "residual", "base_width": 8}
    ),
    "score-relu": Step(Score(M, balance="none"), knobs={"activation": "relu"}),
    "score-gelu": Step(Score(M, fit_weight=0.0), knobs={"activation": "gelu"}),
    "policy": Step(Policy(), lambda: PolicyNetwork(X, Y, 8), fast=True),
}
_SOME = [
    name if step.fast else pytest.param(name, marks=pytest.mark.slow)
    for name, step in STEPS.items()
]


def _rows(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    contexts = torch.randn(count, X, generator=generator)
    return contexts, 1 + 0.3 * torch.randn(count, Y, generator=generator)


def _moved(predictor: Predictor, put: Callable[[Tensor], Tensor]) -> Predictor:
    """The predictor with its weights and buffers on the device."""
    for module in predictor.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(put(weight.detach()), weight.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else put(buffer)
    return predictor


def run_step(
    step: Step, put: Callable[[Tensor], Tensor], predictor: Predictor, generator: torch.Generator
) -> dict[str, Tensor]:
    """A loss, its gradients, the clipped step of the optimiser, by name."""
    batch = Batch(*(put(part) for part in _rows(B)))
    layer = DecisionLayer(PowerProgram(ramp=0.2, num_decisions=Y), 1.5)
    trained = [weight for weight in predictor.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.1)
    torch.manual_seed(2)
    seen = predictor
    if isinstance(predictor, Predictor) and predictor.base is not None:
        fold = torch.arange(B, device=batch.context.device) % predictor.base.folds
        seen = predictor.under(predictor.base(batch.context, fold))
    loss = step.estimator(seen, layer, batch, generator.manual_seed(3))
    balanced = GradientBalance().backward(loss, trained)
    results = {f"gradient of {name}": weight.grad.clone() for name, weight in _trained(predictor)}
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    assert bool(torch.isfinite(norm) & torch.isfinite(loss.value))
    optimizer.step()
    results |= {f"new {name}": weight.detach() for name, weight in _trained(predictor)}
    results |= dict(predictor.named_buffers())
    return results | {"loss": loss.value.detach(), "norm": norm, **balanced, **loss.metrics}


def _trained(predictor: Predictor) -> list[tuple[str, nn.Parameter]]:
    return [item for item in predictor.named_parameters() if item[1].grad is not None]


@pytest.mark.parametrize("name", _SOME)
def test_a_step_of_training_stays_on_the_device(name: str) -> None:
    step = STEPS[name]
    expected = run_step(step, Tensor.clone, step.predictor(), torch.Generator())
    source = step.predictor()
    with fake_cuda() as device:
        predictor = _moved(source, device.put)
        results = run_step(step, device.put, predictor, torch.Generator())
        strays = [key for key, value in results.items() if value.device != DEVICE]
        values = {key: device.real(value) for key, value in results.items()}
    assert not strays
    assert values.keys() == expected.keys()
    assert any(bool(value.any()) for key, value in values.items() if key.startswith("gradient"))
    for key, reference in expected.items():
        torch.testing.assert_close(values[key], reference, rtol=1e-4, atol=1e-6, msg=key)
    # Networks in float32, solvers in float64; TF32 can reach the former's products only.
    assert device.products <= {torch.float32, torch.float64}


_PARTS: dict[str, Callable[[DiffusionPredictor, Tensor, Tensor], Tensor]] = {
    "loss": lambda p, x, y: p.loss(x, y[:, 0], torch.Generator()),
    "sample": lambda p, x, y: p.sample(x, M, torch.Generator()),
    "differentiable": lambda p, x, y: p.sample(x, M, torch.Generator(), True).sum(),
    "checkpointed": lambda p, x, y: p.sample(
        x, M, torch.Generator(), True, Backpropagation("checkpoint")
    ).sum(),
    "elbo": lambda p, x, y: p.weighted_log_density(x, y, y[:, :, 0], torch.Generator(), 1.0).value,
    "path": lambda p, x, y: (
        p.weighted_path_density(
            x, p.sample_path(x, M, torch.Generator()), y.new_ones(B, M), 1.0
        ).value
    ),
}


@pytest.mark.parametrize("timesteps", ["stratified", "importance"])
@pytest.mark.parametrize("part", _PARTS)
def test_no_part_of_the_predictor_waits_for_the_device(part: str, timesteps: str) -> None:
    """On CUDA a value that Python asks for stops the queue; the networks never ask."""
    source = Step(TwoStage(), knobs={"elbo_timesteps": timesteps, **_PATH}).predictor()
    y = torch.randn(B, M, Y, generator=torch.Generator().manual_seed(4))
    with fake_cuda() as device:
        predictor = _moved(source, device.put)
        assert isinstance(predictor, DiffusionPredictor)
        x, scenarios = device.put(_rows(B)[0]), device.put(y)
        value = _PARTS[part](predictor, x, scenarios)
        if value.requires_grad:
            value.sum().backward()
        assert value.device == DEVICE
    assert device.operations > 10
    assert device.waits == 0


def test_a_step_would_notice_a_tensor_that_stays_behind() -> None:
    """The check itself: a schedule left on the CPU, and a question to the device."""
    source = Step(TwoStage()).predictor()
    with fake_cuda() as device:
        predictor = _moved(source, device.put)
        assert isinstance(predictor, DiffusionPredictor)
        predictor.elbo.weights = torch.ones(20)
        x, y = device.put(_rows(B)[0]), device.put(torch.zeros(B, M, Y))
        with pytest.raises((DeviceMistakeError, RuntimeError), match="device|cuda"):
            predictor.weighted_log_density(x, y, y[:, :, 0], torch.Generator())
        assert _asks(device, y)


def _asks(device: FakeCuda, value: Tensor) -> bool:
    before = device.waits
    bool(value.isfinite().all())
    return device.waits == before + 1
