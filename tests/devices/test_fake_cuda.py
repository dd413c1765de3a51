"""Solves and their gradients stay on the device of their input, in float64.

First that the fake device catches what would be mistakes on CUDA; then every program on it.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.cones.adjoint import differentiate_cone
from diffusion_dfl.cones.algebra import Cones
from diffusion_dfl.cones.problem import ConeProblem
from diffusion_dfl.cones.solver import solve_cone
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.solvers import report, solve
from tests.devices.cases import CASES, fresh
from tests.devices.fake_cuda import DEVICE, DeviceMistakeError, fake_cuda

# torch.func's own, at its first forward-mode derivative.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

# The rest needs thousands of operations, a quarter of a millisecond each under the fake device.
_FAST = (
    "power-slack-saa",
    "power-binding-saa",
    "power-slack-convolved",
    "power-binding-paper",
    "portfolio",
    "allocation",
    "newsvendor-convolved",
)
_OUTSIDE = torch.arange(12, dtype=torch.float64).view(3, 4)

_MISTAKES: dict[str, Callable[[Tensor], Any]] = {
    "a CPU matrix added": lambda x: x + torch.ones(3, 4, dtype=torch.float64),
    "a tensor older than the mode": lambda x: _OUTSIDE * x,
    "torch.zeros without device": lambda x: torch.cat([x, torch.zeros(1, 4, dtype=x.dtype)]),
    "a matrix product": lambda x: x @ torch.eye(4, dtype=x.dtype),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, torch.eye(4, dtype=x.dtype)),
    "a condition on the CPU": lambda x: torch.where(torch.ones(3, 4) > 0, x, 0.0),
    "an index on the CPU": lambda x: x[torch.arange(0)],
    "a mask on the CPU": lambda x: x[torch.ones(3) > 0],
    "writing through a mask on the CPU": lambda x: x.__setitem__(torch.ones(3) > 0, 0.0),
    "writing a CPU row": lambda x: x.__setitem__(0, torch.ones(4, dtype=x.dtype)),
    "writing CPU rows by index": lambda x: x.__setitem__(
        torch.arange(2, device=x.device), torch.ones(2, 4, dtype=x.dtype)
    ),
    "gather": lambda x: x.gather(1, torch.zeros(3, 1, dtype=torch.int64)),
    "index_select": lambda x: x.index_select(0, torch.arange(2)),
    "index_add": lambda x: x.index_add(0, torch.arange(2), x[:2]),
    "in place": lambda x: x.add_(torch.ones(4, dtype=x.dtype)),
    "inside vmap": lambda x: torch.func.vmap(lambda row: row * torch.ones(4, dtype=x.dtype))(x),
    "a trip to the CPU": lambda x: x.cpu(),
    "to another tensor": lambda x: x.to(torch.ones(1)),
    "a copy into a CPU tensor": lambda x: torch.zeros(3, 4, dtype=x.dtype).copy_(x),
    "numpy": lambda x: x.numpy(),
    "numpy by conversion": lambda x: np.asarray(x),
    "a solve with CPU weights": lambda x: solve(
        PowerProgram(num_decisions=4), x.unsqueeze(0), torch.full((1, 3), 1 / 3, dtype=x.dtype)
    ),
}


@pytest.mark.parametrize("mistake", _MISTAKES)
def test_the_fake_device_catches(mistake: str) -> None:
    with fake_cuda() as device:
        x = device.put(_OUTSIDE)
        with pytest.raises((DeviceMistakeError, RuntimeError, TypeError)) as caught:
            _MISTAKES[mistake](x)
    # A kernel missing on this machine is not a catch.
    assert not isinstance(caught.value, NotImplementedError)
    assert any(word in str(caught.value) for word in ("device", "cuda", "cpu", "CPU", "numpy"))


_ALLOWED: dict[str, Callable[[Tensor], Tensor]] = {
    "python numbers": lambda x: 2.0 * x + 1,
    "numbers that are CPU tensors": lambda x: x * torch.tensor(3.0, dtype=torch.float64),
    "a mask of its own": lambda x: x[x > 4],
    "rows by its own index": lambda x: x[torch.nonzero(x[:, 0] > 1).flatten()],
    "writing": lambda x: x.clone().index_put_((x > 4,), x.new_tensor(-1.0)),
    "branching on values": lambda x: x if bool((x > 4).any()) else -x,
    "item": lambda x: x * x[1, 1].item(),
    "constants moved there": lambda x: x + torch.ones(4, dtype=x.dtype).to(x.device),
    "constants made there": lambda x: x + torch.tensor([1.0, 2, 3, 4], device=x.device),
    "an older constant moved there": lambda x: x + _OUTSIDE.to(x),
    "unique": lambda x: torch.unique(x > 4),
    "a view written": lambda x: torch.cat([row.mul_(2) for row in x.clone().unbind(0)]),
    "linalg": lambda x: torch.linalg.eigh(x @ x.T)[0] + torch.linalg.pinv(x).sum(),
    "cholesky": lambda x: torch.linalg.cholesky_ex(x @ x.T + 50 * torch.eye(3).to(x))[0],
    "solve": lambda x: torch.linalg.solve_ex(x @ x.T + 50 * torch.eye(3).to(x), x)[0],
    "lu": lambda x: torch.linalg.lu_factor_ex(x[:3, :3] + torch.eye(3).to(x))[0],
    "sort": lambda x: (-x).sort(1)[0],
    "vmap of a hessian": lambda x: torch.func.vmap(
        torch.func.hessian(lambda v: (torch.as_tensor(2.0, device=v.device) * v**3).sum())
    )(x),
}


@pytest.mark.parametrize("allowed", _ALLOWED)
def test_the_fake_device_computes_what_the_cpu_does(allowed: str) -> None:
    expected = _ALLOWED[allowed](_OUTSIDE.clone())
    with fake_cuda() as device:
        result = _ALLOWED[allowed](device.put(_OUTSIDE))
        assert result.device == DEVICE and result.is_cuda
        values = device.real(result)
    assert torch.equal(values, expected)


def test_backward_passes_run_on_the_fake_device() -> None:
    with fake_cuda() as device:
        x = device.put(_OUTSIDE.clone().requires_grad_())
        (x[x > 4] ** 2).sum().backward()
        assert x.grad is not None and x.grad.device == DEVICE
        gradient = device.real(x.grad)
    assert torch.equal(gradient, 2 * _OUTSIDE * (_OUTSIDE > 4))


def test_a_backward_pass_that_mixes_devices_is_caught() -> None:
    class Careless(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * torch.full((4,), 2.0, dtype=grad.dtype)

    with fake_cuda() as device:
        x = device.put(_OUTSIDE.clone().requires_grad_())
        loss = Careless.apply(x).sum()
        with pytest.raises(RuntimeError, match="same device"):
            loss.backward()


@pytest.mark.parametrize(
    "name",
    [name if name in _FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_decisions_and_gradients_stay_on_the_device_in_float64(name: str) -> None:
    expected = fresh(name).run(lambda value: value.clone())
    assert expected["status"].tolist() == [0, 0, 2]
    case = fresh(name)
    with fake_cuda() as device:
        results = case.run(device.put)
        strays = [key for key, value in results.items() if value.device != DEVICE]
        values = {key: device.real(value) for key, value in results.items()}
    assert not strays
    # Kept where a cost is proved quadratic, by its operations: those on fake tensors prove nothing.
    assert expected.keys() - values.keys() <= {"hessian"}
    # The same operations on the same numbers.
    for key in values:
        torch.testing.assert_close(
            values[key], expected[key], rtol=1e-12, atol=1e-12, equal_nan=True
        )
    assert device.operations > 100
    assert device.floating == {torch.float64}


@pytest.mark.slow
def test_cone_programs_and_their_adjoints_stay_on_the_device() -> None:
    """``|x|^2 / 2 + q'x`` with ``sum x = 1``, ``x_1, x_2 >= -1`` and ``|(x_1, x_2)| <= 2``."""
    eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    matrix = torch.cat([torch.ones_like(zero), -eye[:2], zero, -eye[:2]]).expand(3, -1, -1)
    limit = torch.tensor([1.0, 1, 1, 2, 0, 0], dtype=torch.float64).expand(3, -1)
    linear = torch.tensor([[1.0, 0, 0], [-9, 1, 3], [5, -5, 0]], dtype=torch.float64)
    data = [eye.expand(3, -1, -1), linear, matrix, limit]

    def run(move: Callable[[Tensor], Tensor]) -> list[Tensor]:
        problem = ConeProblem(*[move(part) for part in data], cones=Cones(1, 2, (3,)))
        solution = solve_cone(problem)
        adjoint = differentiate_cone(problem, solution, torch.ones_like(solution.x))
        return [getattr(solution, part.name) for part in fields(solution)] + list(adjoint)

    expected = run(Tensor.clone)
    assert expected[3].tolist() == [0, 0, 0]
    with fake_cuda() as device:
        results = run(device.put)
        assert all(result.device == DEVICE for result in results)
        values = [device.real(result) for result in results]
    for value, reference in zip(values, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-12, atol=1e-12)
    assert device.floating == {torch.float64}


def test_float32_scenarios_meet_no_product_in_float32() -> None:
    """TF32 replaces float32 products alone; none is left for it at the layer's border."""
    scenarios = CASES["power-binding-convolved"].scenarios.float()
    layer = DecisionLayer(PowerProgram(ramp=0.2, num_decisions=5), curvature="saa")
    with fake_cuda() as device:
        x = device.put(scenarios).requires_grad_()
        layer(x).sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == torch.float32 and x.grad.device == DEVICE
    assert device.floating == {torch.float32, torch.float64}
    assert device.products == {torch.float64}


def test_an_empty_batch_and_a_report_need_no_other_device() -> None:
    program = PowerProgram(num_decisions=3)
    with fake_cuda() as device:
        empty = solve(program, device.put(torch.zeros(0, 4, 3, dtype=torch.float64)))
        assert empty.decision.shape == (0, 3) and empty.decision.device == DEVICE
        broken = solve(program, device.put(torch.full((2, 4, 3), torch.nan, dtype=torch.float64)))
        assert "invalid input" in report(broken.status)
