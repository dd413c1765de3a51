"""Newton's method in a box for product allocation: log-sum-exp of linear losses, ``0 <= z <= C``.

In the units ``t = z / C`` and ``A = C Y`` the problem is

    min_t  F(t) = log sum_m omega_m exp(-a_m' t),        0 <= t <= 1.

A Newton step fixes the coordinates that stationarity keeps on their bound, minimises the quadratic
model over the others, fixes those the minimiser takes out of the box and repeats; the way to the
result is searched by Armijo's rule. This identifies the active bounds in a few steps and is
quadratic after that, but large margins make F nearly piecewise linear, where Newton's domain
shrinks. Instances that do not converge are therefore handed to a homotopy, a primal-dual interior
point on

    T log sum_m omega_m exp(-a_m' t / T) - s sum_i (log t_i + log(1 - t_i)),    T = max(1, s),

with s falling from the size of the losses to 0, and then to Newton again. Decisions on a bound are
exactly 0 or C; the KKT residual, computed from the data alone, decides the status.

Newton with an active set: Bertsekas, SIAM J. Control Optim. 20(2), 1982. Barrier terms and step
rules: Waechter and Biegler, Math. Program. 106, 2006.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_dfl.programs.allocation import ProductAllocation, covariance
from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.solvers.solution import Solution, Status

_TOLERANCE = 1e-10
# Newton stops here; the gap to _TOLERANCE is room for instances that stall on rounding.
_TARGET = 1e-14
_EPS = 2.2e-16
_NEWTON_STEPS = 15
_POLISH_STEPS = 60
_HOMOTOPY_STEPS = 200
_HALVINGS = 30
_ARMIJO = 1e-4
# A coordinate this close to a bound, towards which it descends, is put there.
_NEAR = 1e-12
# Ridge of a Newton matrix scaled to a unit diagonal: curvature below it is rounding.
_RIDGE = 1e-13
# The barrier's weight falls by this factor once its minimiser is found to _CENTRED of the weight.
_DECREASE = 0.1
_CENTRED = 0.1
_FINAL_BARRIER = 1e-9


def solve_allocation(
    program: ProductAllocation, instances: Instances, start: Tensor | None = None
) -> Solution:
    """Solve ``min_z log sum_m omega_m exp(-y_m' z)`` in the box for a batch.

    A product whose margin is 0 in every scenario is not made. With fewer scenarios than products
    the optimum may not be unique; then one of the optima is returned.

    Args:
        program: d and C.
        instances: valid ones, whose bandwidth is ignored: the cost is smooth.
        start: ``(B, d)``, first guess; moved into the box.

    Returns:
        The :class:`Solution`; ``duals`` are those of the lower and of the upper bounds, in units
        of grad F, and ``iterations`` counts evaluations of the Hessian.
    """
    data = _Data.of(instances, program.capacity)
    t = torch.zeros_like(data.largest)
    if start is not None:
        t = torch.where(data.largest > 0, (start / program.capacity).clamp(0, 1), 0.0)
    t, iterations, done = _newton(data, t, _NEWTON_STEPS, together=True)
    rows = torch.nonzero(~done).flatten()
    if rows.numel():
        part = data.select(rows)
        near, first = _homotopy(part)
        near, second, _ = _newton(part, near, _POLISH_STEPS, together=False)
        t = t.index_copy(0, rows, near)
        iterations = iterations.index_add(0, rows, first + second)
    return _certify(program, data, instances, t, iterations)


@dataclass(frozen=True)
class _Data:
    """A batch of problems, seen from the unit box: ``a_m = C y_m``.

    Attributes:
        scenarios: ``(B, M, d)``.
        log_weights: ``(B, M)``, ``-inf`` for a scenario without weight.
        capacity: C.
        largest: ``max_m |a_mi|`` over scenarios with weight, ``(B, d)``.
    """

    scenarios: Tensor
    log_weights: Tensor
    capacity: float
    largest: Tensor

    @staticmethod
    def of(instances: Instances, capacity: float) -> "_Data":
        scenarios, weights = instances.scenarios, instances.weights
        used = scenarios
        if bool((weights == 0).any()):
            used = torch.where((weights > 0).unsqueeze(2), scenarios, 0.0)
        largest = torch.maximum(used.amax(1), -used.amin(1))
        return _Data(scenarios, weights.log(), capacity, capacity * largest)

    def select(self, rows: Tensor) -> "_Data":
        return _Data(
            self.scenarios[rows], self.log_weights[rows], self.capacity, self.largest[rows]
        )

    def exponents(self, t: Tensor) -> Tensor:
        """``-a_m' t``: ``(B, M)``."""
        return -(self.scenarios @ (self.capacity * t).unsqueeze(-1)).squeeze(-1)

    def value(self, exponents: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
        """``T log sum_m omega_m exp(e_m / T)``: ``(B, 1)``; ``temperature`` is T, ``(B, 1)``."""
        scaled = self.log_weights + exponents / temperature
        return temperature * torch.logsumexp(scaled, 1, keepdim=True)

    def model(self, exponents: Tensor, temperature: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Gradient ``(B, d)`` and T times the Hessian ``(B, d, d)`` of :meth:`value` in t."""
        shares = torch.softmax(self.log_weights + exponents / temperature, dim=1)
        mean = (shares.unsqueeze(1) @ self.scenarios).squeeze(1)
        spread = covariance(shares, self.scenarios, mean)
        return -self.capacity * mean, self.capacity**2 * spread


def _rounding(magnitude: Tensor, t: Tensor) -> Tensor:
    """Relative rounding error of the shares, ``(B, 1)``.

    An exponent is rounded in proportion to ``|a_m|' t``; ``magnitude`` is ``E_p |a|``, ``(B, d)``.
    """
    return _EPS * (4 + (magnitude * t).sum(1, keepdim=True))


def _violation(t: Tensor, gradient: Tensor) -> Tensor:
    """Stationarity that no multiplier of the right sign makes up for: ``(B, d)``, >= 0."""
    down = torch.where(t > 0, gradient, 0.0).clamp_min(0)
    up = torch.where(t < 1, -gradient, 0.0).clamp_min(0)
    return torch.maximum(down, up)


def _newton(
    data: _Data, t: Tensor, max_steps: int, together: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Newton steps from t: decisions ``(B, d)``, steps ``(B,)`` and whether they converged.

    ``together`` is that of :func:`_box_step`.
    """
    result = t.clone()
    steps = torch.zeros(len(t), dtype=torch.int64, device=t.device)
    done = torch.zeros(len(t), dtype=torch.bool, device=t.device)
    rows = torch.arange(len(t), device=t.device)
    for _ in range(max_steps):
        if rows.numel() == 0:
            break
        exponents = data.exponents(t)
        gradient, hessian = data.model(exponents)
        # The root mean square of a_i under the shares: what its mean, the gradient, is rounded to.
        unit = (hessian.diagonal(dim1=1, dim2=2) + gradient**2).sqrt()
        rounding = _rounding(unit, t)
        allowed = (_TARGET + rounding) * unit + _EPS * data.largest
        small = (_violation(t, gradient) <= allowed).all(1)
        steps[rows] += 1
        if bool(small.all()):
            done[rows] = True
            break
        step, moved = _box_step(t, gradient, hessian, together)
        new, stuck = _search(data, t, exponents, gradient, step, moved, rounding)
        t = torch.where(small.unsqueeze(1), t, new)
        result[rows] = t
        done[rows] = small
        keep = torch.nonzero(~(small | stuck)).flatten()
        if len(keep) < len(rows):
            rows, t, data = rows[keep], t[keep], data.select(keep)
    return result, steps, done


def _box_step(
    t: Tensor, gradient: Tensor, hessian: Tensor, together: bool
) -> tuple[Tensor, Tensor]:
    """Step to the minimiser of the quadratic model on a face of the box.

    Args:
        t, gradient, hessian: ``(B, d)``, ``(B, d)``, ``(B, d, d)``.
        together: whether all coordinates that the minimiser takes out of the box are fixed at
            once, which is fast, or one after the other as the way there meets their bounds, which
            lowers the model every time, along directions without curvature too.

    Returns:
        The step, ``(B, d)``, and where the coordinates it takes to a bound end, NaN elsewhere.
    """
    matrix, unit = _scaled(hessian)
    nowhere = torch.full_like(t, torch.nan)
    bound = torch.where((t <= _NEAR) & (gradient > 0), 0.0, nowhere)
    bound = torch.where((t >= 1 - _NEAR) & (gradient < 0), 1.0, bound)
    step = torch.where(bound.isfinite(), bound - t, 0.0)
    for _ in range(t.shape[1]):
        free = (~bound.isfinite()).to(t.dtype)
        pull = gradient + (hessian @ step.unsqueeze(-1)).squeeze(-1)
        reduced = matrix * free.unsqueeze(1) * free.unsqueeze(2) + torch.diag_embed(1 - free)
        factor, _ = torch.linalg.cholesky_ex(reduced)
        newton = torch.cholesky_solve((-pull * unit * free).unsqueeze(-1), factor).squeeze(-1)
        change = newton * unit
        target = t + step + change
        met = torch.where(target < 0, 0.0, torch.where(target > 1, 1.0, nowhere))
        met = torch.where(free > 0, met, torch.nan)
        out = met.isfinite()
        if not bool(out.any()):
            step = step + change
            break
        part = torch.where(out, (met - t - step) / change, torch.inf)
        first = part.amin(1, keepdim=True)
        if not together:
            met = torch.where(part <= first, met, torch.nan)
            out = met.isfinite()
        step = step + first.clamp(0, 1) * change
        step = torch.where(out, met - t, step)
        bound = torch.where(out, met, bound)
    step = torch.minimum(torch.maximum(step, -t), 1 - t)
    # The face may be the wrong one: then scaled steepest descent, which always descends.
    uphill = ((gradient * step).sum(1, keepdim=True) > 0) | ~step.isfinite().all(1, keepdim=True)
    plain = (t - gradient * unit**2).clamp(0, 1)
    ends = torch.where((plain == 0) | (plain == 1), plain, torch.nan)
    return torch.where(uphill, plain - t, step), torch.where(uphill, ends, bound)


def _scaled(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """``D H D`` with unit diagonal plus a ridge, and D as a vector ``(B, d)``."""
    size = hessian.diagonal(dim1=1, dim2=2)
    # A coordinate without curvature has a model without a minimum: a step to the bound.
    least = (1e-26 * size.amax(1, keepdim=True)).clamp_min(1e-200)
    unit = size.clamp_min(least).rsqrt()
    eye = torch.eye(hessian.shape[1], dtype=hessian.dtype, device=hessian.device)
    return hessian * unit.unsqueeze(1) * unit.unsqueeze(2) + _RIDGE * eye, unit


def _search(
    data: _Data,
    t: Tensor,
    exponents: Tensor,
    gradient: Tensor,
    step: Tensor,
    bound: Tensor,
    rounding: Tensor,
) -> tuple[Tensor, Tensor]:
    """Armijo's rule along the step: new points, and ``(B,)`` whether it found no length."""
    slope = (gradient * step).sum(1, keepdim=True)
    change = data.exponents(step)
    value = data.value(exponents)
    # F itself is rounded: without this a step at the optimum could not be accepted.
    noise = rounding * (1 + value.abs())
    length = torch.ones_like(slope)
    waiting = torch.ones_like(slope, dtype=torch.bool)
    for _ in range(_HALVINGS):
        waiting = data.value(exponents + length * change) > value + _ARMIJO * length * slope + noise
        if not bool(waiting.any()):
            break
        length = torch.where(waiting, 0.5 * length, length)
    full = (length == 1) & bound.isfinite()
    moved = torch.where(full, bound, (t + length * step).clamp(0, 1))
    return torch.where(waiting, t, moved), waiting.squeeze(1)


def _homotopy(data: _Data) -> tuple[Tensor, Tensor]:
    """Points next to the optimum ``(B, d)``, with their bounds exact, and steps ``(B,)``."""
    columns = data.largest
    used = columns > 0
    size = columns.sum(1, keepdim=True)
    smallest = torch.where(used, columns, torch.inf).amin(1, keepdim=True)
    final = _FINAL_BARRIER * torch.maximum(torch.minimum(smallest, size), 1e-9 * size)
    barrier = 0.1 * size
    t = torch.full_like(columns, 0.5)
    low, high = barrier / t, barrier / (1 - t)
    result = t.clone()
    steps = torch.zeros(len(t), dtype=torch.int64, device=t.device)
    rows = torch.arange(len(t), device=t.device)
    for _ in range(_HOMOTOPY_STEPS):
        if rows.numel() == 0:
            break
        temperature = barrier.clamp_min(1.0)
        exponents = data.exponents(t)
        gradient, hessian = data.model(exponents, temperature)
        slope = gradient - barrier / t + barrier / (1 - t)
        matrix = hessian / temperature.unsqueeze(2) + torch.diag_embed(low / t + high / (1 - t))
        scaled, unit = _scaled(matrix)
        factor, _ = torch.linalg.cholesky_ex(scaled)
        step = -unit * torch.cholesky_solve((slope * unit).unsqueeze(-1), factor).squeeze(-1)
        decrement = -(slope * step).sum(1, keepdim=True)
        low_step = barrier / t - low - low / t * step
        high_step = barrier / (1 - t) - high + high / (1 - t) * step
        longest = torch.minimum(_longest(t, step), _longest(1 - t, -step))
        t = _descend(data, t, exponents, step, decrement, longest, barrier, temperature)
        dual_length = torch.minimum(_longest(low, low_step), _longest(high, high_step))
        # Multipliers stay within a factor of the barrier's own, or the matrix loses its meaning.
        low = _between(low + dual_length * low_step, barrier / t)
        high = _between(high + dual_length * high_step, barrier / (1 - t))
        steps[rows] += 1
        centred = decrement <= _CENTRED * barrier
        over = (centred & (barrier <= final)).squeeze(1)
        barrier = torch.where(centred, _DECREASE * barrier, barrier)
        snapped = torch.where(t * columns[rows] < low, 0.0, t)
        result[rows] = torch.where((1 - t) * columns[rows] < high, 1.0, snapped)
        keep = torch.nonzero(~over).flatten()
        if len(keep) < len(rows):
            rows, t, low, high = rows[keep], t[keep], low[keep], high[keep]
            barrier, final, data = barrier[keep], final[keep], data.select(keep)
    return torch.where(used, result, 0.0), steps


def _longest(value: Tensor, step: Tensor) -> Tensor:
    """Largest length in (0, 1] that keeps 1 % of a positive value: ``(B, 1)``."""
    limit = torch.where(step < 0, -0.99 * value / step, torch.inf)
    return limit.amin(1, keepdim=True).clamp_max(1.0)


def _between(dual: Tensor, central: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(dual, 1e-8 * central), 1e8 * central)


def _descend(
    data: _Data,
    t: Tensor,
    exponents: Tensor,
    step: Tensor,
    decrement: Tensor,
    longest: Tensor,
    barrier: Tensor,
    temperature: Tensor,
) -> Tensor:
    """Armijo's rule on the barrier function, from the longest length that stays inside."""
    change = data.exponents(step)

    def merit(length: Tensor) -> Tensor:
        point = t + length * step
        walls = (point.log() + torch.log1p(-point)).sum(1, keepdim=True)
        return data.value(exponents + length * change, temperature) - barrier * walls

    value = merit(torch.zeros_like(longest))
    noise = 1e-14 * (1 + value.abs())
    length = longest
    for _ in range(_HALVINGS):
        waiting = merit(length) > value - _ARMIJO * length * decrement + noise
        if not bool(waiting.any()):
            break
        length = torch.where(waiting, 0.5 * length, length)
    return t + length * step


def _certify(
    program: ProductAllocation, data: _Data, instances: Instances, t: Tensor, iterations: Tensor
) -> Solution:
    """Duals, gradients and KKT residuals of the decisions, and from these the status."""
    scenarios = instances.scenarios
    z = torch.where(t >= 1, program.capacity, program.capacity * t)
    shares = program.shares(instances, z).unsqueeze(1)
    gradient = -(shares @ scenarios).squeeze(1)
    magnitude = (shares @ scenarios.abs()).squeeze(1)
    low = torch.where(z <= 0, gradient.clamp_min(0), 0.0)
    high = torch.where(z >= program.capacity, (-gradient).clamp_min(0), 0.0)
    stationarity = gradient - low + high
    # Shares cannot be known better than exponents are rounded, but then little is known at all.
    # A product that only scenarios without a share speak of has a gradient of no size at all.
    allowed = (_TOLERANCE + _rounding(magnitude, z)).clamp_max(1e-8) * magnitude
    allowed = allowed + _EPS * data.largest / program.capacity
    good = (stationarity.abs() <= allowed).all(1) & z.isfinite().all(1)
    nothing = torch.zeros_like(z[:, 0])
    return Solution(
        decision=z,
        duals=torch.cat([low, high], dim=1),
        equality_duals=z.new_zeros(len(z), 0),
        subgradients=program.gradients(instances, z),
        at_kink=torch.zeros_like(scenarios[:, :, :0], dtype=torch.bool),
        status=torch.where(good, int(Status.SOLVED), int(Status.NOT_CONVERGED)),
        iterations=iterations,
        residuals=torch.stack([stationarity.abs().amax(1), nothing, nothing], dim=1),
    )
