"""torch.func and torch.compile over the decision layer and ``solve``."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import grad, jacrev, jvp, vmap

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import (
    Hinge,
    MeanVariancePortfolio,
    PowerProgram,
    Program,
    Regulariser,
    TorchProgram,
)
from diffusion_dfl.solvers import solve
from tests.solvers.two_stage_cases import substitution

# torch's own, of its rules for tangents.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

D: dict[str, Any] = {"dtype": torch.float64}
MANY, BATCH, SCENARIOS = 3, 4, 10


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, **D, generator=torch.Generator().manual_seed(seed))


def stock(limit: Any = 2.0) -> TorchProgram:
    return TorchProgram(
        3,
        3,
        smooth=lambda y, z: ((z - y) ** 2).sum(),
        hinges=[Hinge(4.0, lambda y, z: y - z)],
        lower=0.0,
        matrix=[[1.0, 1.0, 1.0]],
        limit=limit,
    )


LINEAR = TorchProgram(3, 3, smooth=lambda y, z: -(y @ z), lower=0.0, upper=1.0)

LAYERS: dict[str, Callable[[], DecisionLayer]] = {
    "power": lambda: DecisionLayer(PowerProgram()),
    "portfolio": lambda: DecisionLayer(MeanVariancePortfolio(5, 5.0)),
    "general": lambda: DecisionLayer(stock()),
    "exact": lambda: DecisionLayer(stock(), curvature="saa"),
    "regularised": lambda: DecisionLayer(LINEAR, regularise=Regulariser(1.0)),
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> DecisionLayer:
    return LAYERS[request.param]()


def outcomes(program: Program) -> Tensor:
    return drawn(MANY, BATCH, SCENARIOS, program.num_outcomes)


def test_vmap_is_a_larger_batch(layer: DecisionLayer) -> None:
    y = outcomes(layer.program)
    expected = layer(y.flatten(0, 1)).view(MANY, BATCH, -1)
    torch.testing.assert_close(vmap(layer)(y), expected, atol=1e-12, rtol=0)
    weights = torch.full((BATCH, SCENARIOS), 1 / SCENARIOS, **D)
    found = vmap(layer, in_dims=(1, None), out_dims=1)(y.transpose(0, 1), weights)
    torch.testing.assert_close(found, expected.transpose(0, 1), atol=1e-12, rtol=0)
    solved = vmap(lambda part: solve(layer.program, part).decision)(y)
    expected = solve(layer.program, y.flatten(0, 1)).decision.view(MANY, BATCH, -1)
    torch.testing.assert_close(solved, expected, atol=1e-12, rtol=0)


def test_gradients_are_those_of_autograd(layer: DecisionLayer) -> None:
    y = outcomes(layer.program)

    def loss(part: Tensor) -> Tensor:
        return layer(part).square().sum()

    attached = y.clone().requires_grad_()
    loss(attached.flatten(0, 1)).backward()
    for found in (
        torch.stack([grad(loss)(part) for part in y]),
        vmap(grad(loss))(y),
        grad(lambda every: vmap(layer)(every).square().sum())(y),
    ):
        torch.testing.assert_close(found, attached.grad, atol=1e-10, rtol=1e-10)


def test_tangents_are_differences(layer: DecisionLayer) -> None:
    y = outcomes(layer.program)[0]
    way, step = drawn(*y.shape, seed=1) - 0.5, 1e-6
    weights = torch.full((BATCH, SCENARIOS), 1 / SCENARIOS, **D)
    tilt = drawn(BATCH, SCENARIOS, seed=2) - 0.5
    tilt = 0.01 * (tilt - tilt.mean(1, keepdim=True))
    with torch.no_grad():
        ends = [layer(y + k * step * way, weights + k * step * tilt) for k in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step)
    _, tangent = jvp(layer, (y, weights), (way, tilt))
    torch.testing.assert_close(tangent, expected, atol=1e-7, rtol=1e-6)
    jacobian = jacrev(layer)(y, weights)
    _, tangent = jvp(lambda part: layer(part, weights), (y,), (way,))
    found = torch.einsum("bnamd,amd->bn", jacobian, way)
    torch.testing.assert_close(found, tangent, atol=1e-10, rtol=1e-10)
    with forward_ad.dual_level():
        dual = layer(forward_ad.make_dual(y, way), weights)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, tangent)


def test_a_second_derivative_is_refused() -> None:
    layer, y = DecisionLayer(stock()), outcomes(stock())[0]
    inner = grad(lambda part: layer(part).square().sum())
    with pytest.raises(RuntimeError, match="first derivatives only"):
        grad(lambda part: inner(part).sum())(y)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        jvp(inner, (y,), (y,))


def test_a_context_may_be_vectorised_and_is_not_differentiated() -> None:
    layer = DecisionLayer(stock(lambda x: x))
    y, x = outcomes(layer.program), 1 + drawn(MANY, BATCH, 1, seed=3)
    expected = layer(y.flatten(0, 1), context=x.flatten(0, 1)).view(MANY, BATCH, -1)
    found = vmap(lambda part, known: layer(part, context=known))(y, x)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    with pytest.raises(TypeError, match="gets its gradient from autograd"):
        grad(lambda known: layer(y[0], context=known).sum())(x[0])


def test_what_a_transform_cannot_differentiate_is_refused() -> None:
    limit = torch.tensor([2.0], **D, requires_grad=True)
    y = outcomes(stock())[0]
    with pytest.raises(TypeError, match="gets its gradient from autograd"):
        grad(lambda part: DecisionLayer(stock(limit))(part).sum())(y)
    with pytest.raises(TypeError, match=r"solve\(\) has no gradient"):
        grad(lambda part: solve(stock(), part).decision.sum())(y)
    case = substitution()
    assert case.context is not None
    with pytest.raises(TypeError, match="autograd alone"):
        vmap(lambda part: DecisionLayer(case.program)(part, context=case.context))(
            case.outcomes.unsqueeze(0)
        )


@pytest.mark.slow  # The compiler alone takes seconds to import.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("program", [PowerProgram(), stock()], ids=["power", "general"])
def test_a_compiled_training_step_leaves_the_solve_alone_outside(program: Program) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.manual_seed(0)
    size = program.num_outcomes
    network = nn.Sequential(nn.Linear(5, 8), nn.SiLU(), nn.Linear(8, SCENARIOS * size))
    layer, optimiser = DecisionLayer(program), torch.optim.SGD(network.parameters(), 0.1)
    x, y = torch.randn(BATCH, 5), drawn(BATCH, size)

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = program.cost(y, layer(network(x).view(BATCH, SCENARIOS, size))).mean()
        loss.backward()
        return loss.detach()

    expected = step()
    gradients = [part.grad.clone() for part in network.parameters() if part.grad is not None]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def loss() -> Tensor:
        return program.cost(y, layer(network(x).view(BATCH, SCENARIOS, size))).mean()

    optimiser.zero_grad()
    found = torch.compile(loss, backend=counter)()
    found.backward()
    torch.testing.assert_close(found.detach(), expected)
    for part, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(part.grad, gradient)
    # Before the solve, and after it.
    assert counter.frame_count == 2
