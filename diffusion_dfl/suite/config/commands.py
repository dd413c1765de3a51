"""The command line that makes a run, from what names it."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from diffusion_dfl.suite.config.arguments import written
from diffusion_dfl.suite.config.compose import Identity


def identity_of_record(record: Mapping[str, Any]) -> Identity:
    """The identity in a summary.json.

    Raises:
        KeyError: the record lacks a part of it.
    """
    return Identity(**{field.name: record["identity"][field.name] for field in fields(Identity)})


def command(identity: Identity) -> str:
    """The command that makes a run; of a user's file the name alone is known."""
    words = [f"{key}={getattr(identity, key)}" for key in ("task", "model", "grad")]
    differs = dict(identity.differs)
    if differs.pop("data.source", None) is not None:
        words.append(f"data={identity.source}")
    if identity.scale != "laptop":
        words.append(f"scale={identity.scale}")
    if differs.get("data.file"):
        differs["data.file"] = str(differs["data.file"]).split(" sha256 ")[0]
    words += [f"{key}={_written(value)}" for key, value in differs.items()]
    return " ".join([start(), shlex.join([*words, f"seed={identity.seed}"])])


def start() -> str:
    """``python train.py``, as this process was called: from elsewhere its path stands before it, and a
    folder of the user's own choices behind it."""
    called, words = Path(sys.argv[0]), sys.argv[1:]
    script = Path("train.py")
    if called.name == "train.py":
        script = called
    elif called.parent.name == "scripts":
        script = called.parent.parent / "train.py"
    if script.resolve() == Path("train.py").resolve():
        script = Path("train.py")
    parts = ["python", str(script)]
    for place, word in enumerate(words[:-1]):
        if word in ("--config-dir", "-cd"):
            parts += ["--config-dir", words[place + 1]]
    return shlex.join(parts)


def _written(value: Any) -> str:
    """A value as Hydra's command line has it."""
    if isinstance(value, list):
        return f"[{','.join(_written(item) for item in value)}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return written(str(value))
