"""The command ``diffusion-dfl``: a verb, and what it takes."""

import sys
from importlib import import_module
from importlib.util import find_spec

from diffusion_dfl import __version__
from diffusion_dfl.extras import installing
from diffusion_dfl.suite.pipes import piped

#: Verb -> what it does; each is a module here with a ``main`` that reads ``sys.argv``.
VERBS = {
    "train": "train one run or a sweep",
    "table": "Table 1 from the run records, the paper's numbers beside ours",
    "status": "where a sweep stands, and the commands that complete it",
    "report": "tables, curves and every run in one page",
    "predict": "decisions of a finished run for new contexts",
    "mirror": "W&B or TensorBoard files of finished runs, made anew from what they left",
    "fetch": "download real data and check it",
}

# Of the extra `suite`; every verb needs them.
_NEEDED = ("hydra", "omegaconf", "jinja2", "matplotlib", "pyarrow", "filelock", "tqdm")


def main() -> int:
    """``diffusion-dfl VERB ...``; returns the exit code."""
    words = sys.argv[1:]
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if verb == "--version":
        print(f"diffusion-dfl {__version__}")
        return 0
    if verb not in VERBS:
        print(f"error: diffusion-dfl {verb}: there is no such verb\n{_usage()}", file=sys.stderr)
        return 2
    sys.argv[:2] = [f"{sys.argv[0]} {verb}"]  # Whose usage and commands say what was typed.
    return run(verb)


def run(verb: str) -> int:
    """What a verb does with ``sys.argv``; returns the exit code."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"error: diffusion-dfl {verb} needs {', '.join(missing)}; the library is installed without "
            f"its suite: `{installing('suite')}` adds it",
            file=sys.stderr,
        )
        return 2
    return piped(lambda: int(import_module(f"{__name__}.{verb}").main()))


def _usage() -> str:
    lines = [f"  {verb:10}{meaning}" for verb, meaning in VERBS.items()]
    return "\n".join(
        [
            "usage: diffusion-dfl VERB ...",
            "",
            *lines,
            "",
            "diffusion-dfl VERB --help says what a verb takes.",
        ]
    )
