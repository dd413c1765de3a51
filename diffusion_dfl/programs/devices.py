"""Devices a solve can run on: those that have float64.

Solves certify KKT residuals of 1e-9 and below, which float32 cannot hold. In float64 TF32 plays no
part either: torch applies it to float32 products only.
"""

import torch


def require_float64(device: torch.device) -> None:
    """Raise TypeError if ``device`` has no float64, which every solve and adjoint needs."""
    if device.type == "mps" or (device.type == "xpu" and not _xpu_has_float64(device)):
        raise TypeError(
            f"device {str(device)!r} has no float64, and decisions in float32 are wrong without "
            "notice; move the scenarios to the CPU or a CUDA device (device=cpu or device=cuda)"
        )


def _xpu_has_float64(device: torch.device) -> bool:
    return bool(torch.xpu.get_device_properties(device).has_fp64)
