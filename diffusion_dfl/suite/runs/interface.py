"""interface.json: what goes into a trained predictor and what comes out, for use without the data.

    {schema, features, decisions, pooled, program}

``program`` names the class of a program that is told by plain numbers, with them; null for one that
is not, such as a user's functions, which its task makes again.
"""

import math
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import DamagedFile, read_json, write_json
from diffusion_dfl.programs import Program
from diffusion_dfl.suite.config.own import locate
from diffusion_dfl.tasks import Task

SCHEMA = 1
NAME = "interface.json"


@dataclass(frozen=True)
class Interface:
    """What a run's decisions are made of.

    Attributes:
        features: names of the d_x contexts, in the predictor's order.
        decisions: names of the n decisions.
        pooled: whether one decision serves all contexts.
        program: the decision problem; None where only the task can make it.
    """

    features: tuple[str, ...]
    decisions: tuple[str, ...]
    pooled: bool
    program: Program | None

    @classmethod
    def of(cls, task: Task) -> "Interface":
        """That of a task."""
        return cls(task.dataset.feature_names, task.decision_names, task.pooled, task.program)


def write_interface(directory: Path, interface: Interface) -> None:
    """Write a run's interface.json."""
    program = interface.program
    write_json(
        directory / NAME,
        {
            "schema": SCHEMA,
            "features": interface.features,
            "decisions": interface.decisions,
            "pooled": interface.pooled,
            "program": None if program is None else _told(program),
        },
    )


def read_interface(directory: Path) -> Interface | None:
    """A run's interface; None for a run of a version that wrote none.

    Raises:
        UserError: the file is damaged, or of a class that is not there.
    """
    try:
        told = read_json(directory / NAME)
        program = None if told["program"] is None else _made(dict(told["program"]))
        return Interface(
            tuple(told["features"]), tuple(told["decisions"]), bool(told["pooled"]), program
        )
    except FileNotFoundError:
        return None
    except (DamagedFile, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{directory / NAME} cannot be read ({error}); repeat the run's command with force=true"
        ) from error


def _told(program: Program) -> dict[str, Any] | None:
    """Class and numbers of a program that is made of plain numbers alone."""
    if not is_dataclass(program):
        return None
    values = {field.name: getattr(program, field.name) for field in fields(program) if field.init}
    for value in values.values():
        if not isinstance(value, bool | int | float | str) or value in (math.inf, -math.inf):
            return None
    kind = type(program)
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **values}


def _made(told: dict[str, Any]) -> Program:
    made = locate("program", "interface.json", told.pop("_target_"))(**told)
    if not isinstance(made, Program):
        raise TypeError(f"{type(made).__name__} is no Program")
    return made
