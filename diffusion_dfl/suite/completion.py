"""Shell completion: Hydra's own, made to read the command lines that :mod:`.config.arguments` takes.

Hydra's query takes neither overrides on both sides of ``-m`` nor ``seed=0-9``, and tells its trouble
in the middle of the line that is being typed.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr

from diffusion_dfl.errors import UserError

_FLAGS = ("-sc", "--shell-completion")
_SHELLS = {"bash", "fish", "zsh"}
_SWEEP = ("-m", "--multirun")
_PROGRAM = re.compile(r"\s*(?:\S*python[\d.]*\s+)?\S+(?:\s+|$)")


@contextmanager
def completing(arguments: Sequence[str]) -> Iterator[None]:
    """Around Hydra: in answer to a shell, a line it can read, and no word on stderr.

    Anything but ``-sc query=SHELL`` passes untouched.

    Raises:
        UserError: ``-sc`` without what to do, or for a shell Hydra does not know.
    """
    asked = any(flag in arguments for flag in _FLAGS)
    parts = [word.partition("=") for word in arguments]
    verbs = {verb: shell for verb, _, shell in parts if verb in ("install", "uninstall", "query")}
    if asked and (len(verbs) != 1 or not set(verbs.values()) <= _SHELLS):
        known = ", ".join(sorted(_SHELLS))
        raise UserError(f"-sc needs what to do for which shell, as in `-sc install=bash` ({known})")
    if not asked or "query" not in verbs:
        yield
        return
    os.environ["COMP_LINE"] = readable(os.environ.get("COMP_LINE", ""))
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        try:
            yield
        except Exception:
            sys.stdout.flush()  # No completion for this line; Enter will say what is wrong with it.


def readable(line: str) -> str:
    """A line with the same completions that Hydra can parse: the program, ``-m``, one-valued overrides
    and the word at its end.

    >>> readable("python train.py task=power -m seed=0-9 mod")
    'python train.py -m task=power mod'
    """
    start = _PROGRAM.match(line)
    if start is None:
        return line
    words = line[start.end() :].split()
    last = "" if not words or line[-1].isspace() else words.pop()
    sweep = ["-m"] if any(word in _SWEEP for word in words) else []
    # Several values of a key choose nothing among the completions of another.
    kept = [word for word in words if re.fullmatch(r"[+~]?[\w./@]+=[\w./@+-]*", word)]
    kept = [word for word in kept if not re.match(r"seed=\d+-", word)]
    return " ".join([line[: start.end()].rstrip(), *sweep, *kept, last])
