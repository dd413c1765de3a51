"""What users pass as numbers: tensors, numpy arrays, lists and scalars alike."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

#: A tensor or anything numpy makes an array of numbers of.
Numbers = Tensor | ArrayLike


def as_tensor(name: str, value: Numbers) -> Tensor:
    """The value as a tensor; numpy arrays, lists and scalars in float64, tensors as they are.

    Raises:
        TypeError: something that is not numbers, by the name of the argument.
    """
    if isinstance(value, Tensor):
        return value
    try:
        # A copy: a tensor shares the memory of an array, which may be changed or read-only.
        return torch.from_numpy(np.array(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} is {type(value).__name__} that holds no numbers ({error}); pass a tensor, a "
            "numpy array, a list or a number"
        ) from error
