"""Devices without float64 are refused, with the reason."""

import types
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import PowerProgram
from diffusion_dfl.programs.devices import require_float64
from diffusion_dfl.solvers import solve


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "meta"])
def test_devices_with_float64_pass(device: str) -> None:
    require_float64(torch.device(device))


def test_mps_is_refused_with_the_reason_and_the_mend() -> None:
    with pytest.raises(TypeError, match=r"'mps:0' has no float64.*device=cpu"):
        require_float64(torch.device("mps", 0))


@pytest.mark.parametrize("has_float64", [True, False])
def test_an_intel_gpu_is_asked_whether_it_has_float64(
    has_float64: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = types.SimpleNamespace(has_fp64=has_float64)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: properties)
    if has_float64:
        require_float64(torch.device("xpu", 0))
    else:
        with pytest.raises(TypeError, match="'xpu:0' has no float64"):
            require_float64(torch.device("xpu", 0))


@pytest.mark.parametrize("entry", ["layer", "layer without gradient", "solver"])
def test_every_entry_refuses_it_before_it_casts(entry: str) -> None:
    program = PowerProgram(num_decisions=3)
    layer = DecisionLayer(program)
    entries: dict[str, Callable[[Tensor], object]] = {
        "layer": layer,
        "layer without gradient": layer.solve,
        "solver": lambda scenarios: solve(program, scenarios),
    }
    with FakeTensorMode():
        scenarios = torch.zeros(2, 4, 3, device="mps")
        with pytest.raises(TypeError, match="has no float64"):
            entries[entry](scenarios)
