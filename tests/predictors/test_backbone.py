"""The perceptron every predictor and the policy are made of."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffusion_dfl.predictors import (
    DeterministicPredictor,
    DiffusionPredictor,
    FlowPredictor,
    GaussianPredictor,
    PolicyNetwork,
    Predictor,
)
from diffusion_dfl.predictors.backbone import ACTIVATIONS, ActivationName, activation, backbone
from diffusion_dfl.predictors.diffusion import Denoiser
from tests.configs import by_keys

NAMES: list[ActivationName] = ["silu", "relu", "gelu"]
MODULES = {"silu": nn.SiLU, "relu": nn.ReLU, "gelu": nn.GELU}
KINDS: list[Callable[..., Predictor]] = [
    DeterministicPredictor,
    GaussianPredictor,
    PolicyNetwork,
    FlowPredictor,
    DiffusionPredictor,
]


def _values() -> Tensor:
    """Both signs, both tails and zero."""
    return torch.cat([torch.linspace(-9, 9, 37), torch.zeros(1), torch.tensor([-1e-4, 1e-4])])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("in_place", [False, True])
def test_an_activation_in_memory_that_is_there_is_that_of_its_module(
    name: ActivationName, in_place: bool
) -> None:
    hidden = _values()
    expected = MODULES[name]()(hidden)
    out = hidden.clone() if in_place else torch.full_like(hidden, torch.nan)
    activation(name).into(out if in_place else hidden, out)
    assert torch.equal(out, expected)
    assert activation(name).module is MODULES[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_an_activation_is_that_of_its_module(name: ActivationName) -> None:
    hidden = _values().requires_grad_()
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad(MODULES[name]()(hidden), hidden, upstream)
    gradient = upstream.clone()
    activation(name).backward(gradient, hidden.detach())
    torch.testing.assert_close(gradient, expected)


def test_a_backbone_is_its_hidden_layers_and_a_linear_head() -> None:
    network = backbone(3, 2, 5, 2, "gelu", 0.25)
    kinds = [nn.Linear, nn.GELU, nn.Dropout, nn.Linear, nn.GELU, nn.Dropout, nn.Linear]
    assert [type(module) for module in network] == kinds
    shapes = [tuple(module.weight.shape) for module in network if isinstance(module, nn.Linear)]
    assert shapes == [(5, 3), (5, 5), (2, 5)]
    assert [module.p for module in network if isinstance(module, nn.Dropout)] == [0.25, 0.25]
    assert [type(module) for module in backbone(3, 2, 5, 0, "silu", 0.0)] == [nn.Linear]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", KINDS)
def test_every_network_has_the_activation_it_was_asked_for(
    make: Callable[..., Predictor], name: ActivationName
) -> None:
    predictor = make(3, 2, width=4, layers=2, activation=name)
    inside = {type(module) for module in predictor.modules()} & set(MODULES.values())
    # The embedding of the timestep is no layer of the backbone.
    assert inside - ({nn.SiLU} if make is DiffusionPredictor else set()) <= {MODULES[name]}
    assert MODULES[name] in inside


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", KINDS)
def test_silu_is_the_default(make: Callable[..., Predictor], name: ActivationName) -> None:
    found = []
    for knobs in ({}, {"activation": name}):
        torch.manual_seed(0)
        found.append([str(module) for module in make(3, 2, width=4, **knobs).modules()])
    assert (found[0] == found[1]) == (name == "silu")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layers", [1, 3])
def test_scenarios_without_a_graph_pass_the_same_activation(
    layers: int, name: ActivationName
) -> None:
    """The pass that writes its activations over and over, against the modules."""
    torch.manual_seed(0)
    denoiser = Denoiser(3, 2, 16, layers, 0.0, 20, name).eval()
    noisy = torch.randn(5, 700, 2)
    times = denoiser.time_features(torch.tensor(7))
    features = denoiser.context_features(torch.randn(5, 3)).unsqueeze(1)
    with torch.no_grad():
        found = denoiser(noisy, times, features)
    torch.testing.assert_close(found, denoiser(noisy, times, features).detach())


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("key", ["activation", "base_activation"])
def test_an_unknown_activation_is_refused_by_name(make: Callable[..., Predictor], key: str) -> None:
    knobs = {key: "tanh"}
    if key == "base_activation":
        if make in (DeterministicPredictor, PolicyNetwork):
            pytest.skip("has no base")
        knobs["outcome_scaling"] = "residual"
    with pytest.raises(ValueError, match=f"{key}='tanh' is unknown; choose silu, relu, gelu"):
        by_keys(make, 3, 2, width=4, **knobs)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"width": 0}, "width=0 must be an integer >= 1"),
        ({"layers": -1}, "layers=-1 must be an integer >= 0"),
        ({"dropout": 1.0}, r"dropout=1\.0 must be in \[0, 1\)"),
        ({"dropout": -0.1}, r"dropout=-0\.1 must be in"),
    ],
)
@pytest.mark.parametrize("make", [DeterministicPredictor, GaussianPredictor, PolicyNetwork])
def test_sizes_and_shares_out_of_range_are_refused_by_name(
    make: Callable[..., Predictor], knobs: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(3, 2, **knobs)


def test_the_names_are_those_of_the_table() -> None:
    assert list(ACTIVATIONS) == NAMES
