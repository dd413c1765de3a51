"""Writing files so that a killed process leaves either the old or the new one, and reading them so
that damage shows."""

import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from diffusion_dfl.errors import UserError

#: Bytes of the longest text that is read.
MOST_BYTES = 64 * 2**20

_PARTIAL = ".partial"
_MOST_LEVELS, _LARGE = 50, 10**18
_TOO_DEEP = f"it is nested more than {_MOST_LEVELS} levels deep"


class DamagedFile(UserError):
    """A file is not what was written: cut off, changed, empty or of another program."""


@contextmanager
def replacing(path: Path, desk: Path | None = None) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well.

    It stands beside ``path``, or in ``desk``, a folder of the same file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = (desk or path.parent) / (
        f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{_PARTIAL}"
    )
    try:
        yield partial
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_partials(folder: Path) -> None:
    """Remove what killed processes were writing; only for who holds the folder."""
    for partial in folder.glob(f".*{_PARTIAL}"):
        with suppress(OSError):
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """Indented JSON; NaN and infinities are refused, since readers disagree about them."""
    return json.dumps(value, indent=1, sort_keys=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """:func:`json_text` in a file."""
    write_text(path, json_text(value))


def check_plain(path: Path) -> None:
    """Refuse what is no file of its own: a link leads elsewhere, a pipe waits for ever.

    Raises:
        ValueError: it is none.
        FileNotFoundError: it is not there.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("it is no plain file")


def is_plain(path: Path) -> bool:
    """Whether there is a file, of its own."""
    try:
        check_plain(path)
    except (OSError, ValueError):
        return False
    return True


def printable(text: str, most: int = 300) -> str:
    """A stranger's text on one line: no control characters, no end beyond ``most`` characters."""
    line = "".join(one if one.isprintable() else "?" for one in text[: most + 1])
    return line if len(text) <= most else f"{line[:most]}..."


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """UTF-8 text of a file that somebody else may have written.

    Raises:
        ValueError: it is longer than ``most`` bytes, no file, or not UTF-8.
        OSError: it cannot be read.
    """
    check_plain(path)
    with path.open("rb") as handle:
        content = handle.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is longer than {most >> 20} MiB")
    return content.decode("utf-8")


def parse_json(text: str) -> Any:
    """JSON that somebody else may have written: finite numbers, at most 50 levels.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if "\\u" in text:  # Halves of characters, which nothing can write.
        json.dumps(value, ensure_ascii=False).encode()
    level = [value]
    for _ in range(_MOST_LEVELS):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, float) and not math.isfinite(one):
                raise ValueError("it holds NaN or a number too large to be one")
            elif isinstance(one, int) and abs(one) >= _LARGE:
                raise ValueError("it holds an integer of more than 18 digits")
        if not inner:
            return value
        level = inner
    raise ValueError(_TOO_DEEP)


def read_json(path: Path) -> Any:
    """Raises DamagedFile, with the file's name, for what is no JSON."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged: it is no JSON ({error})") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one for what is missing or damaged."""
    try:
        told = parse_json(read_text(path))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
