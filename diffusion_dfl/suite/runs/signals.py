"""Stopping on a signal: a scheduler's notice ends a run as Ctrl-C does, resumable."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = ("SIGTERM", "SIGUSR1")


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop.

    Attributes:
        signum: its number; the exit code is 128 more.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 raise :class:`Stopped` in the block.

    Handlers that are there already (a launcher's, that requeues the job) stay, and outside the main
    thread nothing can be set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
