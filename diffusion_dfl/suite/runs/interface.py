"""interface.json: what goes into a trained predictor and what comes out, for use without the data.

    {schema, features, decisions, pooled, program}

``program`` names the class of a program that is told by plain numbers, with them; null for one that
is not, such as a user's functions, which its task makes again.
"""

import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from diffusion_dfl.errors import UserError
from diffusion_dfl.files import DamagedFile, read_json, write_json
from diffusion_dfl.programs import Program
from diffusion_dfl.suite.config.own import locate
from diffusion_dfl.training.interface import Interface

SCHEMA = 1
NAME = "interface.json"


def write_interface(directory: Path, interface: Interface) -> None:
    """Write a run's interface.json."""
    write_json(
        directory / NAME,
        {
            "schema": SCHEMA,
            "features": interface.features,
            "decisions": interface.decisions,
            "pooled": interface.pooled,
            "program": _told(interface.program),
        },
    )


def read_interface(directory: Path) -> Interface | None:
    """A run's interface; None where only its task can make it.

    Raises:
        UserError: the file is damaged, or of a class that is not there.
    """
    try:
        told = read_json(directory / NAME)
        features, decisions = tuple(told["features"]), tuple(told["decisions"])
        if told["program"] is None:
            return None
        program = _made(dict(told["program"]))
        return Interface(features, decisions, bool(told["pooled"]), program)
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
