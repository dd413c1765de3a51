"""Integers that count something: layers, scenarios, rows."""

from operator import index
from typing import Any


def as_size(name: str, value: Any, least: int = 1) -> int:
    """The value as an int; integers of numpy and torch count, floats do not.

    Raises:
        TypeError: something that is no integer, by the name of the argument.
        ValueError: less than ``least``.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        size = index(value)
    except TypeError as error:
        raise TypeError(
            f"{name}={value!r} is {type(value).__name__}; it must be an integer: int(...) makes one"
        ) from error
    if size < least:
        raise ValueError(f"{name}={size} must be an integer >= {least}")
    return size


def check_sizes(least: int = 1, **sizes: Any) -> None:
    """Refuse arguments, by name, that are no integers of at least ``least``, as :func:`as_size` does."""
    for name, value in sizes.items():
        as_size(name, value, least)
