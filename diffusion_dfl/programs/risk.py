"""Conditional value at risk: the mean of the worst outcomes as a stochastic program.

With t a further decision (Rockafellar and Uryasev, 2000),

    CVaR_level(loss) = min_t  t + E (loss(y, z) - t)_+ / (1 - level),

where the minimising t is the value at risk, the ``level`` quantile of the loss. An affine loss makes this
a hinge; of a convex one, the excess is recourse: the smallest e >= 0 with e >= loss(y, z) - t.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_dfl.programs.general import Hinge, TorchProgram
from diffusion_dfl.programs.general.feasible_set import Limit
from diffusion_dfl.programs.general.hinge_terms import as_hinges
from diffusion_dfl.programs.general.program import takes_context
from diffusion_dfl.programs.integers import continuous
from diffusion_dfl.programs.numbers import Numbers, as_number, as_tensor
from diffusion_dfl.programs.two_stage import Recourse, TwoStageProgram
from diffusion_dfl.sizes import as_size


@continuous
def conditional_value_at_risk(
    loss: Callable[..., Tensor] | None,
    level: float,
    num_decisions: int,
    num_outcomes: int,
    smooth: Callable[..., Tensor] | None = None,
    risk_weight: float = 1.0,
    matrix: Numbers | None = None,
    limit: Limit | None = None,
    lower: Limit | None = None,
    upper: Limit | None = None,
    equality_matrix: Numbers | None = None,
    equality_value: Limit | None = None,
    inequality: Callable[[Tensor | None, Tensor], Tensor] | None = None,
    num_inequalities: int = 0,
    reference: Callable[[Any, Any], tuple[Any, Any, list[Any]]] | None = None,
    convex: bool = False,
    loss_hinges: Hinge | Sequence[Hinge] = (),
) -> TorchProgram:
    """The program ``min_z E smooth(y, z) + risk_weight CVaR_level(loss(y, z))``.

    Its decision has one more entry than the user's: the last is t, the value at risk. Functions
    and constraints are those of the user's own ``z (num_decisions,)``. ``cost(y, decision)`` is
    ``smooth + risk_weight (t + (loss - t)_+ / (1 - level))``: its mean over scenarios is an upper
    bound of the risk of their empirical distribution, tight at that distribution's own t.

    Args:
        loss: ``(y (d_y,), z (n,)) -> scalar``, or of ``(y, z, x)``, affine in z, e.g. ``-(y @ z)``; None if
            ``loss_hinges`` are all of it.
        level: in (0, 1), e.g. 0.95 for the mean of the worst twentieth.
        num_decisions: n, without t.
        num_outcomes: d_y.
        smooth: a further cost, as in :class:`~diffusion_dfl.programs.general.TorchProgram`.
        risk_weight: > 0.
        matrix, limit, lower, upper, equality_matrix, equality_value: as in
            :class:`~diffusion_dfl.programs.general.TorchProgram`.
        inequality, num_inequalities: likewise.
        reference: likewise; states the program in the decision with t.
        convex: whether ``loss`` is convex and twice differentiable rather than affine; the program is then
            a :class:`~diffusion_dfl.programs.TwoStageProgram`, which is not convolved.
        loss_hinges: kinks of the loss, added to it, as those of a newsvendor's; likewise. A hinge that
            takes the context needs one coefficient an argument.

    Raises:
        ValueError: level or risk_weight out of range, or parts that do not fit each other.
        TypeError: ``integer``, ``boolean`` or ``binary``, as for a :class:`TorchProgram`.
    """
    num_decisions = as_size("num_decisions", num_decisions)
    if not 0 < as_number("level", level) < 1:
        # At level 0 any t below all losses is optimal, and none is where the hinge is smoothed.
        raise ValueError(
            f"level={level} must be in (0, 1); for the mean of the loss pass it as smooth"
        )
    if not 0 < as_number("risk_weight", risk_weight) < float("inf"):
        raise ValueError(f"risk_weight={risk_weight} must be a positive number")

    hinges = as_hinges("loss_hinges", loss_hinges)
    if loss is not None and not callable(loss):
        raise TypeError(f"loss={loss!r} is no function of (y, z)")
    if loss is None and not hinges:
        raise ValueError("a tail needs a loss: pass loss, loss_hinges or both")

    def mean_part(y: Tensor, decision: Tensor, *x: Tensor) -> Tensor:
        value_at_risk = risk_weight * decision[-1]
        return value_at_risk if smooth is None else value_at_risk + smooth(y, decision[:-1], *x)

    def excess_loss(y: Tensor, decision: Tensor, *x: Tensor) -> Tensor:
        assert loss is not None
        return loss(y, decision[:-1], *x) - decision[-1]

    def own_inequality(x: Tensor | None, decision: Tensor) -> Tensor:
        assert inequality is not None
        return inequality(x, decision[:-1])

    parts: dict[str, Any] = {
        "num_decisions": num_decisions + 1,
        "num_outcomes": num_outcomes,
        "smooth": _of_context(mean_part, smooth),
        "matrix": _with_column("matrix", matrix),
        "limit": limit,
        "lower": _with_entry("lower", lower, num_decisions, -torch.inf),
        "upper": _with_entry("upper", upper, num_decisions, torch.inf),
        "equality_matrix": _with_column("equality_matrix", equality_matrix),
        "equality_value": equality_value,
        "inequality": None if inequality is None else own_inequality,
        "num_inequalities": num_inequalities,
        "reference": reference,
    }
    share = risk_weight / (1 - level)
    if convex or hinges:
        excess = _excess(loss, hinges, share, num_decisions, num_outcomes)
        return TwoStageProgram(**parts, recourse=excess)
    return TorchProgram(**parts, hinges=[Hinge(share, _of_context(excess_loss, loss))])


def _excess(
    loss: Callable[..., Tensor] | None,
    hinges: tuple[Hinge, ...],
    share: float,
    num_decisions: int,
    num_outcomes: int,
) -> Recourse:
    """``u = (e, v)`` with ``e >= loss + sum_k coefficient_k v_k^power - t`` and ``v_k >= a_k``."""
    counts = [_num_arguments(hinge, num_decisions, num_outcomes) for hinge in hinges]
    functions = [hinge.argument for hinge in hinges] + ([] if loss is None else [loss])
    wants = [takes_context(function) for function in functions]

    def of(function: Callable[..., Tensor], y: Tensor, z: Tensor, x: tuple[Tensor, ...]) -> Tensor:
        return function(y, z, *x) if takes_context(function) else function(y, z)

    def bounds(y: Tensor, decision: Tensor, u: Tensor, *x: Tensor) -> Tensor:
        z, value_at_risk, e, values = decision[:-1], decision[-1], u[0], u[1:]
        total = -value_at_risk - e
        if loss is not None:
            total = total + of(loss, y, z, x)
        arguments = []
        for hinge, value in zip(hinges, values.split(counts) if counts else (), strict=True):
            total = total + (hinge.coefficients(u) * value**hinge.power).sum()
            arguments.append(torch.atleast_1d(of(hinge.argument, y, z, x)) - value)
        return torch.cat([total.reshape(1), *arguments])

    def plain(y: Tensor, decision: Tensor, u: Tensor) -> Tensor:
        return bounds(y, decision, u)

    def contextual(y: Tensor, decision: Tensor, u: Tensor, x: Tensor) -> Tensor:
        return bounds(y, decision, u, x)

    return Recourse(
        1 + sum(counts),
        smooth=lambda y, decision, u: share * u[0],
        inequality=contextual if any(wants) else plain,
        lower=0.0,
    )


def _num_arguments(hinge: Hinge, num_decisions: int, num_outcomes: int) -> int:
    coefficients = torch.as_tensor(hinge.coefficient)
    if coefficients.dim():
        return len(coefficients)
    if takes_context(hinge.argument):
        raise ValueError(
            f"loss_hinges: {hinge.name} takes the context, so that its number of arguments is not known "
            "before; give it one coefficient an argument, as [4.0] or [4.0, 4.0]"
        )
    origin = torch.zeros(num_outcomes + num_decisions, dtype=torch.float64)
    return len(hinge.values(origin[:num_outcomes], origin[num_outcomes:]))


def _of_context(
    function: Callable[..., Tensor], given: Callable[..., Tensor] | None
) -> Callable[..., Tensor]:
    """The function with as many arguments as the user's own takes."""

    def plain(y: Tensor, decision: Tensor) -> Tensor:
        return function(y, decision)

    def contextual(y: Tensor, decision: Tensor, x: Tensor) -> Tensor:
        return function(y, decision, x)

    made = contextual if given is not None and takes_context(given) else plain
    made.__name__ = function.__name__
    return made


def _with_column(name: str, matrix: Numbers | None) -> Tensor | None:
    """A column of zeros for t."""
    if matrix is None:
        return None
    rows = as_tensor(name, matrix)
    if rows.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(rows.shape)}; expected (rows, num_decisions)")
    return torch.cat([rows, torch.zeros_like(rows[:, :1])], dim=1)


def _with_entry(name: str, bound: Limit | None, size: int, free: float) -> Limit | None:
    """A bound that leaves t free."""
    if bound is None:
        return None
    if callable(bound):
        return lambda x: _extended(name, bound(x), size, free)
    return _extended(name, as_tensor(name, bound), size, free)


def _extended(name: str, bound: Tensor, size: int, free: float) -> Tensor:
    if bound.shape not in ((), (1,), (size,)):
        raise ValueError(f"{name} has shape {tuple(bound.shape)}; expected ({size},) or one number")
    return torch.cat([bound.double().expand(size), bound.new_full((1,), free, dtype=torch.float64)])
