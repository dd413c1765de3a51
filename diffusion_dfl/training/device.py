"""Where networks and solvers run."""

import torch

from diffusion_dfl.errors import UserError


def resolve_device(name: str, worker: int = 0) -> torch.device:
    """``cpu``, ``cuda``, ``cuda:N`` or ``auto`` as a device.

    ``cuda`` and ``auto`` take the visible devices in turn, by the number of the worker.

    Raises:
        UserError: a CUDA device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name} is no device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(
                f"device={name}: {count} CUDA devices are visible to this torch build; "
                "use device=cpu or device=auto, or install a CUDA build of torch"
            )
        if device.index is None and count > 1:
            return torch.device("cuda", worker % count)
    return device
