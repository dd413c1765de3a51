"""The README's main command and its code work as written; tests/test_docs_commands.py has the rest."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from diffusion_dfl.suite.reporting.summary import BEGIN, END
from tests.commands import ROOT, blocks, commands
from tests.processes import forked

README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\(([^)]+)\)")
TARGETS = LINK.findall(README)

# Appended to training commands: the same command line, on little data.
SMALL = [
    "data=simulated",
    "data.num_days=150",
    "scale=smoke",
    "foundation.epochs=1",
    "fit.epochs=1",
    "train.epochs=1",
    "decision.num_scenarios=10",
    "evaluation.num_large=20",
]


def test_python_block_runs_and_gives_a_gradient() -> None:
    (block,) = [one.text for one in blocks("README.md") if "import torch" in one.text]
    names: dict[str, object] = {}
    exec(block, names)
    scenarios = names["scenarios"]
    assert scenarios.grad is not None  # type: ignore[attr-defined]
    assert scenarios.grad.shape == (8, 50, 3)  # type: ignore[attr-defined]
    assert float(scenarios.grad.abs().sum()) > 0  # type: ignore[attr-defined]


@pytest.mark.slow
def test_ten_seed_command_as_typed_trains_ten_seeds(tmp_path: Path) -> None:
    (line,) = [one.text for one in commands("README.md") if "seed=0-9" in one.text]
    words = line.split()[1:]
    # The words as typed; what makes it small goes before them.
    command = [sys.executable, words[0], *SMALL, f"output.root={tmp_path}", *words[1:]]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^power diffusion-score seed \d", result.stdout, re.MULTILINE)) == 10
    assert len(list(tmp_path.glob("runs/smoke/power/diffusion-score-*/seed-*/summary.json"))) == 10


@pytest.mark.slow
def test_bare_call_names_the_simulated_data_it_uses() -> None:
    result = subprocess.run(
        [sys.executable, "train.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "DIFFUSION_DFL_DATA"},
    )
    assert result.returncode == 0, result.stderr
    assert "data=simulated" in result.stderr
    assert "simulated data, scale smoke" in result.stdout


@pytest.mark.slow
def test_table_command_renders_the_committed_records_without_changing_the_committed_table() -> None:
    target = ROOT / "results" / "tables" / "table1.md"
    result = forked(ROOT / "scripts" / "make_tables.py", "--published")
    assert result.returncode == 0, result.stderr
    assert "Diffusion score function" in result.stdout
    assert target.read_text(encoding="utf-8").strip() in result.stdout


@pytest.mark.slow
def test_status_and_missing_account_for_every_run_of_the_tables() -> None:
    told, left = (forked(ROOT / "scripts" / "status.py", *words) for words in ([], ["--missing"]))
    assert told.returncode == left.returncode == 0, told.stderr + left.stderr
    assert " of 520 runs are finished" in told.stdout
    assert all(line.startswith("python train.py task=") for line in left.stdout.splitlines())


def test_the_table_is_the_one_that_make_readme_writes(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    block = README.split(BEGIN)[1].split(END)[0]
    copy.write_text(README.replace(block, "\n"), encoding="utf-8")
    made = forked(ROOT / "scripts" / "make_tables.py", "--readme", str(copy))
    assert made.returncode == 0, made.stderr
    assert copy.read_text(encoding="utf-8") == README


def test_the_picture_and_every_link_are_there() -> None:
    # What begins with ../../ is a page of the code host.
    local = [one for one in TARGETS if not one.startswith(("https://", "../../"))]
    assert len(local) >= 10
    assert [target for target in local if not (ROOT / target.partition("#")[0]).exists()] == []
    assert {"results/figures/overview.png", "examples/quickstart.py", "docs/first_hour.md"} <= {
        *local
    }


def test_it_is_short_and_says_how_to_read_the_table_above_it() -> None:
    assert len(README.splitlines()) <= 76
    before, _, after = README.partition(BEGIN)
    for told in ("once it was searched", "**5,500**", "protocol is ours"):
        assert told in before and told not in after
    assert (
        before.index("make demo") < before.index("make test") < before.index("once it was searched")
    )


def test_badges_are_true() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    line = README.splitlines()[2]
    assert "../../actions/workflows/ci.yml/badge.svg" in line
    assert (ROOT / ".github" / "workflows" / "ci.yml").is_file()
    first, end = re.findall(r"3\.(\d+)", project["requires-python"])
    assert f"python-3.{first}--3.{int(end) - 1}-blue" in line
    assert f"licence-{project['license'].replace('-', '--')}-blue" in line


def test_the_paper_is_the_one_that_the_citation_names() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"][0]
    assert f"[paper]({cited['url']})" in README
    assert cited["url"].rpartition("/")[2] in README.rpartition("@inproceedings")[2]
    assert cited["title"].replace("DFL", "{DFL}", 1) in README


def test_the_description_of_a_wheel_has_no_link_into_the_repository() -> None:
    made = ProjectMetadata(str(ROOT), PluginManager()).core.readme
    assert LINK.findall(made) and all(one.startswith("https://") for one in LINK.findall(made))
    assert "[](" not in made and "first hour" in made


def test_links_of_a_description_are_absolute_where_the_repository_has_an_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    portable = importlib.import_module("build_hook").portable
    text = "[![CI](../../a/b.svg)](../../a) ![p](r/o.png) [`x`](docs/x.md#y) [z](https://z.org)"
    at = "https://host.org/o/r"
    assert portable(text, at) == (
        f"[![CI]({at}/a/b.svg)]({at}/a) ![p]({at}/raw/main/r/o.png) "
        f"[`x`]({at}/blob/main/docs/x.md#y) [z](https://z.org)"
    )
    assert portable(text, None) == "  `x` [z](https://z.org)"
    targets = LINK.findall(portable(README, at))
    assert len(targets) == len(TARGETS) and all(one.startswith("https://") for one in targets)
