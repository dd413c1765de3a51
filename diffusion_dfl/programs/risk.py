"""Conditional value at risk: the mean of the worst outcomes as a stochastic program.

With t a further decision (Rockafellar and Uryasev, 2000),

    CVaR_level(loss) = min_t  t + E (loss(y, z) - t)_+ / (1 - level),

where the minimising t is the value at risk, the ``level`` quantile of the loss.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion_dfl.programs.general import Hinge, TorchProgram
from diffusion_dfl.programs.general.feasible_set import Limit
from diffusion_dfl.programs.general.program import takes_context
from diffusion_dfl.programs.numbers import Numbers, as_tensor


def conditional_value_at_risk(
    loss: Callable[..., Tensor],
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
) -> TorchProgram:
    """The program ``min_z E smooth(y, z) + risk_weight CVaR_level(loss(y, z))``.

    Its decision has one more entry than the user's: the last is t, the value at risk. Functions
    and constraints are those of the user's own ``z (num_decisions,)``. ``cost(y, decision)`` is
    ``smooth + risk_weight (t + (loss - t)_+ / (1 - level))``: its mean over scenarios is an upper
    bound of the risk of their empirical distribution, tight at that distribution's own t.

    Args:
        loss: ``(y (d_y,), z (n,)) -> scalar``, or of ``(y, z, x)``, affine in z, e.g. ``-(y @ z)``.
        level: in (0, 1), e.g. 0.95 for the mean of the worst twentieth.
        num_decisions: n, without t.
        num_outcomes: d_y.
        smooth: a further cost, as in :class:`~diffusion_dfl.programs.general.TorchProgram`.
        risk_weight: > 0.
        matrix, limit, lower, upper, equality_matrix, equality_value: as in
            :class:`~diffusion_dfl.programs.general.TorchProgram`.
        inequality, num_inequalities: likewise.
        reference: likewise; states the program in the decision with t.

    Raises:
        ValueError: level or risk_weight out of range, or parts that do not fit each other.
    """
    if not 0 < level < 1:
        # At level 0 any t below all losses is optimal, and none is where the hinge is smoothed.
        raise ValueError(
            f"level={level} must be in (0, 1); for the mean of the loss pass it as smooth"
        )
    if not 0 < risk_weight < float("inf"):
        raise ValueError(f"risk_weight={risk_weight} must be a positive number")

    def mean_part(y: Tensor, decision: Tensor, *x: Tensor) -> Tensor:
        value_at_risk = risk_weight * decision[-1]
        return value_at_risk if smooth is None else value_at_risk + smooth(y, decision[:-1], *x)

    def excess_loss(y: Tensor, decision: Tensor, *x: Tensor) -> Tensor:
        return loss(y, decision[:-1], *x) - decision[-1]

    def own_inequality(x: Tensor | None, decision: Tensor) -> Tensor:
        assert inequality is not None
        return inequality(x, decision[:-1])

    return TorchProgram(
        num_decisions + 1,
        num_outcomes,
        smooth=_of_context(mean_part, smooth),
        hinges=[Hinge(risk_weight / (1 - level), _of_context(excess_loss, loss))],
        matrix=_with_column("matrix", matrix),
        limit=limit,
        lower=_with_entry("lower", lower, num_decisions, -torch.inf),
        upper=_with_entry("upper", upper, num_decisions, torch.inf),
        equality_matrix=_with_column("equality_matrix", equality_matrix),
        equality_value=equality_value,
        inequality=None if inequality is None else own_inequality,
        num_inequalities=num_inequalities,
        reference=reference,
    )


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
