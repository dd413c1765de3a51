"""Every command that README.md and docs/ print is known, and runs: tests/commands.py says how."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffusion_dfl.files import write_text
from diffusion_dfl.suite.commands import VERBS
from diffusion_dfl.suite.config.compose import compose_config, identify, validate
from diffusion_dfl.suite.runs.compile import make_predictor
from tests.commands import (
    NOT_RUN,
    ROOT,
    SMALL,
    Command,
    Small,
    Transcript,
    blocks,
    commands,
    every_command,
    jobs,
    pages,
    transcripts,
)
from tests.configs import composed
from tests.processes import forked

COMMANDS = every_command()
TRAINING = [command for command in COMMANDS if command.is_training]
OTHER = [command for command in COMMANDS if not command.is_training]
TRANSCRIPTS = [one for page in pages() for one in transcripts(page)]
INSTALLS = [command for command in OTHER if command.text.startswith("pip ")]

#: What makes a training command small; the words as printed come behind.
TINY = (
    "scale=smoke",
    "foundation.epochs=1",
    "fit.epochs=1",
    "train.epochs=1",
    "model.width=16",
    "decision.num_scenarios=8",
    "evaluation.num_large=16",
)
#: And of a task.
TINY_TASKS = {
    "power": ("data=simulated", "data.num_days=150"),
    "power_released": ("data=simulated", "data.num_days=150", "task.temperatures=false"),
    "portfolio": ("data=simulated", "data.num_days=250"),
    "portfolio_released": ("data=simulated", "data.num_days=250", "task.longest_window=130"),
    "synthetic": ("task.num_train=64", "task.num_validation=16", "task.num_test=16"),
    "inventory": ("task.num_train=64", "task.num_validation=16", "task.num_test=16"),
}
TINY_DIFFUSION = ("model.num_diffusion_steps=20", "model.num_sampling_steps=4")


def value(words: list[str], key: str, default: str) -> str:
    """The value that a command line gives a key."""
    return next((word.split("=", 1)[1] for word in words if word.startswith(f"{key}=")), default)


def small(command: Command, root: Path) -> list[str]:
    """The first run of a training command, small."""
    first = [
        word
        for word in jobs(command.words)[0]
        if not word.startswith(("device=", "data=", "data.file="))
    ]
    tiny = [*TINY, *TINY_TASKS.get(value(first, "task", "power"), ())]
    if value(first, "model", "diffusion") == "bootstrap":
        tiny.remove("model.width=16")  # Its base has the width of the model of that name.
    if value(first, "model", "diffusion") == "diffusion":
        tiny += TINY_DIFFUSION
    count = int(value(first, "decision.num_scenarios", "8"))
    if count > 16 and value(first, "evaluation.num_large", "") == "":
        tiny.append(f"evaluation.num_large={count}")
    # The simulated prices are of a hundred tickers.
    first = [word.replace("task.num_assets=392", "task.num_assets=100") for word in first]
    return [*tiny, *first, "device=cpu", f"output.root={root}"]


def unknown(found: list[Command]) -> list[str]:
    """Commands that nothing says how to run."""
    return [
        f"{command.page}: {command.text}"
        for command in found
        if not command.is_training
        and command.target is None
        and command.text not in {**SMALL, **NOT_RUN}
        and not command.text.startswith("pip ")
    ]


def test_every_command_has_a_test_or_a_reason() -> None:
    assert unknown(COMMANDS) == [], "add a line to SMALL in tests/commands.py"


def test_a_new_command_is_found_wherever_it_stands_and_is_not_known(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "Try `python scripts/a.py`:\n\n    python scripts/b.py \\\n      --all  # slow\n\n"
    page.write_text(f"{text}```sh\npython scripts/c.py\n```\n", encoding="utf-8")
    found = unknown(commands(str(page)))
    assert [one.partition("page.md: ")[2] for one in found] == [
        "python scripts/b.py --all",
        "python scripts/c.py",
        "python scripts/a.py",
    ]


def test_a_line_that_is_no_command_among_commands_is_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Try\n\n    make demo\n    mkae test\n", encoding="utf-8")
    with pytest.raises(ValueError, match="'mkae test' stands between commands"):
        commands(str(page))


def test_a_sweep_is_its_runs_without_seeds_and_launchers() -> None:
    words = ["hydra/launcher=joblib", "model=gaussian", "grad=reparam,score", "-m", "seed=0-9"]
    assert jobs(words) == [
        ["model=gaussian", "grad=reparam", "seed=0"],
        ["model=gaussian", "grad=score", "seed=0"],
    ]


def test_no_line_is_kept_for_a_command_that_no_page_prints() -> None:
    printed = {command.text for command in COMMANDS}
    kept = {text for text in (*SMALL, *NOT_RUN) if not text.startswith("make ")}
    assert sorted(kept - printed) == []


@pytest.mark.parametrize("place", [place for place in NOT_RUN.values() if " " not in place])
def test_what_runs_a_command_elsewhere_is_there(place: str) -> None:
    assert (ROOT / place).is_file()


def test_the_page_has_every_verb_of_the_command_and_what_does_the_same_in_a_clone() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, re.MULTILINE))
    assert list(rows) == list(VERBS)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for verb, same in rows.items():
        if same.startswith("make "):
            same = re.findall(rf"^{same[5:]}:.*\n\t\$\(BIN\)/python (\S+)", makefile, re.M)[0]
        assert f'run("{verb}")' in (ROOT / same).read_text(encoding="utf-8")


def test_every_target_of_make_is_there() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert [c.text for c in OTHER if c.target is not None and c.target not in targets] == []


@pytest.mark.parametrize("command", INSTALLS, ids=lambda command: command.text)
def test_what_is_to_be_installed_is_an_extra_of_this_package(command: Command) -> None:
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (named,) = re.findall(r"(?:\.|\.whl|diffusion-dfl)\[([\w,]+)\]", command.text)
    assert set(named.split(",")) <= set(known["project"]["optional-dependencies"])


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAINING, ids=lambda command: command.text)
def test_every_run_of_a_training_command_composes(command: Command) -> None:
    for words in jobs(command.words):
        validate(composed(words))


def those_that_differ() -> list[Command]:
    """README's, those that do not train, and of others the first of a task or of a model and its grad.

    Cells themselves run in tests/end_to_end/test_every_cell.py.
    """
    found, seen = [], set()
    for command in TRAINING:
        first = jobs(command.words)[0]
        task = value(first, "task", "power")
        cell = value(first, "model", "diffusion"), value(first, "grad", "score")
        plain = all(word == "-m" for word in command.words if word.startswith("-"))
        if command.page == "README.md" or not plain or not {task, cell} <= seen:
            found.append(command)
        seen |= {task, cell}
    return found


@pytest.mark.parametrize("command", those_that_differ(), ids=lambda command: command.text)
def test_the_first_run_of_a_training_command_composes(command: Command) -> None:
    validate(composed(jobs(command.words)[0]))


@pytest.mark.slow
@pytest.mark.parametrize("command", those_that_differ(), ids=lambda command: command.text)
def test_the_first_run_of_a_training_command_trains_in_small(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [word for word in command.words if word.startswith("-")]
    trains = set(flags) <= {"-m"}
    words = [*small(command, tmp_path), *flags] if trains else command.words
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    assert ended.value.code in (0, None)
    if trains:
        assert len(list(tmp_path.glob("runs/**/summary.json"))) == 1


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which commands may write."""
    made = {ROOT / "site", *(ROOT / "results" / name for name in ("runs", "sweeps", "demo"))}
    patterns = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*.egg-info", "wandb")

    def away(folder: str, names: list[str]) -> set[str]:
        return patterns(folder, names) | {name for name in names if Path(folder, name) in made}

    copy = Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("docs") / "checkout", ignore=away))
    (copy / "results" / "runs").mkdir()
    return copy


def ways() -> list[object]:
    """What is run as it is printed, with how."""
    found = []
    for command in OTHER:
        if command.text in NOT_RUN or command in INSTALLS:
            continue
        how = SMALL.get(command.text, Small())
        marks = [pytest.mark.slow] if how.slow else []
        if how.real_data and "DIFFUSION_DFL_DATA" not in os.environ:
            marks.append(pytest.mark.skip(reason="needs real data"))
        found.append(pytest.param(command, how, id=command.text, marks=marks))
    return found


def shell(text: str, checkout: Path) -> "subprocess.CompletedProcess[str]":
    """Run a line of the shell in the copy of the checkout; a script that is called by words alone needs
    no process that imports torch anew."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(checkout),  # before the installed package, which is the checkout's
    }
    called = re.fullmatch(r"python ((?:scripts/\w+|train)\.py)( [\w=,./ -]*)?", text)
    if called:
        words = shlex.split(called[2] or "")
        return forked(checkout / called[1], *words, folder=checkout, environment=environment)
    return subprocess.run(
        ["bash", "-c", text],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(("command", "how"), ways())
def test_a_command_runs_in_small(command: Command, how: Small, checkout: Path) -> None:
    if how.before == "weights":
        stand_in_weights(checkout / "results")
    elif how.before == "run":
        (run,) = re.findall(r"results/runs/\S+", command.text)
        stand_in_run(checkout, run)
    text = how.instead or command.text
    if text.startswith("make "):
        text += f" BIN={Path(sys.executable).parent} -o setup"  # with the environment that is there
    printed, redirect = re.fullmatch(r"(.*?)( > \S+)?", text).groups(default="")  # type: ignore[union-attr]
    done = shell(f"{printed} {how.more}{redirect}", checkout)
    assert done.returncode in how.codes and "Traceback" not in done.stderr, (
        done.stdout + done.stderr
    )


@pytest.mark.slow
@pytest.mark.parametrize("printed", TRANSCRIPTS, ids=lambda one: one.text)
def test_a_command_says_what_is_printed_below_it(printed: Transcript, checkout: Path) -> None:
    done = shell(printed.text, checkout)
    said = (done.stdout + done.stderr).strip()
    pattern = ".*".join(re.escape(part) for part in printed.output.split("..."))
    assert re.fullmatch(pattern, said, re.DOTALL), said


@pytest.mark.slow
def test_python_that_needs_a_run_runs_beside_one(checkout: Path) -> None:
    """Of docs/command_line.md, which takes contexts from its reader."""
    (block,) = [block for block in blocks("docs/command_line.md") if block.language == "python"]
    (run,) = re.findall(r"results/runs/[^\"]+", block.text)
    stand_in_run(checkout, run)
    code = (
        f"import torch\ncontexts = torch.zeros(2, 30)\n{block.text}\nassert len(made.status) == 2"
    )
    write_text(checkout / "block.py", code)
    done = shell("python block.py", checkout)
    assert done.returncode == 0, done.stdout + done.stderr


def stand_in_run(checkout: Path, run: str) -> None:
    """A small run where a command of the docs has one, and contexts.csv for it."""
    if (checkout / run / "weights.pt").is_file():
        return
    model, grad = Path(run).parent.name.split("-")
    cell = f"task=power model={model} grad={grad} seed=0 {' '.join((*TINY, *TINY_TASKS['power']))}"
    done = shell(f"python train.py {cell} output.root=small", checkout)
    assert done.returncode == 0, done.stderr
    (made,) = (checkout / "small" / "runs").glob(f"smoke/power/{model}-{grad}-*/seed-0")
    shutil.copytree(made, checkout / run)
    done = shell(f"python scripts/predict.py {run} --template contexts.csv", checkout)
    assert done.returncode == 0, done.stderr


def stand_in_weights(results: Path) -> None:
    """Untrained weights where the two-stage diffusion's belong."""
    config = compose_config(["model=diffusion", "grad=two_stage"])
    target = results / "runs" / identify(config).path / "weights.pt"
    if target.exists():
        return
    target.parent.mkdir(parents=True)
    torch.save(make_predictor(config, 30, 24).state_dict(), target)
