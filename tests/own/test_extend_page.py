"""docs/extend.md works as printed, in a folder outside of the repository, and is as short as it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import diffusion_dfl as ddfl
from tests.commands import ROOT, Block, blocks, commands

PAGE = "docs/extend.md"
FILES = {
    re.sub(r"^# ", "", block.text.split("\n", 1)[0]): block.text
    for block in blocks(PAGE)
    if block.language in ("python", "yaml")
}
COMMANDS = [command.text for command in commands(PAGE) if command.text.startswith("python ~/")]
SMALL = [
    "scale=smoke",
    "fit.epochs=1",
    "train.epochs=1",
    "model.width=8",
    "decision.num_scenarios=6",
    "evaluation.num_large=12",
    "device=cpu",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the page, in a folder that is the working directory."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("staffing", "categories", "weighted", "set_score", "log_normal", "student"):
        sys.modules.pop(name, None)


def called(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def lines(name: str) -> int:
    """Lines of a file of the page that are code, without its name on top."""
    return len([line for line in FILES[name].splitlines()[1:] if line.strip()])


def test_the_page_is_made_of_the_files_it_names() -> None:
    assert set(FILES) == {
        "staffing.py",
        "by_script.py",
        "categories.py",
        "weighted.py",
        "set_score.py",
        "log_normal.py",
        "student.py",
        "both.py",
        "my_conf/task/staffing.yaml",
        "my_conf/grad/set_score.yaml",
        "my_conf/model/log_normal.yaml",
    }
    assert all(isinstance(block, Block) for block in blocks(PAGE))


def test_a_problem_takes_forty_lines_and_an_estimator_thirty() -> None:
    assert lines("staffing.py") + lines("my_conf/task/staffing.yaml") <= 40
    assert lines("set_score.py") <= 30
    assert lines("log_normal.py") <= 30
    assert lines("student.py") <= 30


@pytest.mark.slow
def test_the_script_prints_what_the_page_says(folder: Path) -> None:
    result = called("by_script.py")
    assert result.returncode == 0, result.stderr
    (printed,) = (block.text for block in blocks(PAGE) if block.language == "text")
    found = [
        [float(part) for part in re.findall(r"-?\d+\.\d+", text)]
        for text in (printed, result.stdout)
    ]
    np.testing.assert_allclose(found[1], found[0], atol=0.6)
    two_stage, twin, focused = found[1][:3]
    assert focused < twin < two_stage
    assert not (folder / "results").exists()


def test_both_own_parts_train_by_script(folder: Path) -> None:
    import log_normal
    import set_score
    import staffing

    torch.set_num_threads(1)
    task = staffing.make_task(np.random.default_rng(0))
    knobs = ddfl.TrainingSettings(epochs=1, batch_size=120, learning_rate=1e-3)
    fitted = ddfl.train(
        task,
        log_normal.LogNormal,
        set_score.SetScore(num_scenarios=6),
        fit=knobs,
        train=knobs,
        device="cpu",
    )
    assert fitted.history["train"][1][1]["gradient_norm"] > 0
    assert (fitted.sample(task.dataset.contexts[:5], 20) > 0).all()


def test_a_new_day_of_one_category_is_decided_under_the_names_of_the_shifts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import categories

    assert categories.fitted.feature_names[-3:] == ("weather_rain", "weather_snow", "weather_sun")
    assert categories.tomorrow.iloc[0, -3:].tolist() == [0, True, 0]
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["morning", "noon", "evening"]
    assert all(float(part) > 0 for part in row.split()[1:])


@pytest.mark.slow
def test_the_weights_of_the_page_are_those_of_its_column_and_its_predictor_takes_them(
    folder: Path,
) -> None:
    import log_normal
    import weighted

    data = weighted.task.dataset
    np.testing.assert_array_equal(data.weights, weighted.frame["recency"])
    assert data.weights[-1] / data.weights[-101] == pytest.approx(2.0)
    assert np.isfinite(weighted.fitted.validation_cost)
    again = ddfl.train(weighted.task, log_normal.LogNormal, fit=weighted.knobs, device="cpu")
    assert again.fit.best_score < again.fit.first_score


@pytest.mark.slow
def test_the_residual_predictor_of_the_page_trains_on_a_base_that_did_not_see_its_rows(
    folder: Path,
) -> None:
    import staffing
    import student

    torch.set_num_threads(1)
    task = staffing.make_task(np.random.default_rng(0))
    knobs = ddfl.TrainingSettings(epochs=2, batch_size=60, learning_rate=1e-2)
    for estimator in (ddfl.Reparam(6), ddfl.Score(6)):
        fitted = ddfl.train(
            task,
            student.Student,
            estimator,
            foundation=knobs,
            fit=knobs,
            train=knobs,
            device="cpu",
        )
        assert {f"foundation-{fold}" for fold in range(4)} < fitted.history.keys()
        assert fitted.history["train"][1][1]["decision_norm"] > 0
        assert fitted.sample(task.dataset.contexts[:5], 20).std() > 0


def test_the_estimator_of_the_page_is_unbiased_where_the_gradient_is_known(folder: Path) -> None:
    """One scenario of N(mu, 1) a set, z* = y, cost (z - 2)^2 / 2: the gradient in mu is mu - 2."""
    import set_score

    class Shift(ddfl.Predictor):
        def __init__(self) -> None:
            super().__init__(1, 1)
            self.mu = torch.nn.Parameter(torch.tensor([0.5]))

        def loss(self, context, outcome, generator):
            return 0.0 * self.mu.sum()

        def sample(self, context, num_scenarios, generator, differentiable=False, **options):
            noise = torch.randn(len(context), num_scenarios, 1, generator=generator)
            return (self.mu + noise).detach()

        def weighted_log_density(self, context, scenarios, weights, generator, trust_region=0.0):
            density = -0.5 * (scenarios - self.mu).square().sum(-1)
            return ddfl.LogDensity((weights * density).sum(), torch.zeros(()))

    program = ddfl.TorchProgram(1, 1, smooth=lambda y, z: 0.5 * ((z - y) ** 2).sum())
    rows = torch.zeros(4000, 1)
    predictor, layer = Shift(), ddfl.DecisionLayer(program)
    loss = set_score.SetScore(1)(
        predictor, layer, ddfl.Batch(rows, rows + 2.0), torch.Generator().manual_seed(0)
    )
    loss.value.backward()
    torch.testing.assert_close(predictor.mu.grad, torch.tensor([-1.5]), rtol=0.1, atol=0)


@pytest.mark.slow
def test_the_commands_of_the_page_run_from_the_users_folder(folder: Path) -> None:
    assert len(COMMANDS) == 4
    for command in COMMANDS:
        words = shlex.split(command.replace("~/diffusion-dfl", str(ROOT)))[1:]
        words = ["seed=0-1" if word == "seed=0-9" else word for word in words]
        script = Path(words[0]).name
        small = {"train.py": SMALL, "status.py": SMALL, "make_tables.py": ["--scale", "smoke"]}
        result = called(*words, *small[script])
        assert result.returncode == 0, result.stderr
        if script == "status.py":
            assert "2 of 2 runs are finished" in result.stdout
        if script == "make_tables.py":
            for row in (
                "Gaussian reparameterization",
                "log_normal set_score",
                "Sample average of the nearest contexts",
            ):
                assert row in result.stdout, result.stdout
    again = called(str(ROOT / "train.py"), *shlex.split(COMMANDS[0])[2:], *SMALL)
    assert "is finished" in again.stderr
    assert (folder / "results" / "runs" / "smoke" / "staffing").is_dir()
