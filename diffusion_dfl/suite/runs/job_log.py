"""What a run says, kept in its directory too; without paths of the machine."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def without_paths(text: str) -> str:
    """Absolute paths shortened to their last part."""
    return re.sub(r"(?<![\w.<>/:])(?:/[\w.+-]+)+/([\w.+-]+)", r"\1", text)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_paths(super().format(record))


@contextmanager
def run_log(path: Path) -> Iterator[None]:
    """Append what is logged in the block to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Plain("%(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    package = logging.getLogger("diffusion_dfl")
    before = package.level
    package.addHandler(handler)
    if not package.isEnabledFor(logging.INFO):
        package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)
        handler.close()
