"""The noise that scenarios are made of."""

import torch
from torch import Tensor


def scenario_noise(
    shape: tuple[int, ...],
    generator: torch.Generator,
    device: torch.device,
    dtype: torch.dtype | None = None,
    antithetic: bool = False,
) -> Tensor:
    """Standard normal ``shape``, ``(..., M, d)``; antithetic, scenarios 2k and 2k + 1 have it with
    opposite signs (Hammersley and Morton, 1956), and a last one without partner stands alone."""
    if not antithetic:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)
    count = shape[-2]
    pairs = (*shape[:-2], (count + 1) // 2, shape[-1])
    half = torch.randn(pairs, generator=generator, device=device, dtype=dtype)
    return torch.stack([half, -half], dim=-2).flatten(-3, -2)[..., :count, :]
