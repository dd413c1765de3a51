"""What a step holds for its backward pass, counted by saved-tensor hooks."""

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


class SavedBytes:
    """Bytes that autograd holds for a backward pass, now and at most at any one moment.

    A storage counts in full, and once however many nodes save it or views of it, until the last of
    them is gone: a computation that differentiates as it goes, in chunks, is counted by its largest
    chunk. Parameters, which are there anyway, do not count. Under ``torch.utils.checkpoint`` (not
    reentrant) the inputs of a checkpointed part count, not what runs inside it.

    Works on real, meta and fake tensors alike; the latter two have sizes and no memory.

    Args:
        drop: keep no saved tensor. The count is the same and less memory is used, but no backward
            pass can follow.

    Attributes:
        held: the bytes held now; falls as graphs are freed, after the context too.
        peak: the largest ``held`` so far.

    Example:
        >>> with SavedBytes() as counter:
        ...     loss = model(x).sum()
        >>> counter.peak
    """

    def __init__(self, drop: bool = False) -> None:
        self.drop = drop
        self.held = self.peak = 0
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
            self.held += size
            self.peak = max(self.peak, self.held)

    def _remove(self, key: int, size: int) -> None:
        self._owners[key] -= 1
        if not self._owners[key]:
            del self._owners[key]
            self.held -= size


class _Saved:
    """A saved tensor that reports when the graph lets go of it."""

    def __init__(self, counter: SavedBytes, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        # Detached: an output that its own node saves would keep that node alive for ever.
        self.tensor = None if counter.drop else tensor.detach()
        # A dropped storage gives its memory back; its name stays taken as long as this lives.
        self._storage = StorageWeakRef(storage)
        self._counter, self._size = counter, storage.nbytes()
        counter._add(self._storage.cdata, self._size)

    def __del__(self) -> None:
        self._counter._remove(self._storage.cdata, self._size)
