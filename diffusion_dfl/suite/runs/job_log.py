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


class _Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def records_kept() -> Iterator[list[logging.LogRecord]]:
    """What is logged in the block before there is a directory for it."""
    kept = _Kept()
    with _told(kept):
        yield kept.records


@contextmanager
def run_log(
    path: Path,
    held: Callable[[], bool],
    secrets: Sequence[str],
    before: Sequence[logging.LogRecord] = (),
) -> Iterator[None]:
    """Append what is logged in the block to a file, while it is this process's to write.

    Args:
        path: of the file.
        held: whether it is.
        secrets: texts that it is not to hold.
        before: what was logged before the block, which comes first.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.addFilter(lambda record: held())
    handler.setFormatter(_Plain(secrets))
    handler.setLevel(logging.INFO)
    try:
        for record in list(before):
            handler.handle(record)
        with _told(handler):
            yield
    finally:
        handler.close()


@contextmanager
def _told(handler: logging.Handler) -> Iterator[None]:
    """Give a handler what the package logs in the block."""
    package = logging.getLogger("diffusion_dfl")
    level = package.level
    package.addHandler(handler)
    if not package.isEnabledFor(logging.INFO):
        package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
