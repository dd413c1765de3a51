"""Devices a solve can run on."""

import torch

# Backends whose kernels have no float64.
_WITHOUT_FLOAT64 = ("mps",)


def require_float64(device: torch.device) -> None:
    """Raise TypeError if ``device`` has no float64, which every solve and adjoint needs."""
    if device.type in _WITHOUT_FLOAT64:
        raise TypeError(
            f"device {device.type!r} has no float64, and decisions in float32 are wrong without "
            "notice; move the scenarios to the CPU or a CUDA device (device=cpu or device=cuda)"
        )
