"""Errors meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake the user can mend: one message that names the key, the value and the mend.

    The command line prints it without a traceback and exits with a non-zero code.
    """


class RunFailed(RuntimeError):
    """A run that began and cannot go on, for reasons its message tells; no fault of the program.

    The command line prints it in one line and goes on with the other runs of a sweep; the traceback is
    in the run's status.json.
    """


class WorkerLost(RunFailed):
    """The process of a run died, as often as a launcher began it again; the run itself told nothing."""
