"""What a page may say of a record: no folder of the machine, no user, no secret.

A page is made to be sent on; the records it is made from have been written on somebody's machine.
"""

import re
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any

_WITHHELD = re.compile(
    r"(^|[._])(token|secret|password|passwd|credential|credentials|api_?key|user|username|host|hostname"
    r"|home|cwd)$",
    re.IGNORECASE,
)
_ROOT = r"(?:/|~|[A-Za-z]:[\\/]|\\\\)"
# The whole text, a quoted part of it, or a word of it that has a folder in it.
_WHOLE = re.compile(rf"{_ROOT}[^\n]*")
_QUOTED = re.compile(rf"(?<=['\"]){_ROOT}[^'\"\n]*(?=['\"])")
_WORD = re.compile(r"(?<![\w.:/~\\-])(?:~|[A-Za-z]:)?(?:[\\/][^\s\\/'\":,;()<>\[\]]+){2,}[\\/]?")
_URL = re.compile(r"\b([a-z][a-z0-9+.-]*)://(?:[^\s/@]*@)?([^\s?#'\"]*)[^\s'\"]*")

#: What stands for a folder.
PATH = "(path)"


def redact(text: str) -> str:
    """The text without what only the machine it was written on should know.

    Paths are cut to ``…/name.suffix`` where they name a file in a folder, else to ``(path)``; URLs
    lose user, query and fragment.
    """
    text = _URL.sub(r"\1://\2", text)
    if "://" not in text and _WHOLE.fullmatch(text.strip()):
        return _short(text.strip())
    text = _QUOTED.sub(lambda found: _short(found[0]), text)
    return _WORD.sub(lambda found: _short(found[0]), text)


def cleaned(value: Any) -> Any:
    """A value of a record, its strings redacted and what is named as a secret withheld."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            redact(str(key)): "(withheld)"
            if item is not None and _WITHHELD.search(str(key))
            else cleaned(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in value]
    return value


def _short(path: str) -> str:
    parts = PureWindowsPath(path)  # Takes both kinds of slashes.
    # Two names may be /home/somebody.
    return f"…/{parts.name}" if parts.suffix and len(parts.parts) > 3 else PATH
