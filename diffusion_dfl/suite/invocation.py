"""How the training command is written, to whom a message names it."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from diffusion_dfl.suite.places import INSTALLED

# Scripts of a clone that are not called as their verb is.
_SCRIPTS = {"table": "make_tables", "report": "make_report"}


def start() -> str:
    """``python train.py`` or ``diffusion-dfl train``, as this process was called: from elsewhere the
    script's path stands before it, and a folder of the user's own choices behind it."""
    called, words = Path(sys.argv[0]), sys.argv[1:]
    script = Path("train.py")
    if called.name.startswith("diffusion-dfl") or INSTALLED:
        return shlex.join(["diffusion-dfl", "train", *_folder(words)])
    if called.name == "train.py":
        script = called
    elif called.parent.name == "scripts":
        script = called.parent.parent / "train.py"
    if script.resolve() == Path("train.py").resolve():
        script = Path("train.py")
    return shlex.join(["python", str(script), *_folder(words)])


def verb(name: str) -> str:
    """A verb's command, likewise."""
    command = start()
    if command.startswith("diffusion-dfl"):
        return f"diffusion-dfl {name}"
    script = Path(shlex.split(command)[1]).parent / "scripts" / f"{_SCRIPTS.get(name, name)}.py"
    return shlex.join(["python", str(script)])


def _folder(words: Sequence[str]) -> list[str]:
    """``--config-dir FOLDER`` if it was given."""
    parts = []
    for place, word in enumerate(words[:-1]):
        if word in ("--config-dir", "-cd"):
            parts += ["--config-dir", words[place + 1]]
    return parts
