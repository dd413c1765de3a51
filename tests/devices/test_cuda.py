"""The same programs on a real CUDA device: ``make test-cuda``."""

from collections.abc import Iterator

import pytest
import torch

from tests.devices.cases import CASES, fresh
from tests.devices.test_steps import STEPS, run_step

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(params=["ieee", "tf32"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """Float32 products as they are, or in TF32 wherever torch may use it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if request.param == "tf32" else "highest")
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", CASES)
def test_cuda_agrees_with_the_cpu_whatever_tf32_is_set_to(name: str, precision: str) -> None:
    expected = fresh(name).run(lambda value: value.clone())
    results = fresh(name).run(lambda value: value.cuda())
    assert all(result.is_cuda for result in results.values())
    for key in ("status", "decision", "layer's decision", "in scenarios", "in weights"):
        torch.testing.assert_close(
            results[key].cpu(), expected[key], rtol=1e-9, atol=1e-9, equal_nan=True
        )


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_training_runs_on_cuda(name: str, precision: str) -> None:
    predictor = STEPS[name].predictor().cuda()
    results = run_step(STEPS[name], lambda part: part.cuda(), predictor, torch.Generator("cuda"))
    assert all(value.is_cuda and bool(value.isfinite().all()) for value in results.values())


def test_the_precision_setting_is_one_that_float32_products_feel(precision: str) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this device has no TF32")
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(256, 256, generator=generator, dtype=torch.float64)
    error = ((a.float().cuda() @ a.float().cuda()).cpu().double() - a @ a).abs().max()
    assert bool(error > 1e-3) == (precision == "tf32")
