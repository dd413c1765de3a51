"""What users type, made into what Hydra reads.

Stock Hydra refuses overrides on both sides of ``-m`` and does not know ``seed=0-9``. This module
puts the overrides in one row, turns ``seed=A-B`` into ``seed=range(A,B+1)``, names the defaults of a
bare call, and refuses model and grad pairs that make no sense before any run of a sweep starts.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import product, takewhile
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.own import refuse_hidden
from diffusion_dfl.suite.config.schema import target_of
from diffusion_dfl.suite.config.signature import attributes
from diffusion_dfl.suite.invocation import start
from diffusion_dfl.suite.places import CONFIG_DIRECTORY

#: What ``python train.py`` without arguments runs.
BARE = ("task=power", "data=simulated", "model=diffusion", "grad=score", "scale=smoke")


def _grads(told: Mapping[str, Any]) -> tuple[str, ...]:
    """The grads that make sense for a predictor that says this of itself."""
    if told["decides"]:
        return ("policy",)
    grads = [
        ("two_stage", True),
        ("cost_weighted", told["pathwise"] and not told["has_density"] and not told["closed_form"]),
        ("reparam", told["pathwise"] and not told["closed_form"]),
        ("score", told["has_density"]),
        ("score_path", told["has_path"]),
    ]
    return tuple(name for name, suits in grads if suits)


def _cells() -> dict[str, tuple[str, ...]]:
    """Model -> its grads; the plain models first, those in closed form last."""
    found = {}
    for path in (CONFIG_DIRECTORY / "model").glob("*.yaml"):
        target = target_of(path.read_text(encoding="utf-8"))
        if target is not None:
            told = attributes(target)
            grads = _grads(told)
            place = (told["closed_form"], told["decides"], len(grads), path.stem)
            found[place] = grads
    return {place[-1]: found[place] for place in sorted(found)}


#: The grads that make sense for a model, by what its class says of itself.
CELLS = _cells()

_GRADS = {name for grads in CELLS.values() for name in grads}

_VALUE_FLAGS = {
    "-c",
    "--cfg",
    "-p",
    "--package",
    "-cp",
    "--config-path",
    "-cn",
    "--config-name",
    "-cd",
    "--config-dir",
    "--experimental-rerun",
}
_INFO_TOPICS = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}
# As other languages write ranges, or half of one.
_SEED_LIKE = re.compile(r"^seed=(\d+)(\.\.+|:|-|to)\d*$")
_SEED_RANGE = re.compile(r"^seed=(\d+)-(\d+)$")

# What is chosen by the name of a file in conf/.
_GROUPS = sorted(path.name for path in CONFIG_DIRECTORY.iterdir() if path.is_dir())

# Names of files, folders and addresses, which may look like a number or a list to Hydra.
_PATHS = ("data.file", "data.root", "data.directory", "data.url", "output.root")


def normalise(arguments: Sequence[str]) -> list[str]:
    """Overrides first, then flags, with seed ranges in Hydra's own grammar.

    Args:
        arguments: as in ``sys.argv[1:]``.

    Raises:
        UserError: an empty seed range, a range without ``-m``, a flag without its value, a value that
            Hydra cannot read, or a pair of model and grad that makes no sense.
    """
    if not arguments:
        return list(BARE)
    overrides: list[str] = []
    flags: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        if _is_override(word) and rest and re.fullmatch(r"[\w.]+", rest[0]):
            meant = f"{word.lstrip('-')}={rest[0]}"
            raise UserError(f"{word} {rest[0]}: an override has no dashes: {meant}")
        flags.append(word)
        if word in _VALUE_FLAGS:
            if not rest:
                raise UserError(f"{word} needs a value, as in `{word} VALUE`")
            flags.append(rest.pop(0))
            if word in ("-cd", "--config-dir"):
                refuse_hidden(Path(flags[-1]), CONFIG_DIRECTORY)
        elif word.startswith("--config-dir="):
            refuse_hidden(Path(word.partition("=")[2]), CONFIG_DIRECTORY)
        elif word in ("-i", "--info") and rest and rest[0] in _INFO_TOPICS:
            flags.append(rest.pop(0))
    sweep = any(flag in ("-m", "--multirun") for flag in flags)
    if sweep and any(flag in ("-c", "--cfg") for flag in flags):
        raise UserError("--cfg shows the configuration of one run; leave out -m")
    for place in range(len(overrides)):
        _refuse_form(overrides, place, sweep)
    overrides = [_expand_seed(word, sweep) for word in overrides]
    refuse_bad_cells(overrides)
    return overrides + flags


def _is_override(word: str) -> bool:
    """Whether a flag is none of Hydra's but looks like a key."""
    known = {flag for action in get_args_parser()._actions for flag in action.option_strings}
    return word not in known and re.fullmatch(r"--?[a-z][a-z_.]+", word) is not None


def _refuse_form(words: Sequence[str], place: int, sweep: bool) -> None:
    """Refuse a word that is no ``key=value`` or cannot be read as one, several values of a key outside of a
    sweep, and a choice that is no name."""
    word = words[place]
    if word.startswith("~"):
        raise UserError(f"{word}: no key can be left out; give it a value, {word[1:]}=...")
    if re.match(r"\+?data\.url=.*(://[^/]*@|\?)", word):
        raise UserError(
            "data.url: what is typed is kept by the shell, Hydra and launchers, and this address lets in a "
            "user; put it into a variable, say LOADS_URL, and write data.url='${oc.env:LOADS_URL}'"
        )
    if "=" not in word:
        joined = " ".join(
            [*words[:place][-1:], *takewhile(lambda one: "=" not in one, words[place:])]
        )
        mend = (
            f"; if it is part of what stands before it: {taken_as_it_stands(joined)}"
            if place
            else ""
        )
        raise UserError(f"{word}: not of the form key=value, as in model=gaussian{mend}")
    try:
        override = _parsed(word)
        value = override.value()
    except HydraException:
        raise UserError(misread(word)) from None
    key = word.partition("=")[0]
    if override.is_sweep_override():
        if sweep:
            return
        one = f", or quote what is one value: {taken_as_it_stands(word)}" if "." in key else ""
        raise UserError(f"{word} names several runs; add -m to run them all{one}")
    if key in _GROUPS and not isinstance(value, str):
        several = "; several are run by a,b and -m" if isinstance(value, list) else ""
        raise UserError(
            f"{word}: there is no such choice; {key} takes a name, and `{start()} --help` lists those "
            f"there are{several}"
        )
    if key.lstrip("+") in _PATHS and not isinstance(value, str | None):
        kind = "number" if isinstance(value, int | float) else type(value).__name__
        raise UserError(f"{word}: Hydra reads a {kind}; quote the name: {taken_as_it_stands(word)}")


def _parsed(word: str) -> Override:
    (override,) = OverridesParser.create().parse_overrides([word])
    return override


def misread(word: str) -> str:
    """What to type in the place of an override that Hydra cannot read."""
    key, _, value = word.partition("=")
    try:
        _parsed(f"{key}=0")
    except HydraException:
        return f"{word}: {key} is no key that can be read; keys look like train.learning_rate"
    form = "; several values of one key: [a,b]" if value.startswith(("[", "{")) else ""
    return f"{word}: Hydra cannot read this value; quote it: {taken_as_it_stands(word)}{form}"


def taken_as_it_stands(word: str) -> str:
    """An override as it is typed in a shell so that its value is taken as it stands."""
    key, _, value = word.partition("=")
    return shlex.quote(f"{key}={quoted(value)}")


def quoted(text: str) -> str:
    """A text in the quotes of Hydra's grammar, within which it means nothing but itself."""
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no reference of OmegaConf's
    return QuotedString(plain, Quote.double).with_quotes()


def written(text: str) -> str:
    """A text as a value of Hydra's command line, in quotes where it would be read as something else."""
    try:
        value = _parsed(f"key={text}").value()
    except HydraException:
        return quoted(text)
    return text if str(value) == text and "${" not in text else quoted(text)


def _expand_seed(word: str, sweep: bool) -> str:
    match = _SEED_RANGE.match(word)
    if match is None:
        if _SEED_LIKE.match(word):
            raise UserError(
                f"{word}: write seed=0-9 for a range, seed=0,2,5 for a list, and add -m"
            )
        return word
    first, last = map(int, match.groups())
    if last < first:
        raise UserError(
            f"{word}: the range is empty, its end {last} comes before its start {first}; "
            f"write seed={last}-{first}"
        )
    if not sweep:
        raise UserError(f"{word} names {last - first + 1} runs; add -m to run them all")
    return f"seed=range({first},{last + 1})"


def refuse_bad_cells(overrides: Sequence[str]) -> None:
    """Raise UserError if any model and grad pair of a (swept) command makes no sense."""
    chosen = {"model": ["diffusion"], "grad": ["score"]}
    for word in overrides:
        key = word.split("=", 1)[0]
        if key not in chosen or "=" not in word:
            continue
        try:
            (override,) = OverridesParser.create().parse_overrides([word])
            value = override.value()
            if isinstance(value, Glob):
                chosen[key] = value.filter(list(CELLS) if key == "model" else sorted(_GRADS))
            elif override.is_sweep_override():
                chosen[key] = [str(value) for value in override.sweep_string_iterator()]
            else:
                chosen[key] = [str(value)]
        except HydraException:
            return  # Hydra will say what is wrong with it.
    typed = {word.split("=", 1)[0] for word in overrides}
    for model, grad in product(chosen["model"], chosen["grad"]):
        try:
            check_cell(model, grad)
        except UserError as error:
            if "grad" in typed:
                raise
            raise UserError(f"{error}. (grad=score is the default; add grad=...)") from None


def check_cell(model: str, grad: str) -> None:
    """Raise UserError for a known model with a grad that makes no sense for it."""
    if model in CELLS and grad in _GRADS and grad not in CELLS[model]:
        raise UserError(
            f"model={model} grad={grad} makes no sense: {_reason(model, grad)}. "
            "Pairs that do: "
            + "; ".join(f"model={name} grad={','.join(grads)}" for name, grads in CELLS.items())
        )


def _reason(model: str, grad: str) -> str:
    if model == "policy":
        return "a policy maps contexts to decisions and predicts no outcome"
    if grad == "policy":
        return "grad=policy trains a policy network, not a predictor"
    if grad == "cost_weighted":
        return "it is a baseline of point predictions"
    if grad == "score_path":
        return "only a diffusion samples along a path of steps"
    if "reparam" not in CELLS[model]:
        return "it is fitted in closed form and has no weights that a gradient could train"
    return "a point prediction has no density, so there is no score to estimate"
