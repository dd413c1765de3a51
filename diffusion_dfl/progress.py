"""How far a training or an evaluation is: told to a function, or drawn on a terminal."""

import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Protocol, TextIO, TypeVar

# Seconds between two drawings, and characters of the bar itself.
_PAUSE, _BAR = 0.1, 24

#: Of what an epoch is told with, the first of these is on the line.
_SHOWN = ("validation_score", "loss")


Part = TypeVar("Part", bound=Sized)


class Listener(Protocol):
    """A function that is told how far a stage is.

    What it raises ends the stage; ``train(directory=...)`` then goes on from its last checkpoint.
    """

    def __call__(self, stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        """``done`` of at most ``total`` epochs of a stage, or rows of an evaluation.

        Args:
            stage: ``foundation``, ``fit`` or ``train``, with ``refit-`` before it in a second pass and
                the number of a fold behind it; ``evaluate``.
            values: of the epoch, as in ``Fitted.history``; empty for an evaluation.
        """


class TerminalBar:
    """A line that is written over, one a stage.

    Args:
        stream: a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._stage = self._text = ""
        self._drawn = self._begun = 0.0

    def __call__(self, stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self.close()
            self._stage, self._begun, self._drawn = stage, now, 0.0
        filled = _BAR * min(done, total) // max(total, 1)
        shown = [f"{name}={values[name]:.4g}" for name in _SHOWN if name in values]
        bar = "#" * filled + "." * (_BAR - filled)
        parts = [f"{stage:<10} {bar} {done}/{total}", f"{now - self._begun:.0f} s", *shown[:1]]
        self._text = "  ".join(parts)
        if now - self._drawn >= _PAUSE:
            self._drawn = now
            self._draw()
        if done >= total:
            self.close()

    def close(self) -> None:
        """End the line there is."""
        if self._stage:
            self._draw()
            self.stream.write("\n")
            self.stream.flush()
            self._stage = ""

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        self.stream.write("\r" + self._text[:width].ljust(width))
        self.stream.flush()


@contextmanager
def listening(progress: Listener | bool) -> Iterator[Listener | None]:
    """What is told within: the function that is given, the bar on a terminal for True, else None.

    Raises:
        TypeError: neither a function nor True or False.
    """
    if isinstance(progress, bool):
        stream = sys.stderr
        if not (progress and stream is not None and stream.isatty()):
            yield None
            return
        bar = TerminalBar(stream)
        try:
            yield bar
        finally:
            bar.close()
        return
    if not callable(progress):
        raise TypeError(
            f"progress={progress!r}: expected a function of (stage, done, total, values), True (a bar "
            "on a terminal) or False"
        )
    yield progress


def followed(stage: str, parts: Sequence[Part], progress: Listener | bool) -> Iterator[Part]:
    """The parts, one after the other; of each that was gone through, ``progress`` is told."""
    done, total = 0, sum(len(part) for part in parts)
    with listening(progress) as listener:
        for part in parts:
            yield part
            done += len(part)
            if listener is not None:
                listener(stage, done, total, {})
