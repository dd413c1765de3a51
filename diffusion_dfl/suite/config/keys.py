"""What a component refuses, said in keys of the configuration.

A component names its own arguments: ``epochs=-1 must be an integer >= 0``. On the command line the key
is ``train.epochs``.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from diffusion_dfl.errors import UserError

# What a component names after its class, and the command line by a choice.
_CHOICES = {"Reparam": "grad=reparam"}


@contextmanager
def keyed(groups: Mapping[str, Collection[str]], before: str = "") -> Iterator[None]:
    """Around what a component does with values of the configuration.

    Args:
        groups: group -> its keys, as in ``{"train": ["epochs", ...]}``; the first that has a name counts.
        before: what is said before a message that names none of them.

    Raises:
        UserError: for a ValueError or TypeError, with keys in the place of arguments.
    """
    try:
        yield
    except UserError as error:
        raise UserError(with_keys(str(error), groups)) from error
    except (ValueError, TypeError) as error:
        said = with_keys(str(error), groups)
        raise UserError(said if said != str(error) else f"{before}{said}") from error


def with_keys(message: str, groups: Mapping[str, Collection[str]]) -> str:
    """``solver='cvxpy' cannot ...`` as ``decision.solver=cvxpy cannot ...``."""
    homes: dict[str, str] = {}
    for group, names in groups.items():
        homes.update({name: group for name in names if name not in homes})
    if not homes:
        return message
    known = "|".join(sorted(map(re.escape, homes), key=len, reverse=True))

    def keyed_word(found: re.Match[str]) -> str:
        name, value = found.group(1), found.group(2)
        home = f"{homes[name]}.{name}"
        if value is None:
            return home
        plain = value.strip("'")
        return f"{home}={plain.lower() if plain in ('True', 'False') else plain}"

    # A name alone is a word of the sentence, but for `set NAME above`.
    pattern = rf"(?<![\w.])({known})(?:=('[^']*'|[^\s;:,)]+)|(?= above))"
    said = re.sub(pattern, keyed_word, message)
    if said == message:
        return message
    return re.sub("|".join(_CHOICES), lambda found: _CHOICES[found.group()], said)
