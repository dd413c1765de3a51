"""What goes into a trained predictor and what comes out, for use without the data."""

from dataclasses import dataclass

from diffusion_dfl.programs import Program
from diffusion_dfl.tasks import Task


@dataclass(frozen=True)
class Interface:
    """What decisions are made of.

    Attributes:
        features: names of the d_x contexts, in the predictor's order.
        decisions: names of the n decisions.
        pooled: whether one decision serves all contexts.
        program: the decision problem.
    """

    features: tuple[str, ...]
    decisions: tuple[str, ...]
    pooled: bool
    program: Program

    @classmethod
    def of(cls, task: Task) -> "Interface":
        """That of a task."""
        return cls(task.dataset.feature_names, task.decision_names, task.pooled, task.program)
