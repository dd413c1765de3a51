"""A batched interior point for cone programs with a quadratic objective.

    min_x  x' P x / 2 + q' x    s.t.  A x + s = b,   s in {0}^p x R_+^l x Q_1 x ... x Q_K

with second-order cones ``Q = {(t, u): |u| <= t}``. Optimality, with the duals z in the dual cone:

    P x + A' z + q = 0,    A x + s = b,    s' z = 0.

The homogeneous embedding (Goulart and Chen, Clarabel, 2024) is followed by Nesterov-Todd scaled
predictor-corrector steps, so infeasible and unbounded instances end with a certificate. Everything
is dense, float64 and stays on the device of the data; instances that are done leave the batch.
Made for many small programs: memory is ``B (n + m) n`` numbers, one factorisation a step.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffusion_dfl.cones.algebra import ConeAlgebra, SpectralOperator, times, transpose_times
from diffusion_dfl.cones.kkt import KKTFactor, KKTSystem, solve_projected
from diffusion_dfl.cones.problem import ConeProblem, ConeSolution, largest
from diffusion_dfl.solvers.solution import Status

#: Largest relative residual of a solved instance.
TOLERANCE = 1e-9
# Iterations go on to this as long as they make progress; the last digits are the polish's.
_AIM = 1e-10
_CERTIFICATE = 1e-9
_MAX_ITERATIONS = 100
_PATIENCE = 4
_AS_GOOD = 1 + 1e-6
_REFINEMENTS = 2
_POLISHES = 2
# Magnitudes below this share of the data's do not count as the scale of a residual.
_FLOOR = 1e-12


def solve_cone(problem: ConeProblem) -> ConeSolution:
    """Solve a batch of cone programs; a bad instance is reported in its status.

    SOLVED means that stationarity, feasibility and duality gap are below 1e-9 of the size of
    their terms, and that s and z lie in their cones; INFEASIBLE and UNBOUNDED come with a
    certificate of relative accuracy 1e-9.
    """
    batch = len(problem.matrix)
    data = (problem.quadratic, problem.linear, problem.matrix, problem.limit)
    valid = torch.stack([part.isfinite().flatten(1).all(1) for part in data]).all(0)
    rows = torch.nonzero(valid).flatten()
    solution = ConeSolution(
        x=torch.full_like(problem.linear, torch.nan),
        slack=torch.full_like(problem.limit, torch.nan),
        dual=torch.full_like(problem.limit, torch.nan),
        status=torch.full_like(valid, int(Status.INVALID_INPUT), dtype=torch.long),
        iterations=torch.zeros_like(valid, dtype=torch.long),
        residuals=problem.linear.new_full((batch, 3), torch.inf),
    )
    if not rows.numel():
        return solution
    found = _Solver(problem.select(rows) if len(rows) < batch else problem).run()
    return ConeSolution(
        **{
            field.name: getattr(solution, field.name).index_copy(
                0, rows, getattr(found, field.name)
            )
            for field in fields(ConeSolution)
        }
    )


@dataclass(frozen=True)
class _State:
    """Iterates of the embedding; ``x / tau`` solves the program where tau > 0."""

    x: Tensor
    slack: Tensor  # conic rows only; equalities have none
    dual: Tensor
    tau: Tensor
    kappa: Tensor

    def select(self, rows: Tensor) -> "_State":
        return _State(*(getattr(self, field.name)[rows] for field in fields(self)))


class _Solver:
    """The iteration on one batch of finite, float64 instances."""

    def __init__(self, problem: ConeProblem) -> None:
        self.original = problem
        self.scaled = problem.reduction.problem.equilibrated
        self.algebra = self.scaled.problem.algebra
        self.zero = self.scaled.problem.cones.zero

    def run(self) -> ConeSolution:
        problem = self.scaled.problem
        batch = len(problem.matrix)
        system = whole = KKTSystem.of(problem)
        state = self._start(problem, system)
        best, merit = state, torch.full_like(state.tau, torch.inf)
        status = torch.full_like(state.tau, int(Status.NOT_CONVERGED), dtype=torch.long)
        iterations = torch.zeros_like(status)
        residuals = state.tau.new_full((batch, 3), torch.inf)
        final = [state.x.clone(), state.slack.clone(), state.dual.clone()]
        since = torch.zeros_like(status)
        rows = torch.arange(batch, device=status.device)
        best_residuals = residuals
        for step in range(_MAX_ITERATIONS + 1):
            now, certificate = self._measure(problem, state)
            worst = now.amax(1)
            # As good counts as better: where all vanishes together, ratios say nothing.
            better = worst <= _AS_GOOD * merit
            progress = worst < 0.5 * merit
            best = _State(*(_pick(better, new, old) for new, old in _pairs(state, best)))
            best_residuals = _pick(better, now, best_residuals)
            merit = torch.minimum(worst, merit)
            since = torch.where(progress, 0, since + 1)
            certified = (certificate > 0) & (merit > TOLERANCE)
            broken = ~_finite(state)
            done = (merit <= _AIM) | certified | (since >= _PATIENCE) & (merit <= TOLERANCE)
            done |= broken | (since >= 5 * _PATIENCE)
            if step == _MAX_ITERATIONS:
                done = torch.ones_like(done)
            if bool(done.any()):
                out = torch.nonzero(done).flatten()
                tau = best.tau[out].unsqueeze(1)
                for target, part in zip(final, (best.x, best.slack, best.dual), strict=True):
                    target[rows[out]] = part[out] / tau
                verdict = torch.where(
                    merit <= TOLERANCE, int(Status.SOLVED), int(Status.NOT_CONVERGED)
                )
                verdict = torch.where(certified, certificate, verdict)
                status[rows[out]], iterations[rows[out]] = verdict[out], step
                residuals[rows[out]] = best_residuals[out]
                left = torch.nonzero(~done).flatten()
                if not left.numel():
                    break
                rows, problem, system = rows[left], problem.select(left), system.select(left)
                state, best, since = state.select(left), best.select(left), since[left]
                merit, best_residuals = merit[left], best_residuals[left]
            state = self._advance(problem, system, state)
        polished, residuals = self._polished(whole, final, residuals, status)
        within = (status == int(Status.NOT_CONVERGED)) & (residuals.amax(1) <= TOLERANCE)
        status = torch.where(within, int(Status.SOLVED), status)
        return self._recover(polished, residuals, status, iterations)

    def _start(self, problem: ConeProblem, system: KKTSystem) -> _State:
        """Minimum of the program with a unit penalty for its slacks, moved into the cone."""
        algebra, conic = self.algebra, problem.limit[:, self.zero :]
        ones = self.algebra.unit.expand(len(conic), -1)
        identity = algebra.scaling(ones, ones)
        factor = system.factor(identity)
        squared = identity.map(torch.square)
        x, dual = self._solve(factor, squared, -problem.linear, problem.limit)
        slack = _inside(algebra, -dual[:, self.zero :])
        lifted = _inside(algebra, dual[:, self.zero :])
        dual = torch.cat([dual[:, : self.zero], lifted], dim=1)
        one = torch.ones_like(x[:, :1]).squeeze(1) if x.shape[1] else x.new_ones(len(x))
        return _State(x, slack, dual, one, one.clone())

    def _measure(self, problem: ConeProblem, state: _State) -> tuple[Tensor, Tensor]:
        """Relative residuals ``(B, 3)`` of ``x / tau``, and a status where a certificate holds."""
        tau = state.tau.unsqueeze(1)
        curve = times(problem.quadratic, state.x)
        push = transpose_times(problem.matrix, state.dual)
        reach = times(problem.matrix, state.x)
        full = torch.cat([torch.zeros_like(reach[:, : self.zero]), state.slack], dim=1)
        size_x, size_z = state.x.abs(), state.dual.abs()
        inner = (state.x * curve).sum(1)
        cost, bound = (problem.linear * state.x).sum(1), (problem.limit * state.dual).sum(1)
        stationarity = largest((curve + push + tau * problem.linear).abs(), 1)
        slope = largest((problem.linear * tau).abs(), 1)
        scale = torch.stack([largest(curve.abs(), 1), largest(push.abs(), 1), slope]).amax(0)
        scale_x = torch.maximum(
            largest(reach.abs(), 1), largest((full - tau * problem.limit).abs(), 1)
        )
        feasible = largest((reach + full - tau * problem.limit).abs(), 1)
        gap = (inner / state.tau + cost + bound).abs()
        scale_gap = (problem.linear * state.x).abs().sum(1) + (
            problem.limit * state.dual
        ).abs().sum(1)
        scale_gap = scale_gap + (inner / state.tau).abs()
        floor = _FLOOR * state.tau
        residuals = torch.stack(
            [
                stationarity / torch.maximum(scale, floor),
                feasible / torch.maximum(scale_x, floor),
                gap / torch.maximum(scale_gap, _FLOOR * floor),
            ],
            dim=1,
        )
        # Farkas: A' z = 0, b' z < 0. Recession: P x = 0, A x + s = 0, q' x < 0.
        inside = torch.minimum(
            self.algebra.margin(state.slack), self.algebra.margin(state.dual[:, self.zero :])
        )
        inside = inside >= -_FLOOR * torch.maximum(largest(size_x, 1), largest(size_z, 1))
        residuals = torch.where(inside.unsqueeze(1), residuals, torch.inf)
        infeasible = inside & (bound < 0) & (largest(push.abs(), 1) <= _CERTIFICATE * -bound)
        infeasible &= -bound > _CERTIFICATE * largest(size_z, 1)
        drift = torch.maximum(largest(curve.abs(), 1), largest((reach + full).abs(), 1))
        unbounded = inside & (cost < 0) & (drift <= _CERTIFICATE * -cost)
        unbounded &= -cost > _CERTIFICATE * largest(size_x, 1)
        certificate = torch.where(unbounded, int(Status.UNBOUNDED), 0)
        certificate = torch.where(infeasible, int(Status.INFEASIBLE), certificate)
        return torch.nan_to_num(residuals, torch.inf, torch.inf), certificate

    def _advance(self, problem: ConeProblem, system: KKTSystem, state: _State) -> _State:
        """One predictor-corrector step."""
        algebra, zero = self.algebra, self.zero
        tau, kappa = state.tau.unsqueeze(1), state.kappa.unsqueeze(1)
        conic_dual = state.dual[:, zero:]
        scaling = algebra.scaling(state.slack, conic_dual)
        inverse = scaling.map(torch.reciprocal)
        squared = scaling.map(torch.square)
        factor = system.factor(inverse.map(torch.square))
        scaled = scaling.apply(conic_dual)
        curve = times(problem.quadratic, state.x)
        residual_x = curve + transpose_times(problem.matrix, state.dual) + tau * problem.linear
        reach = times(problem.matrix, state.x) - tau * problem.limit
        residual_z = torch.cat([reach[:, :zero], reach[:, zero:] + state.slack], dim=1)
        inner = (state.x * curve).sum(1, keepdim=True) / tau
        cost = (problem.linear * state.x).sum(1, keepdim=True)
        bound = (problem.limit * state.dual).sum(1, keepdim=True)
        residual_tau = inner + cost + bound + kappa
        gap = (state.slack * conic_dual).sum(1, keepdim=True) + tau * kappa
        mu = gap / (algebra.degree + 1)
        base_x, base_z = self._solve(factor, squared, -problem.linear, problem.limit)
        point = state.x / tau
        apart = base_x - point
        lift = scaling.apply(base_z[:, zero:])
        denominator = (apart * times(problem.quadratic, apart)).sum(1, keepdim=True)
        denominator = -denominator - (lift * lift).sum(1, keepdim=True) - kappa / tau
        slope = 2 * times(problem.quadratic, point) + problem.linear

        def direction(keep: Tensor, target: Tensor, product: Tensor) -> tuple[Tensor, ...]:
            quotient = algebra.divide(scaled, target)
            shift = scaling.apply(quotient)
            right = torch.cat(
                [-keep * residual_z[:, :zero], shift - keep * residual_z[:, zero:]], 1
            )
            own_x, own_z = self._solve(factor, squared, -keep * residual_x, right)
            top = product / tau - keep * residual_tau
            top = top - (slope * own_x).sum(1, keepdim=True)
            top = top - (problem.limit * own_z).sum(1, keepdim=True)
            step_tau = top / denominator
            step_x, step_z = own_x + step_tau * base_x, own_z + step_tau * base_z
            step_s = -shift - squared.apply(step_z[:, zero:])
            step_kappa = -(product + kappa * step_tau) / tau
            return step_x, step_s, step_z, step_tau, step_kappa

        def length(steps: tuple[Tensor, ...]) -> Tensor:
            _, step_s, step_z, step_tau, step_kappa = steps
            longest = torch.minimum(
                algebra.longest_step(state.slack, step_s),
                algebra.longest_step(conic_dual, step_z[:, zero:]),
            )
            for value, step in ((tau, step_tau), (kappa, step_kappa)):
                ratio = torch.where(step < 0, value / -step, torch.inf).squeeze(1)
                longest = torch.minimum(longest, ratio)
            return longest.clamp_max(1.0).unsqueeze(1)

        square = algebra.product(scaled, scaled)
        affine = direction(torch.ones_like(tau), square, tau * kappa)
        centring = (1 - length(affine)) ** 3
        second = algebra.product(inverse.apply(affine[1]), scaling.apply(affine[2][:, zero:]))
        target = square + second - centring * mu * algebra.unit
        product = tau * kappa + affine[3] * affine[4] - centring * mu
        steps = direction(1 - centring, target, product)
        alpha = 0.99 * length(steps)
        alpha = torch.where(factor.usable.unsqueeze(1), alpha, torch.nan)
        parts = (state.x, state.slack, state.dual, tau, kappa)
        new = [value + alpha * step for value, step in zip(parts, steps, strict=True)]
        # The embedding is homogeneous: keep the larger of tau and kappa at 1.
        size = 1.0 / torch.maximum(new[3], new[4])
        x, slack, dual, tau, kappa = (value * size for value in new)
        return _State(x, slack, dual, tau.squeeze(1), kappa.squeeze(1))

    def _solve(
        self, factor: KKTFactor, squared: SpectralOperator, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The KKT system with iterative refinement."""
        problem, zero = factor.system, self.zero
        x, z = factor.solve(first, second)
        for _ in range(_REFINEMENTS):
            pull = transpose_times(problem.equality, z[:, :zero])
            pull = pull + transpose_times(problem.conic, z[:, zero:])
            rest_x = first - times(problem.quadratic, x) - pull
            rest_e = second[:, :zero] - times(problem.equality, x)
            rest_c = second[:, zero:] - times(problem.conic, x) + squared.apply(z[:, zero:])
            more_x, more_z = factor.solve(rest_x, torch.cat([rest_e, rest_c], dim=1))
            x, z = x + more_x, z + more_z
        return x, z

    def _polished(
        self, system: KKTSystem, final: list[Tensor], residuals: Tensor, status: Tensor
    ) -> tuple[_State, Tensor]:
        """Newton steps on slack and dual as the two projections of one vector.

        They take nearly solved instances to rounding error where the solution is regular, and are
        undone where they do not help. Where solution and multipliers vanish together, no iterate is
        nearly solved by its relative residual, and the steps end at the solution all the same.
        """
        problem, zero, algebra = self.scaled.problem, self.zero, self.algebra
        x, slack, dual = final
        one = torch.ones_like(residuals[:, 0])
        state = _State(x, slack, dual, one, one)
        finite = torch.cat(final, dim=1).isfinite().all(1)
        usable = (status <= int(Status.NOT_CONVERGED)) & finite
        usable = usable.unsqueeze(1)
        for _ in range(_POLISHES):
            vector = torch.where(usable, state.slack - state.dual[:, zero:], 1.0)
            at = torch.where(usable, state.x, 0.0)
            dual = torch.where(usable, state.dual, 0.0)
            projected = algebra.project(vector)
            dual = torch.cat([dual[:, :zero], projected - vector], dim=1)
            first = times(problem.quadratic, at) + transpose_times(problem.matrix, dual)
            reach = times(problem.matrix, at) - problem.limit
            second = torch.cat([reach[:, :zero], reach[:, zero:] + projected], dim=1)
            step_x, step_y, step_v = solve_projected(
                system,
                algebra.projection_derivative(vector),
                -first - problem.linear,
                -second,
                refinements=1,
            )
            vector = vector + step_v
            projected = algebra.project(vector)
            dual = torch.cat([dual[:, :zero] + step_y[:, :zero], projected - vector], dim=1)
            tried = _State(at + step_x, projected, dual, one, one)
            measured, _ = self._measure(problem, tried)
            better = usable.squeeze(1) & (measured.amax(1) < residuals.amax(1))
            state = _State(*(_pick(better, new, old) for new, old in _pairs(tried, state)))
            residuals = _pick(better, measured, residuals)
        return state, residuals

    def _recover(
        self, state: _State, residuals: Tensor, status: Tensor, iterations: Tensor
    ) -> ConeSolution:
        scaled, original = self.scaled, self.original
        good = (status == int(Status.SOLVED)).unsqueeze(1)
        beta, gamma = scaled.beta.unsqueeze(1), scaled.gamma.unsqueeze(1)
        x, dual = original.reduction.solution(
            scaled.columns * beta * state.x,
            scaled.rows * gamma * state.dual,
            -original.linear,
            original.limit,
        )
        slack = beta * state.slack / scaled.rows[:, self.zero :]
        equal = dual.new_zeros(len(dual), original.cones.zero)
        return ConeSolution(
            x=torch.where(good, x, torch.nan),
            slack=torch.where(good, torch.cat([equal, slack], dim=1), torch.nan),
            dual=torch.where(good, dual, torch.nan),
            status=status,
            iterations=iterations,
            residuals=residuals,
        )


def _inside(algebra: ConeAlgebra, vector: Tensor) -> Tensor:
    """The vector, moved along the unit of the algebra into the interior of the cone."""
    margin = algebra.margin(vector)
    lift = torch.where(margin < 1e-1, 1.0 - margin, 0.0)
    return vector + lift.unsqueeze(1) * algebra.unit


def _pick(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *(1,) * (new.dim() - 1)), new, old)


def _pairs(left: _State, right: _State) -> list[tuple[Tensor, Tensor]]:
    return [(getattr(left, field.name), getattr(right, field.name)) for field in fields(_State)]


def _finite(state: _State) -> Tensor:
    parts = [state.x, state.slack, state.dual, state.tau.unsqueeze(1), state.kappa.unsqueeze(1)]
    return torch.cat(parts, dim=1).isfinite().all(1)
