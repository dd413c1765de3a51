"""Errors meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake the user can mend: one message that names the key, the value and the mend.

    The command line prints it without a traceback and exits with a non-zero code.
    """
