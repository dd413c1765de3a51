"""Table 1 in LaTeX; ablation tables and figures say what they lack."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion_dfl.suite.config.arguments import normalise
from diffusion_dfl.suite.reporting.ablations import AXES, commands, table
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.figures import FIGURES, FigureSource, MissingRuns, draw
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.latex import latex
from diffusion_dfl.suite.reporting.layout import LAYOUTS
from diffusion_dfl.suite.reporting.paper import ROWS
from diffusion_dfl.suite.reporting.roles import todays_hash
from diffusion_dfl.suite.reporting.selection import selection
from diffusion_dfl.suite.reporting.table1 import build
from tests.suite.reporting.records import frame_of, summary

ROOT = Path(__file__).resolve().parents[3]

# Every record and many configurations are read: a minute in all.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def typeset() -> str:
    runs = frame(collect(ROOT / "results", own=False))
    return latex([build(runs, selection(runs, task, "laptop")) for task in LAYOUTS])


def test_the_committed_latex_is_that_of_the_committed_records(typeset: str) -> None:
    assert typeset == (ROOT / "results/tables/table1.tex").read_text(encoding="utf-8")


def test_every_row_has_all_columns_and_each_column_one_best_and_one_second(typeset: str) -> None:
    (ends,) = re.findall(r"-(\d+)}\n", typeset)  # of the rule under the tasks
    rows = [line for line in typeset.splitlines() if line.count("&") == int(ends) - 1]
    assert len(rows) == 1 + len(ROWS)  # the heading and the methods
    for column in (place for place in range(1, int(ends)) if place % 4 in (0, 3)):
        cells = [row.removesuffix(r" \\").split("&")[column].strip() for row in rows[1:]]
        assert sum(cell.startswith(r"\textbf{") for cell in cells) == 1, column
        assert sum(cell.startswith(r"\underline{") for cell in cells) == 1, column
    assert typeset.count(r"\toprule") == typeset.count(r"\bottomrule") == 1
    assert typeset.count("{") == typeset.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_table_compiles(typeset: str, tmp_path: Path) -> None:
    document = (
        r"\documentclass{article}\usepackage{booktabs}"
        r"\usepackage[paperwidth=60cm,paperheight=20cm]{geometry}\begin{document}"
        + typeset
        + r"\end{document}"
    )
    (tmp_path / "t.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_every_axis_moves_from_a_preset_and_its_commands_are_runs() -> None:
    for task, axes in AXES.items():
        for axis in axes:
            for model, grad in axis.cells:
                cell = {"task": task, "scale": "laptop", "model": model, "grad": grad}
                hashes = [todays_hash(cell, changes) for changes in axis.changes.values()]
                assert len(set(hashes)) == len(hashes)
        for line in commands(task):
            words = normalise(line.removeprefix("python train.py ").split())
            OverridesParser.create().parse_overrides([word for word in words if word != "-m"])


def test_an_ablation_without_runs_says_missing(tmp_path: Path) -> None:
    text = table(frame(collect(tmp_path)), "power", "laptop")
    assert text.count("missing") == sum(
        len(axis.cells) * len(axis.changes) for axis in AXES["power"]
    )


def test_differences_are_to_the_preset(tmp_path: Path) -> None:
    cell = ("gaussian", "two_stage")
    moved: dict[str, Any] = {"config_hash": "m", "differs": {"decision.bandwidth_scale": 0.0}}
    records = [
        summary(*cell, seed, value, **changes)
        for seed in range(5)
        for value, changes in ((3.0, {}), (3.5, moved))
    ]
    assert "0.500 ± 0.000 [0.500, 0.500] above" in table(
        frame_of(tmp_path, records), "power", "laptop"
    )


@pytest.fixture(scope="module")
def committed() -> FigureSource:
    return FigureSource(ROOT / "results", own=False)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_from_what_is_committed(
    name: str, committed: FigureSource, tmp_path: Path
) -> None:
    if not (ROOT / "results" / "figures" / f"{name}.png").exists():
        with pytest.raises(MissingRuns, match=r"make them with `python train\.py"):
            draw(name, committed, tmp_path)
        return
    paths = draw(name, committed, tmp_path)
    assert [path.suffix for path in paths] == [".png", ".pdf"]
    assert paths[0].read_bytes().startswith(b"\x89PNG") and paths[0].stat().st_size > 10_000
    assert (ROOT / "results" / "figures" / f"{name}.png").exists()


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> FigureSource:
    return FigureSource(tmp_path_factory.mktemp("nothing"))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_its_runs_says_what_makes_them(
    name: str, nothing: FigureSource, tmp_path: Path
) -> None:
    with pytest.raises(MissingRuns, match=r"python train\.py|has its command|--collect"):
        draw(name, nothing, tmp_path)


def test_every_figure_says_what_it_shows_and_reads() -> None:
    for name, entry in FIGURES.items():
        assert re.fullmatch(r"overview|figure\d+", name)
        assert entry.title and entry.reads
