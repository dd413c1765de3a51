"""What users pass as numbers: tensors, numpy arrays, lists and scalars alike."""

from reprlib import repr
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

#: A tensor or anything numpy makes an array of numbers of.
Numbers = Tensor | ArrayLike

# numpy's kinds of real numbers, and of objects that may be some.
_REAL, _OBJECTS = "biuf", "O"


def as_tensor(name: str, value: Numbers) -> Tensor:
    """The value as a tensor; numpy arrays, lists and scalars in float64, tensors as they are.

    Raises:
        TypeError: something that is not real numbers, by the name of the argument.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise TypeError(f"{name} is a tensor of {value.dtype}; pass real numbers, as float64")
        return value
    kind, hint = type(value).__name__, ""
    try:
        given = np.asarray(value)
        if given.dtype.kind not in _REAL + _OBJECTS:
            raise TypeError
        # numpy would read numbers out of text, and NaN out of None.
        others = [type(part) for part in given.flat] if given.dtype.kind == _OBJECTS else []
        if type(None) in others:
            hint = "; no limit is inf or -inf, not None"
        if hint or str in others or bytes in others:
            raise TypeError
        # A copy: a tensor shares the memory of an array, which may be changed or read-only.
        return torch.from_numpy(np.array(given, dtype=np.float64))
    except RuntimeError as error:
        raise TypeError(
            f"{name} is {kind} of tensors that require a gradient; join them by torch.stack(...), "
            "which keeps it"
        ) from error
    except (TypeError, ValueError) as error:
        rows = ", or rows of different lengths" if isinstance(error, ValueError) else ""
        raise TypeError(
            f"{name} is {kind} that holds no numbers{rows}: {repr(value)}; pass a tensor, a numpy "
            f"array, a list or a number{hint}"
        ) from None


def as_number(name: str, value: Any) -> float:
    """The value as a float: a number of Python, numpy or torch.

    Raises:
        TypeError: something that is no single real number, by the name of the argument.
    """
    found = as_tensor(name, value)
    if found.numel() != 1:
        raise TypeError(f"{name} has shape {tuple(found.shape)}; it must be one number")
    return float(found.detach())


def keep_numbers(owner: Any, *names: str) -> None:
    """Make Python numbers of what a frozen dataclass was given for fields that are one number each.

    Raises:
        TypeError: something that is no single real number, or that is to be learned, by the name of the
            field.
    """
    for name in names:
        value = getattr(owner, name)
        optional = type(owner).__dataclass_fields__[name].default is None
        if type(value) in (int, float) or (optional and value is None):
            continue
        if isinstance(value, Tensor) and value.requires_grad:
            raise TypeError(
                f"{name} requires a gradient, and the numbers of {type(owner).__name__} are constants; "
                "state the program as a TorchProgram to learn them, or pass float(...)"
            )
        object.__setattr__(owner, name, as_number(name, value))
