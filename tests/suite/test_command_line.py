"""The command line as a user meets it: `train.py` in a process of its own, most often a fork."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from diffusion_dfl.data.pjm import PJM_FILES
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.runs.run import run
from tests.processes import ROOT, forked

TINY = (
    "data=simulated",
    "scale=smoke",
    "model=gaussian",
    "fit.epochs=1",
    "train.epochs=1",
    "data.num_days=120",
    "model.width=8",
    "evaluation.num_large=25",
    "device=cpu",
)


def _train(*arguments: str, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if k != "DIFFUSION_DFL_DATA"}
    return forked(
        ROOT / "train.py", *arguments, folder=folder, environment=environment, timeout=120
    )


def _refused(result: "subprocess.CompletedProcess[str]", *named: str) -> str:
    """The one line of a refusal; it names these things."""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode != 0
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert result.stderr.rstrip().endswith(errors[0])  # one line, and the last
    for name in named:
        assert name in errors[0], errors[0]
    return errors[0]


def test_the_configuration_is_shown_with_its_values() -> None:
    result = _train("model=gaussian", "--cfg", "job", "grad=reparam", "seed=3")
    assert result.returncode == 0, result.stderr
    assert "seed: 3\n" in result.stdout
    assert "name: gaussian" in result.stdout
    assert "bandwidth_scale:" in result.stdout


def test_help_shows_choices_and_the_main_command() -> None:
    # A new process, which need not import torch.
    command = [sys.executable, "train.py", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    choices = ("diffusion", "gaussian", "two_stage", "reparam", "score")
    for text in (*choices, "simulated", "laptop", "smoke"):
        assert text in result.stdout
    assert "python train.py task=power model=diffusion grad=score -m seed=0-9" in result.stdout


def test_the_refused_runs_of_a_sweep_are_named_at_its_end_with_their_reason_once(
    tmp_path: Path,
) -> None:
    words = ["task=power", "data=csv", "data.file=no.csv", f"output.root={tmp_path}"]
    refused = _train(*words, "model=gaussian", "grad=score", "-m", "seed=0,1")
    (error,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    reason = error.removeprefix("error: ")
    assert refused.returncode == 2 and "data.file=no.csv" in reason
    assert refused.stdout.splitlines()[-1] == f"refused: seed=0; seed=1: {reason}"


def test_a_refused_run_leaves_no_folder_behind(tmp_path: Path) -> None:
    root = tmp_path / "results"
    refused = _train("task=power", "data=csv", "data.file=no.csv", f"output.root={root}")
    assert refused.returncode == 2, refused.stderr
    assert not root.exists()


def test_a_result_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = _train("task=power", *TINY, f"output.root={tmp_path / 'file'}")
    _refused(refused, "output.root: cannot write to", "set output.root=FOLDER")


@pytest.mark.slow
def test_a_sweep_typed_as_in_the_readme_runs_every_seed(tmp_path: Path) -> None:
    words = ["task=power", "grad=score", "-m", "seed=0-1", *TINY, f"output.root={tmp_path}"]
    result = _train(*words)
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stdout.splitlines() if "test cost" in line]
    assert len(said) == 2
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert sorted(record["identity"]["seed"] for record in records) == [0, 1]
    epochs = [line for line in result.stderr.splitlines() if " epoch " in line]
    assert len(epochs) == 2 * (2 + 2)  # each seed: two stages, their start and one epoch
    again = _train(*words)
    assert again.returncode == 0
    assert again.stderr.count("is finished; add force=true") == 2
    assert " epoch " not in again.stderr


@pytest.mark.slow
def test_one_command_sweeps_all_tasks_with_both_gradients_of_the_diffusion(tmp_path: Path) -> None:
    small = [
        "scale=smoke",
        "data=simulated",
        "data.num_days=250",
        "foundation.epochs=1",
        "fit.epochs=1",
        "train.epochs=1",
        "model.width=8",
        "model.base_folds=2",
        "model.base_width=8",
        "decision.num_scenarios=8",
        "evaluation.num_large=8",
        "device=cpu",
    ]
    tasks = ("synthetic", "power", "portfolio", "inventory")
    result = _train(
        "-m",
        f"task={','.join(tasks)}",
        "model=diffusion",
        "grad=reparam,score",
        "seed=0,1",
        *small,
        f"output.root={tmp_path}",
    )
    assert result.returncode == 0, result.stderr
    identities = [
        json.loads(path.read_text())["identity"] for path in tmp_path.rglob("summary.json")
    ]
    assert sorted((item["task"], item["grad"], item["seed"]) for item in identities) == sorted(
        product(tasks, ("reparam", "score"), (0, 1))
    )
    said = result.stdout.splitlines()
    # A return is no cost, and more of it is better.
    assert all(("higher is better" in line) == line.startswith("portfolio") for line in said)


@pytest.mark.slow
def test_a_bare_call_says_what_it_runs_and_runs_it_in_seconds(tmp_path: Path) -> None:
    result = _train(folder=tmp_path)
    assert result.returncode == 0, result.stderr
    first = result.stderr.splitlines()[0]
    assert first.startswith("no arguments: running task=power data=simulated")
    assert "simulated data, scale smoke" in result.stdout
    (summary,) = tmp_path.glob("results/runs/smoke/power/diffusion-score*/seed-0/summary.json")
    assert json.loads(summary.read_text())["timing"]["total"] < 60


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nonsense=1"], ["nonsense", "--cfg job"]),
        (["fit.epoch=3"], ["fit.epoch", "fit.epochs"]),
        (["model=gausian"], ["model=gausian", "gaussian"]),
        (["seed=three"], ["seed", "three"]),
        (["seed=9-0", "-m"], ["seed=9-0", "seed=0-9"]),
        (["model=policy", "grad=score"], ["model=policy", "grad=score", "Pairs that do"]),
        (["data.root=/missing/folder"], ["data.root=/missing/folder"]),
        (["task=portfolio", "data.file=no.csv"], ["data.file=no.csv", "data=csv data.file=no.csv"]),
        (["data.num_days=1200"], ["data.num_days=1200", "data=simulated data.num_days=1200"]),
        (["data.file=prices (1).csv"], ["""'data.file="prices (1).csv"'"""]),
        (["model.num_sampling_steps=2000"], ["num_sampling_steps=2000", "num_diffusion_steps"]),
        *[
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (["+fit.epoch=3"], ["fit.epoch=3", "--cfg job"]),
                (["data=weather"], ["data=weather", "real", "simulated"]),
                (["fit.epochs=2.5"], ["fit.epochs", "2.5"]),
                (["fit.learning_rate=-1"], ["fit.learning_rate=-1", "> 0"]),
                (["task.shortage=nan"], ["task.shortage=nan", "a number"]),
                (["seed=0-9"], ["seed=0-9", "add -m"]),
                (["seed=-1"], ["seed=-1", ">= 0"]),
                (["model=deterministic,gaussian", "grad=score", "-m"], ["Pairs that do"]),
                (["model=gaussian", "model.dropout=2"], ["dropout", "2"]),
                (["grad=score", "decision.bandwidth_scale=0"], ["decision.bandwidth_scale=0"]),
                (["data=real", "task=synthetic"], ["data=real", "task=synthetic", "simulated"]),
                (["model.num_elbo_timesteps=1001"], ["num_elbo_timesteps=1001", "1000"]),
                (["model.eta=2"], ["eta=2", "[0, 1]"]),
                (["grad=score_path", "model.final_noise=false"], ["model.final_noise=true"]),
                (
                    ["grad=reparam", "grad.backpropagation=last", "grad.last_steps=99"],
                    ["grad.last_steps=99", "model.num_sampling_steps"],
                ),
                (["model=gaussian", "train.epochs=a", "-m"], ["train.epochs=a"]),
            )
        ],
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_gets_one_line_with_key_value_and_mend(
    words: list[str], named: list[str], tmp_path: Path
) -> None:
    simulated = [] if any(word.startswith("data") for word in words) else ["data=simulated"]
    result = _train(*simulated, *words, f"output.root={tmp_path}")
    _refused(result, *named)
    assert list(tmp_path.rglob("summary.json")) == []
    assert list(tmp_path.rglob("checkpoint.pt")) == []


def test_a_file_that_is_not_the_pinned_one_is_named_and_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "loads"
    root.mkdir()
    for name in PJM_FILES:
        (root / name).write_text("not the load of anything\n")
    before = {item.name: item.read_bytes() for item in root.iterdir()}
    result = _train(f"data.root={root}", "scale=smoke", f"output.root={tmp_path / 'out'}")
    _refused(result, f"data.root={root}", "sha256")
    assert {item.name: item.read_bytes() for item in root.iterdir()} == before


def test_a_damaged_download_is_kept_aside_and_named(tmp_path: Path) -> None:
    own = tmp_path / "data"
    own.mkdir()
    name = next(iter(PJM_FILES))
    (own / name).write_text("half a fi")
    result = _train(
        f"data.directory={own}",
        "data.url=http://127.0.0.1:9/",
        "scale=smoke",
        f"output.root={tmp_path / 'out'}",
    )
    message = _refused(result, name)
    kept = [item for item in own.iterdir() if item.name.startswith(f"{name}.corrupt-")]
    assert [item.read_text() for item in kept] == ["half a fi"]
    assert kept[0].name in message


def test_no_file_and_no_network_says_what_to_do(tmp_path: Path) -> None:
    result = _train(
        f"data.directory={tmp_path / 'data'}",
        "data.url=http://127.0.0.1:9/",
        "scale=smoke",
        f"output.root={tmp_path / 'out'}",
    )
    _refused(result, "data.root", "DIFFUSION_DFL_DATA")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_data_root_without_rights_is_named(tmp_path: Path) -> None:
    root = tmp_path / "loads"
    root.mkdir(mode=0)
    try:
        _refused(
            _train(f"data.root={root}", f"output.root={tmp_path / 'out'}"), f"data.root={root}"
        )
    finally:
        root.chmod(0o700)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
@pytest.mark.parametrize("device", ["cuda", pytest.param("cuda:3", marks=pytest.mark.slow)])
def test_cuda_without_cuda_is_refused(device: str, tmp_path: Path) -> None:
    result = _train("data=simulated", f"device={device}", f"output.root={tmp_path}")
    _refused(result, f"device={device}", "device=cpu")
    assert not (tmp_path / "runs").exists()


def test_the_directory_of_another_configuration_is_refused_and_left_alone(tmp_path: Path) -> None:
    words = ["grad=two_stage", *TINY, f"output.root={tmp_path}"]
    run(compose_config(words))
    (summary,) = tmp_path.rglob("summary.json")
    stored = summary.with_name("config.yaml")
    stored.write_text(stored.read_text().replace("bandwidth_scale:", "bandwidth_scale: 9 #"))
    before = {item.name: item.read_bytes() for item in summary.parent.iterdir()}
    _refused(_train(*words), "decision.bandwidth_scale", "9", "force=true")
    assert {item.name: item.read_bytes() for item in summary.parent.iterdir()} == before


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_an_output_folder_that_cannot_be_written_is_named(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["data=simulated", "scale=smoke", f"output.root={tmp_path / 'file'}"]
    result = _train(*words, *flags)
    _refused(result, "output.root", str(tmp_path / "file"))
