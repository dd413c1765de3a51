"""What a task is: a program, a data set, and the direction of its headline number."""

from dataclasses import dataclass

from diffusion_dfl.data import Dataset
from diffusion_dfl.programs import PowerProgram


@dataclass(frozen=True)
class Task:
    """A decision problem with data.

    Attributes:
        name: as in ``task=``.
        program: its mathematics.
        dataset: contexts and outcomes with their split.
        higher_is_better: direction of the metric called ``task``.
    """

    name: str
    program: PowerProgram
    dataset: Dataset
    higher_is_better: bool = False
