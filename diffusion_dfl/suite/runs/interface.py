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
from diffusion_dfl.files import DamagedFile, printable, read_json
from diffusion_dfl.programs import Program
from diffusion_dfl.suite.config.own import locate
from diffusion_dfl.suite.runs.trust import check_named
from diffusion_dfl.training.interface import Interface

SCHEMA = 1
NAME = "interface.json"


def interface_record(interface: Interface) -> dict[str, Any]:
    """What a run's interface.json holds."""
    return {
        "schema": SCHEMA,
        "features": interface.features,
        "decisions": interface.decisions,
        "pooled": interface.pooled,
        "program": _specification(interface.program),
    }


def read_interface(directory: Path, trust: Path | None = None) -> Interface | None:
    """A run's interface; None where only its task can make it.

    Args:
        directory: of the run.
        trust: folder of a user's own program.

    Raises:
        UserError: the file is damaged, or names what it may not.
    """
    file = directory / NAME
    try:
        told = read_json(file)
        features, decisions = _names(told["features"]), _names(told["decisions"])
        if told["program"] is None:
            return None
        program = _program(file, dict(told["program"]), trust)
        return Interface(features, decisions, told["pooled"] is True, program)
    except FileNotFoundError:
        return None
    except (DamagedFile, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({error}); repeat the run's command with force=true"
        ) from error


def _names(told: Any) -> tuple[str, ...]:
    if not isinstance(told, list) or not all(
        isinstance(name, str) and name == printable(name) for name in told
    ):
        raise TypeError("its names are no list of text")
    return tuple(told)


def _specification(program: Program) -> dict[str, Any] | None:
    """Class and numbers of a program that is made of plain numbers alone."""
    if not is_dataclass(program):
        return None
    values = {field.name: getattr(program, field.name) for field in fields(program) if field.init}
    for value in values.values():
        if not isinstance(value, bool | int | float | str) or value in (math.inf, -math.inf):
            return None
    kind = type(program)
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **values}


def _program(file: Path, told: dict[str, Any], trust: Path | None) -> Program:
    target = told.pop("_target_")
    check_named(file, "program", target, trust)
    if not all(isinstance(value, bool | int | float | str) for value in told.values()):
        raise TypeError("its program is not told by plain values")
    kind = locate("program", NAME, target)
    if not isinstance(kind, type) or not issubclass(kind, Program):
        raise TypeError(f"{target} is no Program")
    made = kind(**told)
    return made
