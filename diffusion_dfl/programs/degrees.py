"""Which costs and constraints are quadratic in the decision: read off the operations they are made of.

A tensor that a function of (y, z) computes is a polynomial in z,

    t(y, z) = c_0(y) + c_1(y) z + c_2(y) z z,

as long as only sums, linear maps and products led to it. Of every tensor the degrees that occur are kept,
and whether their coefficients depend on y. A scalar without a degree above 2, whose c_2 is constant, has
the Hessian 2 c_2 for all y and z, and otherwise one for all z. This is a proof, not a trial at points: an
operation that is not listed below, a write, a branch on a value, a random number or a custom backward ends
it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffusion_dfl.programs.hooks import without_saved_tensor_hooks

#: Of z to the power 0, 1 and 2: 0 where it does not occur, 1 with a constant coefficient, 2 with one that
#: depends on y.
_Degrees = tuple[int, int, int]

_CONSTANT: _Degrees = (1, 0, 0)
_OF_OUTCOME: _Degrees = (2, 0, 0)
_OF_DECISION: _Degrees = (0, 1, 0)

_aten = torch.ops.aten

#: Linear in all tensors together.
_SUMS = {
    _aten.add.Tensor, _aten.sub.Tensor, _aten.rsub.Scalar, _aten.rsub.Tensor, _aten.neg.default,
    _aten.sum.default, _aten.sum.dim_IntList, _aten.mean.default, _aten.mean.dim,
    _aten.cumsum.default, _aten.cat.default, _aten.stack.default, _aten.clone.default,
    _aten.flip.default, _aten.roll.default, _aten.constant_pad_nd.default, _aten.repeat.default,
    _aten.trace.default, _aten.tril.default, _aten.triu.default,
}  # fmt: skip

#: Linear in the first tensor, for the same indices.
_PICKS = {_aten.index.Tensor, _aten.index_select.default, _aten.gather.default}

#: Linear in each of two tensors.
_PRODUCTS = {
    _aten.mul.Tensor, _aten.mul.Scalar, _aten.mv.default, _aten.mm.default, _aten.bmm.default,
    _aten.dot.default, _aten.vdot.default,
}  # fmt: skip

#: A sum and a product of the two tensors behind it.
_SUMS_OF_PRODUCTS = {
    _aten.addmm.default, _aten.addmv.default, _aten.addbmm.default, _aten.baddbmm.default,
    _aten.addr.default, _aten.addcmul.default,
}  # fmt: skip


#: In place, and no write: another shape of the same numbers (``matmul`` ends with one).
_SHAPES = {_aten.squeeze_.dim, _aten.unsqueeze_.default}


class _Unproven(Exception):
    """An operation whose result may be of any degree."""


class _Reading(TorchDispatchMode):
    """Follows the degrees through every operation below autograd; views share those of their storage."""

    def __init__(self, outcome: Tensor, decision: Tensor) -> None:
        super().__init__()
        self.dtype = decision.dtype
        self.kept: list[Tensor] = []  # So that no storage's place is taken by another's.
        self.degrees: dict[int, _Degrees] = {}
        self._keep(outcome, _OF_OUTCOME)
        self._keep(decision, _OF_DECISION)

    def of(self, value: Any) -> _Degrees:
        """Those of an argument; constant where it is neither y, nor z, nor made of them."""
        if not isinstance(value, Tensor):
            return _CONSTANT
        found = self.degrees.get(value.untyped_storage()._cdata)
        if found is None and value.requires_grad:
            raise _Unproven  # A learned tensor, or one whose origin was not followed.
        return found or _CONSTANT

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        given = [self.of(tensor) for tensor in tensors]
        writes = func._schema.is_mutable and func not in _SHAPES
        if writes or torch.Tag.nondeterministic_seeded in func.tags:
            raise _Unproven
        result = func(*args, **kwargs)
        made = tree_leaves(result)
        if any(one != _CONSTANT for one in given):
            if not all(isinstance(one, Tensor) for one in made):
                raise _Unproven  # A number of Python's, to branch on.
            self._follow(func, args, given, made)
        return result

    def _follow(
        self, func: Any, args: tuple[Any, ...], given: list[_Degrees], made: list[Tensor]
    ) -> None:
        if all(one[1:] == (0, 0) for one in given):
            degrees = _sum(given)
        elif any(one.dtype != self.dtype for one in made):
            raise _Unproven
        elif all(one.untyped_storage()._cdata in self.degrees for one in made):
            return  # A view.
        else:
            degrees = self._made(func, args, given)
        for one in made:
            self._keep(one, degrees)

    def _made(self, func: Any, args: tuple[Any, ...], given: list[_Degrees]) -> _Degrees:
        """Degrees of what an operation makes of tensors of which one depends on z."""
        if func in _SUMS:
            return _sum([*given, *(self.of(one) for one in args if isinstance(one, int | float))])
        if func in _PICKS and all(one == _CONSTANT for one in given[1:]):
            return given[0]
        if func in _PRODUCTS:
            return _product(self.of(args[0]), self.of(args[1]))
        if func in _SUMS_OF_PRODUCTS:
            return _sum([self.of(args[0]), _product(self.of(args[1]), self.of(args[2]))])
        if func is _aten.div.Tensor and self.of(args[1])[1:] == (0, 0):
            return _product(self.of(args[0]), self.of(args[1]))
        if func is _aten.pow.Tensor_Scalar and args[1] == 2:
            return _product(given[0], given[0])
        if func is _aten.mse_loss.default:
            return _product(_sum(given), _sum(given))
        raise _Unproven

    def _keep(self, tensor: Tensor, degrees: _Degrees) -> None:
        place = tensor.untyped_storage()._cdata
        self.kept.append(tensor)
        self.degrees[place] = _sum([degrees, self.degrees.get(place, (0, 0, 0))])


def _sum(parts: Sequence[_Degrees]) -> _Degrees:
    zero, one, two = (max(levels) for levels in zip(*parts, strict=True))
    return zero, one, two


def _product(first: _Degrees, second: _Degrees) -> _Degrees:
    found = [0, 0, 0]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            if a and b:
                if i + j > 2:
                    raise _Unproven
                found[i + j] = max(found[i + j], a, b)
    return found[0], found[1], found[2]


def proved_hessian(
    function: Callable[[Tensor, Tensor], Tensor], outcome: Tensor, decision: Tensor
) -> Literal["constant", "of the outcome"] | None:
    """What the Hessian of a scalar function in the decision is proved to be, the same for all z.

    None says nothing. The function is called once; what it reads beside its arguments is taken as it
    is now.

    Args:
        function: ``(y (d_y,), z (n,)) -> scalar``.
        outcome, decision: ``(d_y,)`` and ``(n,)``, any values.
    """
    found = _read(function, outcome, decision)
    if found is None:
        return None
    return "constant" if found[2] < 2 else "of the outcome"


def quadratic(
    function: Callable[[Tensor, Tensor], Tensor], outcome: Tensor, decision: Tensor
) -> bool:
    """Whether a function ``(y, z) -> (q,)`` is proved to be quadratic in the decision for every outcome;
    otherwise as :func:`proved_hessian`."""
    return _read(function, outcome, decision) is not None


@without_saved_tensor_hooks()
def _read(
    function: Callable[[Tensor, Tensor], Tensor], outcome: Tensor, decision: Tensor
) -> _Degrees | None:
    """Degrees of the result; None where they are not proved."""
    if type(outcome) is not Tensor or type(decision) is not Tensor:
        return None  # A subclass has operations of its own, and storage that may not be read.
    y, z = (value.detach().clone().requires_grad_() for value in (outcome, decision))
    reading = _Reading(y, z)
    try:
        with torch.enable_grad(), reading:
            value = function(y, z)
        degrees = reading.of(value)
    except _Unproven:
        return None
    return None if value.dtype != z.dtype or _custom(value) else degrees


def _custom(value: Tensor) -> bool:
    """Whether a backward that somebody wrote leads to a value: it may be no derivative."""
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, BackwardCFunction):
            return True
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
    return False
