"""Hinges as a program's functions state them, and the closed forms that they turn out to have."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_dfl.programs.general.hinge_terms import AffineHinge, Hinge
from diffusion_dfl.programs.general.trial import (
    TrialPoints,
    try_affine_in_decision,
    try_function,
)
from diffusion_dfl.programs.hooks import without_saved_tensor_hooks

_CURVED_HINGE = (
    "z, so that its hinge has no closed form and may not be convex: put a smooth part into `smooth`, or "
    "state what is curved as recourse (TwoStageProgram): a decision of its own in every scenario and an "
    "inequality that bounds it. For the tail of a convex loss: conditional_value_at_risk(convex=True)"
)


class ClosedForms:
    """The hinges of a program, and what is found out about them when they are first met, a device each.

    Args:
        terms: the hinges.
        num_outcomes, num_decisions: d_y and n, of the arguments of their functions.
    """

    def __init__(self, terms: Sequence[Hinge], num_outcomes: int, num_decisions: int) -> None:
        self.terms = tuple(terms)
        self._sizes = num_outcomes, num_decisions
        self._found: dict[torch.device, list[AffineHinge | None]] = {}
        #: How many arguments each has, once they were met.
        self.counts: list[int] = []

    def of(self, like: Tensor) -> list[AffineHinge | None]:
        """The closed form of every hinge, None of one that has none.

        Raises:
            TypeError, ValueError: at the first call, functions that are no hinges.
        """
        return self._found[like.device] if like.device in self._found else self._tried(like)

    def kinks(self, like: Tensor) -> list[AffineHinge | Hinge]:
        """Those of power 1, in closed form if they have one."""
        forms = zip(self.terms, self.of(like), strict=True)
        return [form or term for term, form in forms if term.power == 1]

    @property
    def columns(self) -> list[tuple[Hinge, slice]]:
        """Every hinge with its columns among the kinks; they are of power 1, others have none."""
        found, column = [], 0
        for term, count in zip(self.terms, self.counts, strict=True):
            found.append((term, slice(column, column + count)))
            column += count if term.power == 1 else 0
        return found

    def verify(self, scenarios: Tensor) -> None:
        """Renew forms whose tensors have changed; give up those that these scenarios contradict."""
        forms = self.of(scenarios)
        size = scenarios.abs().amax((1, 2)).nan_to_num(1.0, 1.0).unsqueeze(1)
        z = size * generic(scenarios, self._sizes[1])
        for index, (term, form) in enumerate(zip(self.terms, forms, strict=True)):
            if form is None or form.holds(term, scenarios, z):
                continue
            points = TrialPoints.of(scenarios, *self._sizes, None, None)
            again = AffineHinge.of(term, points.outcome, points.decision)
            usable = again is not None and again.holds(term, scenarios, z)
            forms[index] = again if usable else None

    @without_saved_tensor_hooks()
    def _tried(self, like: Tensor) -> list[AffineHinge | None]:
        forms, counts = [], []
        points = TrialPoints.of(like, *self._sizes, None, None)
        for index, term in enumerate(self.terms):
            name = f"the argument of hinges[{index}], {term.name}(y, z),"
            values = try_function(name, term.argument, points)
            try_affine_in_decision(name, term.values, points, _CURVED_HINGE)
            counts.append(1 if values.dim() == 1 else values.shape[1])
            coefficients = term.coefficients(values)
            if coefficients.dim() and len(coefficients) != counts[-1]:
                raise ValueError(
                    f"{name} has {counts[-1]} values, but {len(coefficients)} coefficients; give one "
                    "number for all, or one a value"
                )
            forms.append(AffineHinge.of(term, points.outcome, points.decision))
        self.counts = counts
        self._found[like.device] = forms
        return forms


def generic(like: Tensor, size: int) -> Tensor:
    """A fixed decision ``(n,)`` without zeros or ties."""
    steps = torch.arange(1, size + 1, dtype=like.dtype, device=like.device)
    return torch.cos(steps * steps)
