"""Output whose reader may go away, as ``head`` does."""

import os
import signal
import sys
from collections.abc import Callable


def piped(main: Callable[[], int]) -> int:
    """What ``main`` returns; a reader of its output that goes away ends it without a word."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer must not fail once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code
