"""What torch.func differentiates of a user's cost: the smooth part and hinges without closed form.

    r(y, z) = smooth(y, z) + sum_k coefficient_k E (a_k(y, z) + s_k(y, z) xi)_+^power_k

The functions are those of one scenario; here they meet the batch. Sums over scenarios are
differentiated as sums, so that a Hessian is one ``n x n`` an instance, and large batches are cut
into chunks, so that memory does not grow with the number of scenarios.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from diffusion_dfl.programs.batching import over_batch
from diffusion_dfl.programs.degrees import proved_hessian
from diffusion_dfl.programs.general.hinge_terms import Hinge
from diffusion_dfl.programs.instances import Instances

# Numbers that an intermediate tensor of one chunk may hold: 64 MiB in float64.
_CHUNK = 2**23

#: r summed over the scenarios of an instance, ``(z (n,), bandwidth (d_y,)) -> scalar``.
_Total = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ScenarioCost:
    """A cost of one scenario, batched.

    Attributes:
        smooth: ``(y (d_y,), z (n,)) -> scalar`` or None.
        hinges: with their columns in the shares ``(B, M, K)`` of all kinks; of power 1 only.
        convolved: whether a bandwidth counts; False saves the widths of an exact program.
        alike: whether the functions vectorise only where both arguments do.
    """

    smooth: Callable[[Tensor, Tensor], Tensor] | None
    hinges: tuple[tuple[Hinge, slice], ...] = ()
    convolved: bool = False
    alike: bool = False

    def value(self, y: Tensor, z: Tensor, bandwidth: Tensor, shares: Tensor | None) -> Tensor:
        """r of one scenario: ``(d_y,), (n,), (d_y,), (K,) -> scalar``."""
        total = z.new_zeros(()) if self.smooth is None else self.smooth(y, z)
        for hinge, columns in self.hinges:
            width = hinge.widths(y, z, bandwidth) if self.convolved else None
            share = None if shares is None else shares[columns]
            total = total + hinge.cost(hinge.values(y, z), width, share)
        return total

    def exact(self, outcome: Tensor, decision: Tensor) -> Tensor:
        """r without a kernel, pair by pair: ``(N, d_y), (N, n) -> (N,)``; plain autograd applies."""
        plain = ScenarioCost(self.smooth, self.hinges)
        chunk = _chunk(len(outcome), outcome.shape[1] + decision.shape[1])
        return over_batch(lambda y, z: plain.value(y, z, y, None), outcome, decision, chunk=chunk)

    def objective(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B,)``."""
        return self._summed(lambda total, z, s: total(z, s), instances, [z])

    def gradient(self, instances: Instances, z: Tensor, shares: Tensor | None = None) -> Tensor:
        """``(B, n)``; ``shares (B, M, K)`` as slopes of the kinks."""
        return self._summed(lambda total, z, s: grad(total)(z, s), instances, [z], shares=shares)

    def hessian(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B, n, n)``; kinks of width 0 left out.

        Of a smooth cost that is proved to have one Hessian everywhere, that of one scenario is taken.
        """
        if not self.convolved and any(hinge.power == 1 for hinge, _ in self.hinges):
            bent = tuple((hinge, columns) for hinge, columns in self.hinges if hinge.power > 1)
            rest = ScenarioCost(self.smooth, bent, alike=self.alike)
            return rest.hessian(instances, z)
        if self.hessian_kind(instances, z) == "constant":
            return instances.weights.sum(1)[:, None, None] * self.one_hessian(instances, z)
        return self.summed_hessian(instances, z)

    def summed_hessian(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B, n, n)``, scenario by scenario."""

        def second(total: _Total, z: Tensor, s: Tensor) -> Tensor:
            return jacrev(grad(total))(z, s)

        return self._summed(second, instances, [z], values=z.shape[1])

    def hessian_kind(self, instances: Instances, z: Tensor) -> str | None:
        """What the scenarios' Hessian is proved to be (:func:`proved_hessian`).

        At each call, since tensors that the function holds may change: it costs one scenario.
        """
        if self.smooth is None or self.hinges or not len(z):
            return None
        return proved_hessian(self.smooth, *_ones(instances, z))

    def one_hessian(self, instances: Instances, z: Tensor) -> Tensor:
        """``(n, n)`` of every scenario at every decision, where it is constant."""
        assert self.smooth is not None
        second = jacrev(grad(self.smooth, argnums=1), argnums=1)
        found: Tensor = second(*_ones(instances, z))
        return found

    def bandwidth_product(self, instances: Instances, z: Tensor, adjoint: Tensor) -> Tensor:
        """``(d/ds gradient)' u``: ``(B, d_y)``."""
        if not (self.convolved and self.hinges):
            return torch.zeros_like(instances.bandwidth)

        def product(total: _Total, z: Tensor, s: Tensor, u: Tensor) -> Tensor:
            return grad(lambda s: grad(total)(z, s) @ u)(s)

        return self._summed(product, instances, [z, adjoint])

    def gradients(self, instances: Instances, z: Tensor) -> Tensor:
        """``(B, M, n)``."""

        def one(y: Tensor, z: Tensor, s: Tensor) -> Tensor:
            return grad(lambda at: self.value(y, at, s, None))(z)

        return self._each(one, [instances.scenarios], [z, instances.bandwidth])

    def cross_product(
        self, instances: Instances, z: Tensor, adjoint: Tensor, shares: Tensor | None = None
    ) -> Tensor:
        """Gradient in y of ``u' grad_z r``: ``(B, M, d_y)``; ``shares`` as slopes of the kinks."""

        def one(y: Tensor, share: Tensor, z: Tensor, s: Tensor, u: Tensor) -> Tensor:
            given = None if shares is None else share

            def along(y: Tensor) -> Tensor:
                return grad(lambda at: self.value(y, at, s, given))(z) @ u

            return grad(along)(y)

        every = instances.scenarios[:, :, :0] if shares is None else shares
        return self._each(one, [instances.scenarios, every], [z, instances.bandwidth, adjoint])

    def _summed(
        self,
        derivative: Callable[..., Tensor],
        instances: Instances,
        at: list[Tensor],
        values: int = 1,
        shares: Tensor | None = None,
    ) -> Tensor:
        """``derivative(total, z, bandwidth, ...)`` of the weighted sum, an instance; linear in the sum.

        Args:
            at: z ``(B, n)``, and what else the derivative takes.
            values: of it a coordinate of z, for the size of chunks.
        """
        y = instances.scenarios
        slopes = y[:, :, :0] if shares is None else shares
        instance = (at[0], instances.bandwidth, *at[1:])

        def one(ys: Tensor, omegas: Tensor, slopes: Tensor, *given: Tensor) -> Tensor:
            def total(z: Tensor, s: Tensor) -> Tensor:
                def value(y: Tensor, slope: Tensor, z: Tensor) -> Tensor:
                    return self.value(y, z, s, None if shares is None else slope)

                if self.alike:
                    return omegas @ vmap(value)(ys, slopes, z.expand(len(ys), -1))
                return omegas @ vmap(value, in_dims=(0, 0, None))(ys, slopes, z)

            return derivative(total, *given)

        batch, num_scenarios, size = y.shape
        numbers = values * (at[0].shape[1] + size)
        of_scenarios = _chunk(num_scenarios, numbers)
        of_batch = _chunk(batch, numbers * of_scenarios)
        split = (part.split(of_scenarios, 1) for part in (y, instances.weights, slopes))
        parts = zip(*split, strict=True)
        first, *others = parts
        result = over_batch(one, *first, *instance, chunk=of_batch)
        for part in others:
            result = result + over_batch(one, *part, *instance, chunk=of_batch)
        return result

    def _each(
        self,
        one: Callable[..., Tensor],
        per_scenario: Sequence[Tensor],
        per_instance: Sequence[Tensor],
    ) -> Tensor:
        """``one(*per_scenario, *per_instance)`` of every scenario: ``(B, M, ...)``."""
        numbers = sum(part.shape[-1] for part in (*per_scenario, *per_instance))
        batch, num_scenarios = per_scenario[0].shape[:2]
        of_scenarios = _chunk(num_scenarios, numbers)
        found = []
        for parts in zip(*(part.split(of_scenarios, 1) for part in per_scenario), strict=True):
            count = parts[0].shape[1]
            given = [part.unsqueeze(1).expand(-1, count, -1) for part in per_instance]
            # One level of batches: two take twice the time where there is little to compute.
            pairs = [part.flatten(0, 1) for part in (*parts, *given)]
            values = over_batch(one, *pairs, chunk=_chunk(len(pairs[0]), numbers))
            found.append(values.unflatten(0, (batch, count)))
        return torch.cat(found, dim=1)


def _ones(instances: Instances, z: Tensor) -> tuple[Tensor, Tensor]:
    """An outcome and a decision."""
    return torch.ones_like(instances.scenarios[0, 0]), torch.ones_like(z[0])


def _chunk(count: int, numbers: int) -> int:
    """How many of ``count`` fit into a chunk, at ``numbers`` each."""
    return max(1, min(count, _CHUNK // max(numbers, 1)))
