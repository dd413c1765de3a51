"""What a run says, kept in its directory too; without paths of the machine."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def without_paths(text: str, secrets: Sequence[str] = ()) -> str:
    """Absolute paths shortened to their last part, and secrets left out."""
    for secret in secrets:
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return re.sub(r"(?<![\w.<>/:])(?:/[\w.+-]+)+/([\w.+-]+)", r"\1", text)


class _Plain(logging.Formatter):
    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__("%(levelname)s %(message)s")
        self.secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return without_paths(super().format(record), self.secrets)


@contextmanager
def run_log(path: Path, held: Callable[[], bool], secrets: Sequence[str]) -> Iterator[None]:
    """Append what is logged in the block to a file, while it is this process's to write.

    Args:
        path: of the file.
        held: whether it is.
        secrets: texts that it is not to hold.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.addFilter(lambda record: held())
    handler.setFormatter(_Plain(secrets))
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
