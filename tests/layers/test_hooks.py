"""The decision layer under hooks on saved tensors, which torch.func refuses."""

import torch

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Hinge, TorchProgram
from diffusion_dfl.programs.hooks import without_saved_tensor_hooks
from diffusion_dfl.training.memory import SavedBytes

PROGRAM = TorchProgram(
    2, 2, smooth=lambda y, z: ((z - y) ** 2).sum(), hinges=[Hinge(2.0, lambda y, z: y - z)]
)


def gradient(count: bool) -> torch.Tensor:
    scenarios = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scenarios.requires_grad_()
    if count:
        with SavedBytes() as counter:
            decision = DecisionLayer(PROGRAM)(scenarios)
            decision.square().sum().backward()
        assert counter.peak > 0
    else:
        DecisionLayer(PROGRAM)(scenarios).square().sum().backward()
    assert scenarios.grad is not None
    return scenarios.grad


def test_a_program_of_torch_functions_is_solved_and_differentiated_under_a_memory_counter() -> None:
    torch.testing.assert_close(gradient(count=True), gradient(count=False), rtol=0, atol=0)


def test_hooks_are_back_in_their_order_afterwards() -> None:
    seen: list[str] = []

    def hooks(name: str) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (seen.append(name), tensor)[1], lambda tensor: tensor
        )

    x = torch.ones(2, requires_grad=True)
    with hooks("outer"):
        with hooks("inner"):
            with without_saved_tensor_hooks():
                _ = x * x
            assert seen == []
            _ = x * x
        assert set(seen) == {"inner"}
        _ = x * x
    assert seen[-1] == "outer"
