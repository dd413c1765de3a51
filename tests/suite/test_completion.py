"""Shell completion of command lines as they are typed here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.completion import completing, readable

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python train.py task=power -m seed=0-9 mod", "python train.py -m task=power mod"),
        ("python train.py ", "python train.py "),
        ("python train.py", "python train.py "),
        ("python train.py seed=0-9 --multirun ", "python train.py -m "),
        ("python train.py model=a,b grad=", "python train.py grad="),
        ("python3 train.py model=gaussian fit.", "python3 train.py model=gaussian fit."),
        ("python train.py --modl model=ga", "python train.py model=ga"),
    ],
)
def test_a_line_is_made_one_that_hydra_parses(line: str, expected: str) -> None:
    assert readable(line) == expected


@pytest.mark.parametrize("words", [["-sc"], ["install=tcsh", "-sc"]])
def test_completion_for_no_shell_is_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="-sc install=bash"), completing(words):
        pass


def _query(line: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "train.py", "-sc", "query=bash"],
        cwd=ROOT,
        env={**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))},
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_key_is_completed_behind_a_sweep_flag_and_a_seed_range() -> None:
    assert _query("python train.py model=gaussian -m seed=0-9 fit.l").stdout.split() == [
        "fit.learning_rate="
    ]


def test_a_line_that_cannot_be_composed_is_left_without_a_word() -> None:
    answer = _query("python train.py model=nothing fit.l")
    assert answer.stdout.strip() == ""
    assert answer.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_with_what_the_docs_say_to_install() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    install = 'eval "$(python train.py -sc install=bash)"'
    assert install in page
    line = "python train.py task=power -m model=ga"
    words = " ".join(line.split())
    script = f"""
        {install}
        COMP_LINE="{line}" COMP_POINT={len(line)} COMP_WORDS=({words}) COMP_CWORD=4
        hydra_bash_completion
        echo "${{COMPREPLY[@]}}"
        eval "$(python train.py -sc uninstall=bash)"
        complete -p python || echo gone
    """
    # The words of the docs call `python`: the one that runs this test.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[0] == "model=gaussian"
