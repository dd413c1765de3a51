"""Pages whose every number is filled in: a text names it as ``{key:format}``.

A key that is not there is an error, so that no result is typed by hand. What a sentence claims stands before
it as ``{?key < key}``, of keys and numbers: a page whose claim no longer holds is not written.
"""

import re
import string
from collections.abc import Mapping
from typing import Any

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.places import REPOSITORY

PAGES = REPOSITORY / "docs"
#: What they are made of, by the same names.
TEMPLATES = PAGES / "templates"


def render(page: str, values: Mapping[str, Any], text: str | None = None) -> str:
    """A page of docs/ with its numbers, without its claims.

    Args:
        page: its name; the text is docs/templates/<page>.md unless it is given.
        values: key -> number, or words.
        text: in place of the file's.

    Raises:
        UserError: a key without a number, or a claim that does not hold.
    """
    if text is None:
        text = (TEMPLATES / f"{page}.md").read_text(encoding="utf-8")
    parts = []
    try:
        for literal, key, form, _ in string.Formatter().parse(text):
            parts.append(literal)
            if key is not None and key.startswith("?"):
                _hold(page, key.removeprefix("?").strip(), values)
            elif key is not None:
                parts.append(format(_value(page, key, values), form or ""))
    except (ValueError, TypeError) as error:
        raise UserError(f"{page}: the text or a format in it is damaged: {error}") from error
    return "".join(parts)


def _hold(page: str, claim: str, values: Mapping[str, Any]) -> None:
    """``a < b > c``: every neighbour as the sign between them says."""
    words = re.split(r"\s*([<>])\s*", claim)
    signs = words[1::2]
    if not signs:
        raise UserError(f"{page}: {claim} is no claim; write {{?key < key}} or {{?key > number}}")
    found = [float(word if _is_number(word) else _value(page, word, values)) for word in words[::2]]
    for left, sign, right in zip(found, signs, found[1:], strict=False):
        if not (left < right if sign == "<" else left > right):
            raise UserError(
                f"{page}: {claim} does not hold ({', '.join(f'{value:.6g}' for value in found)}); "
                f"write the sentence that stands on it anew, in docs/templates/{page}.md"
            )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _value(page: str, key: str, values: Mapping[str, Any]) -> Any:
    if key not in values:
        near = [name for name in values if name.split(".")[0] == key.split(".")[0]]
        raise UserError(f"{page}: no number for {key}; there are {', '.join(near[:20])}")
    return values[key]
