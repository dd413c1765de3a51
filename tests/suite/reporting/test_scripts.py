"""make_tables, publish and make_search_table from the command line."""

import json
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diffusion_dfl.suite.config.compose import identify
from diffusion_dfl.suite.reporting.archive import Archive
from tests.configs import composed
from tests.suite.reporting.records import write

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Done:
    """What a script said and how it ended."""

    code: int
    out: str
    err: str


Script = Callable[..., Done]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Run a script as the command line does, in this process."""

    def call(name: str, results: Path, *arguments: str) -> Done:
        path = ROOT / "scripts" / name
        monkeypatch.setattr(sys, "argv", [str(path), "--results", str(results), *arguments])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(path), run_name="__main__")
        said = capsys.readouterr()
        return Done(int(exit_.value.code or 0), said.out, said.err)

    return call


def run(results: Path, task: str, value: float | None, *overrides: str) -> Path:
    """A finished run of the Gaussian two-stage cell, as train.py would name it; its path."""
    words = [f"task={task}", "model=gaussian", "grad=two_stage", "scale=smoke", *overrides]
    identity = identify(composed(words))
    test: dict[str, Any] = {}
    if value is not None:
        test = {"task": value, "higher_is_better": task == "portfolio", "baselines": {"saa": 9.0}}
    record = {
        "schema": 1,
        "identity": {**vars(identity), "source_hash": "s"},
        "test": test,
        "validation": {"task": 0.25, "first_task": 0.5, "best_epoch": 3, "diverged": False},
        "timing": {"total": 1.0},
        "resources": {},
    }
    write(results / "runs", str(identity.path), record)
    return identity.path


def test_the_table_has_every_task_that_has_records_and_a_csv_beside_it(
    script: Script, tmp_path: Path
) -> None:
    run(tmp_path, "portfolio", 0.25)
    run(tmp_path, "synthetic", 0.75)
    run(tmp_path, "power", 0.125, "data=simulated")  # not its default source
    done = script("make_tables.py", tmp_path, "--scale", "smoke")
    assert done.code == 0, done.err
    text = (tmp_path / "tables" / "table1-smoke.md").read_text(encoding="utf-8")
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert text.startswith("# Yours\n")
    of_paper = [
        "## Product allocation (simulated data, scale smoke)",
        "## Stock portfolio (sp500 data, scale smoke)",
    ]
    yours = [of_paper[1], "## Power schedule (simulated data, scale smoke)", of_paper[0]]
    assert titles == [*yours, *of_paper]
    assert "--task power --scale smoke --data simulated" in done.out
    assert "**0.250**" in text and "**0.750**" in text
    assert done.out.startswith("Yours\n\nStock portfolio (sp500 data, scale smoke)\n")
    assert "*0.250 " in done.out and str(tmp_path / "tables" / "table1-smoke.md") in done.out
    assert script("make_tables.py", tmp_path, "--task", "portfolio").code == 0
    numbers = (tmp_path / "tables" / "table1-smoke.csv").read_text(encoding="utf-8")
    assert "portfolio,smoke,sp500,method,Two-stage,Gaussian TS" in numbers


def test_runs_of_another_scale_stand_before_the_committed_table_and_copy_no_number_of_it(
    script: Script, tmp_path: Path
) -> None:
    run(tmp_path, "portfolio", 0.25, "scale=laptop")
    script("publish.py", tmp_path)
    for path in (tmp_path / "runs").rglob("summary.json"):
        path.unlink()
    run(tmp_path, "inventory", 56.0)
    done = script("make_tables.py", tmp_path)
    assert done.code == 0, done.err
    assert done.out.startswith("Yours\n\nInventory (simulated data, scale smoke)\n")
    assert "\n\nTable 1, scale laptop\n\nMethod" in done.out
    assert " Stock portfolio, % a day ↑\n" in done.out
    assert "1: python scripts/make_tables.py --task inventory --scale smoke" in done.out
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["table1-own.md"]
    run(tmp_path, "inventory", 56.0, "scale=laptop")
    script("make_tables.py", tmp_path)
    assert {path.suffix for path in (tmp_path / "tables").iterdir()} == {".md", ".csv", ".tex"}


def test_task_data_and_overrides_name_another_table(script: Script, tmp_path: Path) -> None:
    run(tmp_path, "portfolio", 0.25, "data=skfolio", "task.num_assets=20")
    words = ["--task", "portfolio", "--scale", "smoke", "--data", "skfolio"]
    done = script("make_tables.py", tmp_path, *words, "task.num_assets=20")
    assert done.code == 0, done.err
    assert "**0.250**" in done.out
    assert not (tmp_path / "tables" / "table1-smoke.md").exists()
    assert len(list((tmp_path / "tables").glob("table1-smoke-portfolio-skfolio-*.md"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "power", "task.color=1"], "task.color"),
        (["task.num_assets"], "not of the form key=value"),
        ([], "no records of scale laptop"),
    ],
)
def test_bad_input_is_one_clear_line(
    script: Script, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = script("make_tables.py", tmp_path, *arguments)
    assert done.code != 0
    assert message in done.err
    assert "Traceback" not in done.err


def published(results: Path) -> set[str]:
    return set(Archive(results / "published").entries)


def test_a_readme_that_is_not_there_is_named(script: Script, tmp_path: Path) -> None:
    done = script("make_tables.py", tmp_path, "--readme", str(tmp_path / "missing.md"))
    assert done.code != 0
    assert "missing.md: there is no such file" in done.err
    assert "Traceback" not in done.err


def test_publishing_takes_records_of_default_sources_and_twins_and_names_what_does_not_belong(
    script: Script, tmp_path: Path
) -> None:
    laptop = "scale=laptop"
    kept = [
        run(tmp_path, "portfolio", 0.25, laptop),
        run(tmp_path, "inventory", 3.0, "seed=4", laptop),
        run(tmp_path, "synthetic", 3.0, "grad=reparam", "grad.decision_weight=0", laptop),
    ]
    variant = run(tmp_path, "synthetic", 0.5, "decision.num_scenarios=7", laptop)
    run(tmp_path, "portfolio", 0.5, "data=simulated", laptop)
    run(tmp_path, "synthetic", None, "evaluation.test=false", laptop)
    run(tmp_path, "power", 3.0)
    done = script("publish.py", tmp_path)
    assert done.code == 0, done.err
    assert published(tmp_path) == {path.as_posix() for path in kept}
    assert "1 variants left where they are" in done.out and variant.as_posix() in done.out
    for reason in (
        "is of data=simulated, and the records are of data=sp500",
        "was not evaluated on test days",
        "is of scale smoke, and the records are of laptop",
    ):
        assert reason in done.out
    assert script("publish.py", tmp_path, "--variants").code == 0
    assert published(tmp_path) == {path.as_posix() for path in (*kept, variant)}
    names = {path.name for path in (tmp_path / "published").iterdir()}
    assert names == {"manifest.json", "runs.parquet", "epochs.parquet", "rows.parquet"}


def test_publishing_one_task_leaves_the_others(script: Script, tmp_path: Path) -> None:
    run(tmp_path, "portfolio", 0.25, "scale=laptop")
    kept = run(tmp_path, "inventory", 3.0, "scale=laptop")
    script("publish.py", tmp_path, "--task", "inventory")
    assert published(tmp_path) == {kept.as_posix()}


@pytest.mark.slow
def test_records_are_checked_and_a_damaged_file_is_one_sentence(
    script: Script, tmp_path: Path
) -> None:
    run(tmp_path, "portfolio", 0.25, "scale=laptop")
    script("publish.py", tmp_path)
    assert "1 records, 0 damaged" in script("check_records.py", tmp_path).out
    file = tmp_path / "published" / "runs.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    for name in ("check_records.py", "make_tables.py", "make_ablations.py", "make_report.py"):
        done = script(name, tmp_path)
        assert done.code != 0
        assert "runs.parquet is not what was published (its digest differs)" in done.err
        assert "Traceback" not in done.err


def test_the_search_table_shows_tuning_runs_of_the_tasks_own_source(
    script: Script, tmp_path: Path
) -> None:
    run(tmp_path, "portfolio", None, "evaluation.test=false", "decision.num_scenarios=50")
    run(tmp_path, "portfolio", None, "evaluation.test=false", "data=simulated")
    run(tmp_path, "portfolio", 0.1)
    broken = tmp_path / "runs" / "smoke" / "portfolio" / "x" / "seed-0" / "summary.json"
    broken.parent.mkdir(parents=True)
    broken.write_text(json.dumps({"identity": {}}))
    words = ["--task", "portfolio", "--scale", "smoke", "--write"]
    done = script("make_search_table.py", tmp_path, *words)
    assert done.code == 0, done.err
    text = (tmp_path / "search" / "portfolio.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| gaussian")]
    assert rows == [
        "| gaussian | two_stage | decision.num_scenarios=50 | 0.250000 | 0.500 | 3 | 0 |"
    ]
    assert "summary.json is no whole record" in done.out


def test_an_empty_search_never_replaces_the_committed_table(script: Script, tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "power.md").write_text("evidence")
    done = script("make_search_table.py", tmp_path, "--write")
    assert done.code != 0
    assert "the committed table stays" in done.err
    assert (tmp_path / "search" / "power.md").read_text() == "evidence"


def test_sensitivity_has_a_column_a_setting_of_the_task_and_no_other_run(
    script: Script, tmp_path: Path
) -> None:
    run(tmp_path, "inventory", 56.0)
    run(tmp_path, "inventory", 58.0, "seed=1")
    run(tmp_path, "inventory", 61.5, "task.deviation=0.4")
    run(tmp_path, "inventory", 99.0, "fit.epochs=7")
    run(tmp_path, "inventory", 98.0, "task.deviation=0.4", "fit.epochs=7")
    done = script("make_sensitivity.py", tmp_path, "--scale", "smoke")
    assert done.code == 0, done.err
    rows = [line for line in done.out.splitlines() if line.startswith("| ")]
    assert rows == [
        "| Method | as configured | deviation=0.4 |",
        "| Gaussian TS | **57.000 ± 1.000** | **61.500** |",
        "| _Sample average of the training demands_ | 9.000 ± 0.000 | 9.000 |",
        "| Seeds | 2 | 1 |",
    ]
    assert (tmp_path / "tables" / "sensitivity-inventory.csv").exists()


def test_sensitivity_without_a_changed_task_says_how_to_get_one(
    script: Script, tmp_path: Path
) -> None:
    run(tmp_path, "inventory", 56.0)
    done = script("make_sensitivity.py", tmp_path, "--scale", "smoke")
    assert done.code == 1
    assert "task.KEY=VALUE" in done.err


def test_status_and_missing_tell_what_is_left_of_a_plan(script: Script, tmp_path: Path) -> None:
    run(tmp_path, "inventory", 56.0)
    words = ["task=inventory", "scale=smoke", "model=gaussian", "grad=two_stage"]
    told = script("status.py", tmp_path, *words, "seed=0-2")
    assert told.code == 0 and "1 of 3 runs are finished" in told.out
    left = script("status.py", tmp_path, "--missing", *words, "seed=0-2")
    assert left.out.splitlines() == [f"python train.py {' '.join(words)} -m seed=1,2"]
    each = script("status.py", tmp_path, "--missing", "--each", *words, "seed=0-2")
    assert [line.split()[-1] for line in each.out.splitlines()] == ["seed=1", "seed=2"]
    whole = script("status.py", tmp_path, "--missing", *words)
    assert whole.out == "" and "nothing is missing" in whole.err


@pytest.mark.slow
def test_the_command_for_all_that_is_left_is_of_the_same_plan(
    script: Script, tmp_path: Path
) -> None:
    words = ["task=inventory", "scale=smoke", "decision.num_scenarios=5,6", "seed=0"]
    told = script("status.py", tmp_path, "--own", *words)
    listing = f"python scripts/status.py --missing --results {tmp_path} --own {' '.join(words)}"
    assert told.out.endswith(f" commands more: `{listing}`\n")


def test_a_plan_of_no_such_task_is_one_clear_line(script: Script, tmp_path: Path) -> None:
    told = script("status.py", tmp_path, "task=pwoer")
    assert told.code == 2 and "did you mean power" in told.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "make_tables.py --published",
        "make_ablations.py --published",
        "make_search_table.py",
        "make_figures.py --list",
        "check_records.py",
        "search.py task=power model=gaussian --show",
        "status.py task=power",
    ],
)
def test_a_reader_that_goes_away_ends_a_script_without_a_word(words: str) -> None:
    command = [sys.executable, "-u", *f"scripts/{words}".split()]
    table = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert table.stdout is not None and table.stderr is not None
    assert table.stdout.readline()
    table.stdout.close()
    assert table.stderr.read() == ""
    table.stderr.close()
    # All of it may be in the pipe before its reader goes.
    assert table.wait(timeout=60) in (0, 128 + signal.SIGPIPE)
