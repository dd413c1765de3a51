"""scripts/predict.py as a user meets it."""

import argparse
import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.commands import predict
from diffusion_dfl.suite.config.compose import identify
from diffusion_dfl.suite.runs.deployed import load_run
from diffusion_dfl.suite.runs.run import run
from tests.configs import composed

ROOT = Path(__file__).resolve().parents[3]


def _predict(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "scripts/predict.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    config = composed(
        ["data=simulated", "data.num_days=150", "scale=smoke", "model=gaussian", "grad=two_stage",
         "fit.epochs=1", "model.width=8", f"output.root={root}"]
    )  # fmt: skip
    run(config)
    return root / "runs" / identify(config).path


@pytest.mark.slow
def test_a_template_is_decided_row_by_row_and_a_missing_value_is_refused_by_number(
    directory: Path, tmp_path: Path
) -> None:
    template, output = tmp_path / "contexts.csv", tmp_path / "decisions.csv"
    assert _predict(directory, "--template", template).returncode == 0
    with template.open(newline="") as handle:
        header, *rows = csv.reader(handle)
    assert _predict(directory, "--columns").stdout.split() == header
    done = _predict(directory, template, "--output", output)
    assert done.returncode == 0, done.stderr
    assert f"{len(rows)} of {len(rows)} rows decided" in done.stderr
    assert "s of start-up" in done.stderr
    rows[6][2] = ""
    with template.open("w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    again = _predict(directory, template, "--batch", 5)
    assert again.returncode == 1
    assert "row 7 refused, line 8: prev_h02 is missing" in again.stderr
    before = list(csv.DictReader(output.open(newline="")))
    after = list(csv.DictReader(again.stdout.splitlines()))
    assert [int(row["row"]) for row in after] == list(range(1, len(rows) + 1))
    assert (after[6]["status"], after[6]["h00"]) == ("refused", "")
    assert after[6]["sentence"] == "refused: line 8: prev_h02 is missing"
    assert [row for row in after if row["row"] != "7"] == [r for r in before if r["row"] != "7"]
    assert {row["status"] for row in before} == {"solved"}


def test_scenarios_are_those_the_decisions_were_made_from(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_run(directory)
    contexts = np.zeros((4, len(run.interface.features))) + run.predictor.contexts.mean.numpy()
    contexts[1, 0] = np.nan
    file, scenarios = tmp_path / "contexts.csv", tmp_path / "scenarios.csv"
    pd.DataFrame(contexts, columns=list(run.interface.features)).to_csv(file, index=False)
    arguments = argparse.Namespace(
        contexts=file, ignore_extra=False, batch=2, output=None, scenarios=scenarios
    )
    assert predict._predict(run, arguments, 0.0) == 1
    decisions = pd.read_csv(io.StringIO(capsys.readouterr().out))
    table = pd.read_csv(scenarios)
    assert sorted({*table["row"]}) == [1, 3, 4]
    assert len(table) == 3 * run.num_scenarios
    assert list(table.columns) == ["row", "scenario", *(f"y{hour}" for hour in range(1, 25))]
    last = torch.tensor(table[table["row"] == 4].iloc[:, 2:].to_numpy()).unsqueeze(0)
    made = run.layer.solve(last).decision[0]
    wanted = decisions.loc[3, "h00":"h23"].to_numpy(dtype=float)
    np.testing.assert_allclose(made, wanted, rtol=1e-6)
    file.write_text(",".join(run.interface.features) + "\n")
    scenarios.unlink()
    with pytest.raises(UserError, match="no row below the header"):
        predict._predict(run, arguments, 0.0)
    assert not scenarios.exists()


@pytest.mark.slow
def test_bad_input_is_refused_in_one_line(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "contexts.csv"
    file.write_text("prev_h00,prev_h1\n1,2\n")
    output = tmp_path / "out.csv"
    bare = tmp_path / "bare"
    shutil.copytree(directory, bare, ignore=shutil.ignore_patterns("weights.pt"))
    for words, said in (
        ([directory, file, "--output", output], "expected the 30 features of the run, found 2"),
        (
            [directory, tmp_path / "none.csv"],
            f"no such file; `python scripts/predict.py {directory} --template {tmp_path / 'none.csv'}`",
        ),
        ([tmp_path, file], "there is no run"),
        (
            [bare, file],
            "has a record but no weights (committed records come without); make the run with "
            "`python train.py task=power model=gaussian grad=two_stage",
        ),
    ):
        refused = _predict(*words)
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: ")
        assert len(refused.stderr.splitlines()) == 1
        assert said in refused.stderr
    assert not output.exists()
