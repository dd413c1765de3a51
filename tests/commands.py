"""The commands that README.md, its neighbours and the pages of docs/ print, and how the tests run each of them.

Another page, another command: `python train.py ...` and `make ...` need nothing here, every other
command needs a line in :data:`SMALL` (or, if no test can run it, in :data:`NOT_RUN`).
"""

import re
import shlex
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion_dfl.suite.config.arguments import normalise

ROOT = Path(__file__).resolve().parents[1]

#: What a line of a code block begins with if it is a command of the shell.
VERBS = (
    "python", "make", "pip", "diffusion-dfl", "source", "git", "cd", "sbatch", "tensorboard", "eval", "for", "export",
)  # fmt: skip

# How the training command is called, in a clone and installed.
_TRAIN = r"python train\.py|diffusion-dfl train"

#: Languages of fenced blocks that hold commands.
SHELLS = ("", "sh", "bash", "shell", "console")


@dataclass(frozen=True)
class Block:
    """A code block: its language, empty for an indented one, and its text without the indent."""

    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command as a page prints it."""

    page: str
    text: str

    @property
    def is_training(self) -> bool:
        return re.search(rf"\b(?:{_TRAIN})\b(?! -sc)", self.text) is not None

    @property
    def words(self) -> list[str]:
        """Words behind the training command, also where a loop of the shell stands around it."""
        inner = re.sub(r"seed=\$\w+", "seed=0", re.split(_TRAIN, self.text, maxsplit=1)[1])
        # Not within quotes, in which commands of the docs have none of these.
        return shlex.split(re.split(r"[&|;>]", inner, maxsplit=1)[0])

    @property
    def target(self) -> str | None:
        """The target of a ``make`` command."""
        match = re.fullmatch(r"make ([\w-]+)", self.text)
        return match.group(1) if match else None


@dataclass(frozen=True)
class Transcript:
    """A command with its output below, where ``...`` stands for any text."""

    page: str
    text: str
    output: str


@dataclass(frozen=True)
class Small:
    """How a command is run in the tests, in a copy of the checkout.

    Attributes:
        more: words put behind it that make it small; of an option given twice the last counts.
        instead: the command that is run in its place, where words behind it cannot make it small.
        slow: whether it takes more than three seconds.
        real_data: whether it needs the files of ``DIFFUSION_DFL_DATA``.
        before: what it needs to be there: ``weights`` of the two-stage diffusion (untrained ones), or
            the ``run`` it names (a small one) and contexts for it.
        codes: exit codes it may end with.
    """

    more: str = ""
    instead: str = ""
    slow: bool = True
    real_data: bool = False
    before: str = ""
    codes: tuple[int, ...] = (0,)


_SCORE_RUN = "results/runs/laptop/power/gaussian-score/seed-0"
_REPARAM_RUN = "results/runs/laptop/power/gaussian-reparam/seed-0"

#: Commands as printed -> how they are run. ``make X`` is run as printed unless it stands here.
SMALL: dict[str, Small] = {
    "make help": Small(slow=False),
    "make figures": Small(instead="python scripts/make_figures.py figure4 figure6"),
    "python scripts/status.py --missing --own --each task=synthetic,power,portfolio seed=0-9 "
    "> commands.txt": Small(),
    "python scripts/status.py --started": Small(),
    "python scripts/status.py task=power seed=0-4": Small(),
    "python scripts/wandb_sync.py --dashboard --entity my-team": Small("--dry-run"),
    # Minutes at any size: their options are read, and no more.
    "python scripts/benchmark.py sweeps": Small("--help"),
    "python scripts/benchmark.py load": Small("--runs 20 --rows 1000"),
    "python scripts/benchmark.py files": Small("--output build"),
    "python scripts/feature_study.py --seeds 5": Small("--help"),
    "python scripts/make_study.py pays": Small("--help"),
    "python scripts/make_study.py pays --show --page": Small(),
    # Its goals are for the paper's sizes; missing one is code 1.
    "python scripts/benchmark.py memory": Small("--width 8 --steps 12 --timesteps 1", codes=(1,)),
    # Its goal is a ratio of times, of which one turn says nothing.
    "python scripts/benchmark.py training --data real": Small(
        "--data simulated --scale smoke --repeats 1", codes=(0, 1)
    ),
    "python scripts/fetch_data.py": Small('--directory "$DIFFUSION_DFL_DATA"', real_data=True),
    "python scripts/fetch_data.py --restaurant": Small(
        '--directory "$DIFFUSION_DFL_DATA"', real_data=True
    ),
    "python scripts/fetch_data.py --prices": Small(
        '--directory "$DIFFUSION_DFL_DATA"', real_data=True
    ),
    "python scripts/gradient_lab.py variance": Small(
        "--draws 20 --days 1 --scenarios 2 --timesteps 2", real_data=True, before="weights"
    ),
    "python scripts/gradient_lab.py power": Small(
        "--draws 2 --truth 2 --days 2 --axes curvature", real_data=True, before="weights"
    ),
    "python scripts/gradient_lab.py bias": Small(
        "--rows 10 --sizes 20 --draws 3 --days 1 --scenarios 5", real_data=True, before="weights"
    ),
    "python scripts/sampler_variance.py": Small(),
    f"python scripts/predict.py {_SCORE_RUN} --columns": Small(before="run"),
    f"python scripts/predict.py {_SCORE_RUN} --template contexts.csv": Small(before="run"),
    f"python scripts/predict.py {_SCORE_RUN} contexts.csv --output decisions.csv": Small(
        before="run"
    ),
    f"python scripts/predict.py {_REPARAM_RUN} --template contexts.csv": Small(before="run"),
    f"python scripts/predict.py {_REPARAM_RUN} contexts.csv --output decisions.csv": Small(
        before="run"
    ),
    f"python scripts/mirror.py {_SCORE_RUN} --to wandb": Small(before="run"),
    "diffusion-dfl table": Small(),
    f"diffusion-dfl predict {_REPARAM_RUN} --columns": Small(before="run"),
    'eval "$(python train.py -sc install=bash)"': Small(),
    "python train.py -sc install=fish | source": Small(instead="python train.py -sc install=fish"),
    "python scripts/make_tables.py --released": Small(),
    "python scripts/make_tables.py --task power": Small(),
    "make publish": Small(instead="python scripts/publish.py"),
    "make check-records": Small(instead="python scripts/check_records.py"),
    "python scripts/publish.py --task NAME": Small(
        instead="python scripts/publish.py --task power"
    ),
    "python scripts/publish.py --task NAME --retire": Small(
        instead="python scripts/publish.py --task power --retire"
    ),
    "python scripts/publish.py --task inventory --variants": Small(),
    "python scripts/publish.py --task restaurant --variants": Small(),
    "python scripts/make_sensitivity.py --task restaurant": Small(),
    # It says what runs it wants; there are none among the committed records.
    "python scripts/make_sensitivity.py --task inventory": Small(codes=(1,)),
    "python scripts/make_ablations.py --commands": Small(),
    "python scripts/make_figures.py --list": Small(),
    "python scripts/make_search_table.py": Small(),
    "python scripts/search.py task=power model=diffusion --show": Small(real_data=True),
}

_OWN = "tests/own/test_extend_page.py"
_SEARCH = "tests/suite/search/test_search_script.py"

#: Commands that no test of the docs runs -> the test that runs what they stand for, or why none can.
NOT_RUN: dict[str, str] = {
    "make setup": ".ci/run",
    "make demo": ".ci/run",
    "make test": ".ci/run",
    "make test-slow": ".ci/run",
    "make test-cuda": "tests/devices/test_cuda.py",
    "make lint": ".ci/run",
    "make fetch": "tests/data/test_download.py",
    "make docs": "tests/test_docs_site.py",
    "make docs VERSION=0.2.0": "tests/test_docs_site.py",
    "make chaos": "tests/end_to_end/test_chaos.py",
    "make search": _SEARCH,
    "make search task=power model=diffusion": _SEARCH,
    "python scripts/search.py task=power model=diffusion hydra/launcher=dask --workers 8": _SEARCH,
    "python scripts/search.py task=power model=diffusion hydra/launcher=dask --workers 160": _SEARCH,
    "python scripts/search.py task=inventory model=gaussian grad=two_stage --trials 2 "
    "--root build/search --preset-folder build/presets": _SEARCH,
    "python scripts/search.py task=portfolio model=gaussian grad=two_stage --show --calibration "
    "model.antithetic_scenarios=false": _SEARCH,
    "make architecture": "tests/test_architecture.py",
    "make audit": "tests/suite/reporting/test_audit.py",
    "make wandb-sync": "tests/test_scripts.py",
    "python examples/quickstart.py": "tests/test_examples.py",
    "make gallery": "tests/test_gallery.py",
    **{
        f"python examples/gallery/{name}.py": "tests/test_gallery.py"
        for name in ("newsvendor", "battery", "portfolio", "staffing", "risk_budget", "recourse")
    },
    "python scripts/benchmark.py solvers": "tests/test_benchmark.py",
    "python scripts/benchmark.py users": "tests/test_benchmark.py",
    "python scripts/gradient_lab.py linear": "tests/laboratory/test_linear_gaussian.py",
    "python scripts/gradient_lab.py synthetic": "tests/laboratory/test_synthetic.py",
    "sbatch --array=1-$(wc -l < commands.txt)%50 scripts/slurm_array.sh commands.txt": (
        "tests/end_to_end/test_launchers.py"
    ),
    "python cluster.py task=power model=diffusion grad=two_stage,score -m seed=0-9": (
        "tests/end_to_end/test_launchers.py"
    ),
    "tensorboard --logdir results/runs": "a server that runs until it is stopped",
    "python ~/diffusion-dfl/train.py --config-dir my_conf task=staffing "
    "model=gaussian grad=reparam": _OWN,
    "python ~/diffusion-dfl/train.py --config-dir my_conf task=staffing "
    "model=log_normal grad=set_score -m seed=0-9": _OWN,
    "python ~/diffusion-dfl/scripts/status.py --config-dir my_conf --own "
    "task=staffing model=log_normal grad=set_score seed=0-9": _OWN,
    "python ~/diffusion-dfl/scripts/make_tables.py --task staffing": _OWN,
    "source .venv/bin/activate": "every command here runs with that environment",
}


def pages() -> list[str]:
    """README.md, its neighbours and the pages of docs/, from the repository's root."""
    found = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))
    top = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    return [*top, *(path.as_posix() for path in found if "templates" not in path.parts)]


def is_of_files(page: str) -> bool:
    """Whether the blocks of a page are files, named in their first line: ``# staffing.py``.

    Its Python belongs together, and has a test of its own that names the page.
    """
    return any(re.match(r"# [\w/]+\.(py|yaml)\n", block.text) for block in blocks(page))


def blocks(page: str) -> list[Block]:
    """Code blocks of a page, fenced and indented, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    pattern = re.compile(
        r"^```(?P<language>\w*)[^\n]*\n(?P<fenced>[\s\S]*?)^```|(?P<indented>(?:^    .*\n|^\n(?=    ))+)",
        re.MULTILINE,
    )
    found = []
    for match in pattern.finditer(text + "\n"):
        if match["fenced"] is not None:
            found.append(Block(match["language"], match["fenced"]))
        elif not _in_a_list(text, match.start()):
            inner = re.sub(r"^    ", "", match["indented"], flags=re.MULTILINE)
            found.append(Block("", inner.lstrip("\n")))
    return found


def _in_a_list(text: str, place: int) -> bool:
    """Whether an indented paragraph belongs to the list item above it."""
    above = text[:place].rstrip("\n").rsplit("\n", 1)[-1]
    return re.match(r"\s*([-*]|\d+\.) ", above) is not None


def commands(page: str) -> list[Command]:
    """Commands of a page, of its shell blocks and within its sentences, each once.

    Raises:
        ValueError: a block in which only some lines are commands.
    """
    found: dict[str, None] = {}
    for block in blocks(page):
        if block.language not in SHELLS:
            continue
        lines = block.text.replace("\\\n", " ").splitlines()
        lines = [re.sub(r"\s+# .*", "", line).strip() for line in lines]
        lines = [line for line in lines if line and not line.startswith("#")]
        are = [line.split()[0] in VERBS for line in lines]
        if any(are) and not all(are):
            raise ValueError(f"{page}: {lines[are.index(False)]!r} stands between commands")
        found.update(dict.fromkeys(line for line, is_one in zip(lines, are, strict=True) if is_one))
    text = (ROOT / page).read_text(encoding="utf-8")
    found.update(
        dict.fromkeys(re.findall(rf"`((?:{'|'.join(VERBS[:4])}|tensorboard) [^`]+)`", text))
    )
    return [Command(page, re.sub(r"\s+", " ", command)) for command in found]


def transcripts(page: str) -> list[Transcript]:
    """Commands behind ``$`` with the output that is printed below them."""
    found = []
    for block in blocks(page):
        if block.language in SHELLS and block.text.startswith("$ "):
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                found.append(Transcript(page, command, output.strip()))
    return found


def every_command() -> list[Command]:
    """Commands of all pages, each where it is first printed."""
    found: dict[str, Command] = {}
    for page in pages():
        for command in commands(page):
            found.setdefault(command.text, command)
    return list(found.values())


def jobs(words: list[str]) -> list[list[str]]:
    """The single runs of a training command, seed 0 of each, with what Hydra itself reads left out.

    Args:
        words: behind ``train.py``; empty for the bare call.
    """
    normal = normalise(words)
    # Flags, and what belongs to them, stand behind the overrides.
    first = next((place for place, word in enumerate(normal) if word[0] == "-"), len(normal))
    overrides = normal[:first]
    parsed = OverridesParser.create().parse_overrides(overrides)
    values = []
    for word, override in zip(overrides, parsed, strict=True):
        key = override.key_or_group
        if key == "seed":
            values.append(["seed=0"])
        elif override.is_sweep_override():
            values.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        elif not key.startswith("hydra"):
            values.append([word])
    return [list(job) for job in product(*values)]
