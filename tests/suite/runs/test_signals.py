"""A scheduler's signal ends a run as Ctrl-C does."""

import os
import signal
import threading

import pytest

from diffusion_dfl.suite.runs.signals import Stopped, stoppable


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_stops_the_block_and_leaves_no_handler(name: str) -> None:
    number = getattr(signal, name)

    def wait() -> None:
        with stoppable():
            os.kill(os.getpid(), number)
            signal.pause()

    with pytest.raises(Stopped, match=name) as stop:
        wait()
    assert stop.value.signum == number
    assert isinstance(stop.value, KeyboardInterrupt)
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_launchers_own_handler_stays() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_other_threads_are_left_alone() -> None:
    entered: list[bool] = []

    def work() -> None:
        with stoppable():
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [True]
