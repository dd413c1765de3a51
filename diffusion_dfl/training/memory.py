"""What a step holds for its backward pass, counted by saved-tensor hooks."""

import torch
from torch import Tensor


class SavedBytes:
    """Largest number of bytes autograd held for a backward pass at any one moment.

    A storage counts once however many nodes save it, and until the last of them is gone: a
    computation that differentiates as it goes, in chunks, is counted by its largest chunk.
    Parameters, which are there anyway, do not count.

    Args:
        drop: keep no saved tensor. The count is the same and no memory is used, but no backward
            pass can follow: for sizes that do not fit.

    Attributes:
        peak: the count, bytes.

    Example:
        >>> with SavedBytes() as counter:
        ...     loss = model(x).sum()
        >>> counter.peak
    """

    def __init__(self, drop: bool = False) -> None:
        self.drop = drop
        self.peak = 0
        self._held = 0
        self._owners: dict[int, int] = {}

    def __enter__(self) -> "SavedBytes":
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> "Tensor | _Saved":
        owner = tensor if tensor._base is None else tensor._base
        if isinstance(owner, torch.nn.Parameter):
            return tensor
        return _Saved(self, tensor)

    def _unpack(self, saved: "Tensor | _Saved") -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if saved.tensor is None:
            raise RuntimeError("saved tensors were dropped; a count with drop=True has no backward")
        return saved.tensor

    def _add(self, key: int, size: int) -> None:
        self._owners[key] = self._owners.get(key, 0) + 1
        if self._owners[key] == 1:
            self._held += size
            self.peak = max(self.peak, self._held)

    def _remove(self, key: int, size: int) -> None:
        self._owners[key] -= 1
        if not self._owners[key]:
            del self._owners[key]
            self._held -= size


class _Saved:
    """A saved tensor that reports when the graph lets go of it."""

    def __init__(self, counter: SavedBytes, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.tensor = None if counter.drop else tensor
        # Fake and meta tensors have no address; each object then counts on its own.
        address = storage._cdata
        self._counter, self._key, self._size = counter, address, storage.nbytes()
        counter._add(self._key, self._size)

    def __del__(self) -> None:
        self._counter._remove(self._key, self._size)
