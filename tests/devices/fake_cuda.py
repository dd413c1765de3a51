"""A CUDA device for machines without one: fake device, real values.

The tensors are torch's ``FakeTensor`` with the device ``cuda:0``, so FakeTensorMode itself judges
every operation and raises on a mix of devices, as CUDA would. Alone it refuses whatever depends on
values (``nonzero``, boolean masks, ``bool(t)``), which batched solvers do at every step. So each
fake tensor carries a real one in ``real_tensor``, every operation is repeated on those, and what
the fake kernels cannot know is read off there: solvers take the branches they take on a GPU.

    with fake_cuda() as device:
        scenarios = device.put(scenarios_on_cpu)        # scenarios.device is cuda:0
        decision = device.real(solve(program, scenarios).decision)

Where CUDA copies in silence the harness is stricter, since in a solver that is a mistake: it raises
when a tensor leaves the device (but by ``solvers.course.on_host``, the copy that is meant), when a
CPU tensor is written into one of the device, and on indices
and masks from the CPU. Moving a tensor to the device with ``to`` is fine, and so are numbers:
0-dim CPU tensors mix with everything, ``item()`` and ``bool()`` are answered.

What it cannot tell: time, memory, and how kernels on a real device round (tests/devices/test_cuda.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from diffusion_dfl.solvers import course, interior_point

DEVICE = torch.device("cuda", 0)
# What torch's C++ side hears when it asks a tensor of DEVICE for its device. A build without CUDA
# has no device guard and no autograd queue for cuda; meta has no-op ones, and autograd runs in the
# calling thread. Python code hears cuda:0.
_CPP_DEVICE = torch.device("meta")
_CPU = torch.device("cpu")
# Forward-mode AD's zeros have no memory; C++ mixes them with others where the real ones need some.
_WITH_MEMORY = {torch.ops.aten._efficientzerotensor.default: torch.ops.aten.zeros.default}
_VALUE_DEPENDENT = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
_PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "vdot")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")


class DeviceMistakeError(RuntimeError):
    """An operation that CUDA would run, but that leaves the device or is fed from the CPU."""


class FakeCuda(TorchDispatchMode):
    """Sees every operation before FakeTensorMode does, and repeats it on the real tensors.

    Attributes:
        floating: floating dtypes of all tensors that operations made on the device.
        products: dtypes of the matrix products among them, where CUDA may take TF32 for float32.
        operations: number of operations that made a tensor on the device.
        waits: number of operations whose caller waits for the device: those that depend on values.
    """

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        super().__init__()
        self.fake_mode = fake_mode
        self.floating: set[torch.dtype] = set()
        self.products: set[torch.dtype] = set()
        self.operations = 0
        self.waits = 0

    def put(self, value: Tensor) -> Tensor:
        """A leaf on the fake device with these values and the same ``requires_grad``."""
        with no_dispatch():
            real = _real_part(value).detach().clone()
        return self._fake(real, DEVICE).requires_grad_(value.requires_grad)

    def real(self, value: Tensor) -> Tensor:
        """The values of a tensor: a detached plain CPU tensor, for use after the mode's end."""
        with no_dispatch():
            return _real_part(value).detach().clone()

    def to_host(self, value: Tensor) -> np.ndarray:
        """The copy that a solver means to make, for which its caller waits."""
        self.waits += value.device == DEVICE
        with no_dispatch():
            return _real_part(value).detach().clone().numpy()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.prim.device.default:
            return _CPP_DEVICE if args[0].fake_device == DEVICE else args[0].fake_device
        if torch.is_inference_mode_enabled():
            # Autograd takes operations apart into those that devices know; without it they come whole.
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        leaves, spec = tree_flatten((args, kwargs or {}))
        leaves = [self._understood(leaf) for leaf in leaves]
        args, kwargs = tree_unflatten(leaves, spec)
        assert kwargs is not None
        _refuse_silent_copies(func, args, kwargs)
        real_args, real_kwargs = tree_map(_real_part, (args, kwargs))
        written = [kwargs[part.name] for part in func._schema.arguments if part.is_out]
        if written:
            # Fake kernels of these write by a copy that needs a device.
            FakeTensor._find_common_device(func, leaves)
            shapes = [out.shape for out in written]
            with no_dispatch():
                func(*real_args, **real_kwargs)
            assert [out.real_tensor.shape for out in written] == shapes, f"{func} resizes"
            out = written[0] if len(written) == 1 else tuple(written)
        elif _VALUE_DEPENDENT & set(func.tags):
            device, _ = FakeTensor._find_common_device(func, leaves)
            self.waits += device == DEVICE and not _whole_numbers(func, args)
            with no_dispatch():
                real_out = func(*real_args, **real_kwargs)
            out = tree_map(lambda x: self._fake(x, device) if _is_plain(x) else x, real_out)
        else:
            out = func(*args, **kwargs)
            with no_dispatch():
                real_out = _WITH_MEMORY.get(func, func)(*real_args, **real_kwargs)
            _attach(func, out, real_out)
        self._log(func, out)
        return out

    def _understood(self, leaf: Any) -> Any:
        """Tensors older than the mode become fake CPU tensors, C++'s device becomes ours."""
        if isinstance(leaf, torch.device) and leaf == _CPP_DEVICE:
            return DEVICE
        return self._fake(leaf, leaf.device) if _is_plain(leaf) else leaf

    def _fake(self, real: Tensor, device: torch.device) -> FakeTensor:
        with no_dispatch():
            meta = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device="meta")
            fake = FakeTensor(self.fake_mode, meta, device)
        fake.real_tensor = real
        return fake

    def _log(self, func: Any, out: Any) -> None:
        leaves = tree_flatten(out)[0]
        made = [leaf for leaf in leaves if isinstance(leaf, FakeTensor) and leaf.device == DEVICE]
        self.floating.update(tensor.dtype for tensor in made if tensor.dtype.is_floating_point)
        if func.overloadpacket.__name__ in _PRODUCTS:
            self.products.update(tensor.dtype for tensor in made)
        self.operations += bool(made)


class _PythonFace(TorchFunctionMode):
    """Python code hears cuda:0, inside ``torch.func`` too, whose wrappers keep C++'s device."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func == torch.Tensor.device.__get__ and is_functorch_wrapped_tensor(args[0]):
            return DEVICE if out == _CPP_DEVICE else out
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            # Asked without this mode: C++'s device where torch.func wraps the tensor.
            return args[0].device in (DEVICE, _CPP_DEVICE)
        return out


def _run_backward(*args: Any, **kwargs: Any) -> Any:
    # Function modes are off inside Tensor.backward, yet a backward pass may call torch.func too.
    with _PythonFace():
        return _engine_run_backward(*args, **kwargs)


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Everything inside runs under FakeTensorMode with real values beside it; see the module."""
    fake_mode = FakeTensorMode(allow_non_fake_inputs=False)
    backward = patch.object(torch.autograd, "_engine_run_backward", _run_backward)
    mode = FakeCuda(fake_mode)
    meant = [patch.object(module, "on_host", mode.to_host) for module in (course, interior_point)]
    with backward, meant[0], meant[1], fake_mode, mode, _PythonFace():
        yield mode


def _whole_numbers(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operation indexes by whole numbers: its shape then depends on no value."""
    if func.overloadpacket.__name__ not in _INDEXING:
        return False
    return all(index is None or index.dtype == torch.int64 for index in args[1])


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, FakeTensor)


def _real_part(value: Any) -> Any:
    """Real values for a fake tensor, the CPU for any device, the rest as it is."""
    if isinstance(value, FakeTensor):
        assert value.real_tensor is not None, "a fake tensor without values reached an operation"
        return value.real_tensor
    return _CPU if isinstance(value, torch.device) else value


def _attach(func: Any, fake_out: Any, real_out: Any) -> None:
    """Give the outputs of the fake kernel the values of the real one."""
    fakes, reals = tree_flatten(fake_out)[0], tree_flatten(real_out)[0]
    for fake, real in zip(fakes, reals, strict=True):
        if isinstance(fake, FakeTensor):
            assert fake.shape == real.shape and fake.dtype == real.dtype, (
                f"{func}: the fake kernel gives {fake.dtype} {tuple(fake.shape)}, "
                f"the real one {real.dtype} {tuple(real.shape)}"
            )
            fake.real_tensor = real


def _refuse_silent_copies(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not args or not isinstance(args[0], FakeTensor):
        return
    name, first = func.overloadpacket.__name__, args[0]
    if name == "copy_":
        source, target = args[1], first.device
        if source.device != target and source.dim() > 0:
            raise DeviceMistakeError(
                f"{func} writes a {tuple(source.shape)} tensor of {source.device} into one of {target}"
            )
    elif first.device == DEVICE and kwargs.get("device") == _CPU:
        raise DeviceMistakeError(f"{func} takes a {tuple(first.shape)} tensor to the CPU")
    elif name in _INDEXING and first.device == DEVICE:
        for index in args[1]:
            if isinstance(index, FakeTensor) and index.device != DEVICE:
                raise DeviceMistakeError(f"{func} takes an index that is not on {DEVICE}")
