"""The command line that makes a run, from what names it."""

import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from diffusion_dfl.suite.config.arguments import written
from diffusion_dfl.suite.config.compose import Identity
from diffusion_dfl.suite.invocation import start


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


def _written(value: Any) -> str:
    """A value as Hydra's command line has it."""
    if isinstance(value, list):
        return f"[{','.join(_written(item) for item in value)}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return written(str(value))
