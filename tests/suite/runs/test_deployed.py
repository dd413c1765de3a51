"""A finished run decides for new contexts as it was judged, whatever they come with."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.config.compose import identify
from diffusion_dfl.suite.runs.compile import make_task
from diffusion_dfl.suite.runs.deployed import contexts_of_test, load_run
from diffusion_dfl.suite.runs.run import run
from diffusion_dfl.training.fitted import Fitted
from tests.configs import composed

# As many scenarios in the large evaluation as in the decisions: then the noise is the same.
SMALL = (
    "data=simulated",
    "data.num_days=250",
    "scale=smoke",
    "foundation.epochs=1",
    "fit.epochs=1",
    "train.epochs=1",
    "model.width=8",
    "decision.num_scenarios=200",
    "evaluation.num_large=200",
    "device=cpu",
)
Made = tuple[DictConfig, Path]


def _made(root: Path, *words: str) -> Made:
    if {"task=inventory", "task=synthetic"} & {*words}:
        words = (*words, "data.num_days=1200")  # They have no days.
    config = composed([*SMALL, *words, f"output.root={root}"])
    run(config)
    return config, root / "runs" / identify(config).path


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _made(tmp_path_factory.mktemp("gaussian"), "model=gaussian", "grad=reparam")


@pytest.fixture
def copied(gaussian: Made, tmp_path: Path) -> Path:
    """The run in another place, to be damaged."""
    return Path(shutil.copytree(gaussian[1], tmp_path / "run"))


def _judged(config: DictConfig, path: Path, deployed: Fitted) -> None:
    """The decisions on the test rows cost what the run's rows.csv says."""
    task = make_task(config)
    rows = task.dataset.test
    made = deployed.decide(task.dataset.contexts[rows], as_judged=True)
    assert made.made.all()
    found = task.judge(rows, made.decision).per_row
    recorded = pd.read_csv(path / "rows.csv")["task"].to_numpy()
    np.testing.assert_allclose(found, recorded, rtol=0, atol=2e-6)


def test_test_rows_cost_what_the_run_recorded(gaussian: Made) -> None:
    config, path = gaussian
    _judged(config, path, load_run(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("model=deterministic", "grad=two_stage"),
        ("model=policy", "grad=policy"),
        ("model=diffusion", "grad=score"),
        ("task=inventory", "model=gaussian", "grad=two_stage", "task.num_test=70"),
        ("task=synthetic", "model=gaussian", "grad=two_stage"),
        ("task=portfolio", "task.num_assets=5", "model=gaussian", "grad=two_stage"),
    ],
    ids=" ".join,
)
def test_so_does_every_kind_of_run(words: tuple[str, ...], tmp_path: Path) -> None:
    if "task=portfolio" in words:
        words = (*words, "data.num_days=1200", "task.first_day=2004-01-01")
    config, path = _made(tmp_path, *words)
    _judged(config, path, load_run(path))


def test_neither_data_nor_task_is_needed(gaussian: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: DictConfig) -> None:
        raise AssertionError("the task was made")

    monkeypatch.setattr("diffusion_dfl.suite.runs.deployed.make_task", refuse)
    deployed = load_run(gaussian[1])
    assert len(deployed.interface.features) == 30
    assert deployed.interface.decisions[:2] == ("h00", "h01")


def test_a_run_without_interface_file_makes_its_task(copied: Path, gaussian: Made) -> None:
    wanted = load_run(gaussian[1])
    (copied / "interface.json").unlink()
    status = (copied / "status.json").read_text()
    (copied / "status.json").write_text(status.replace("interface.json", "other.json"))
    found = load_run(copied)
    assert found.interface == wanted.interface


def _contexts(gaussian: Made, rows: int) -> np.ndarray:
    contexts = contexts_of_test(gaussian[1], {})
    return np.resize(contexts, (rows, contexts.shape[1]))


@pytest.mark.parametrize("size", [1, 7, 81, 82, 1000])
def test_batches_change_no_bit_of_a_decision(size: int, gaussian: Made) -> None:
    deployed = load_run(gaussian[1])
    contexts = _contexts(gaussian, 190)
    whole = deployed.decide(contexts)
    parts = list(deployed.stream(contexts[i : i + size] for i in range(0, 190, size)))
    assert np.array_equal(np.concatenate([part.decision for part in parts]), whole.decision)
    assert max(map(len, parts)) <= 16384 // 200


def _same_beginning(deployed: Fitted, contexts: np.ndarray) -> None:
    whole = deployed.decide(contexts)
    for rows in (1, len(contexts) - 1):
        assert np.array_equal(deployed.decide(contexts[:rows]).decision, whole.decision[:rows])


def test_the_decision_of_a_row_does_not_depend_on_the_rows_after_it(gaussian: Made) -> None:
    _same_beginning(load_run(gaussian[1]), _contexts(gaussian, 40))
    _same_beginning(load_run(gaussian[1]), _contexts(gaussian, 90))


@pytest.mark.slow
def test_nor_does_it_where_a_chain_of_draws_makes_it(tmp_path: Path) -> None:
    _, path = _made(tmp_path, "model=diffusion", "grad=two_stage")
    _same_beginning(load_run(path), contexts_of_test(path, {})[:40])


def test_a_row_that_is_missing_a_value_is_refused_and_changes_no_other(gaussian: Made) -> None:
    deployed = load_run(gaussian[1])
    contexts = _contexts(gaussian, 40)
    whole = deployed.decide(contexts)
    contexts[[3, 17], [0, 5]] = np.nan, np.inf
    (made,) = deployed.stream([contexts])
    assert np.flatnonzero(made.refused).tolist() == [3, 17]
    assert np.isnan(made.decision[[3, 17]]).all()
    assert made.outcome(3) == ("refused", "refused: a feature is missing or not finite")
    assert made.outcome(4)[0] == "solved"
    others = np.setdiff1d(np.arange(40), [3, 17])
    assert np.array_equal(made.decision[others], whole.decision[others])


def test_no_rows_get_no_decisions(gaussian: Made) -> None:
    made = load_run(gaussian[1]).decide(np.empty((0, 30)))
    assert made.decision.shape == (0, 24)


def test_contexts_of_another_width_are_refused(gaussian: Made) -> None:
    with pytest.raises(UserError, match=r"shape \(3, 29\); expected \(N, 30\)"):
        load_run(gaussian[1]).decide(np.zeros((3, 29)))


def _without_weights(path: Path) -> None:
    (path / "weights.pt").unlink()


def _unfinished(path: Path) -> None:
    (path / "status.json").write_text('{"status": "interrupted"}')


def _cut(path: Path) -> None:
    (path / "weights.pt").write_bytes((path / "weights.pt").read_bytes()[:-9])


def _other_config(path: Path) -> None:
    (path / "config.yaml").write_text((path / "config.yaml").read_text() + "# \n")


def _gone(path: Path) -> None:
    (path / "config.yaml").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            _without_weights,
            r"no weights \(committed records.*`python train.py task=power model=gau",
        ),
        (_unfinished, "is interrupted, not finished"),
        (_cut, "weights.pt is damaged"),
        (_other_config, "config.yaml is damaged"),
        (_gone, "there is no run"),
    ],
)
def test_what_is_no_finished_run_is_refused_with_what_to_do(
    damage: Callable[[Path], None], said: str, copied: Path
) -> None:
    damage(copied)
    with pytest.raises(UserError, match=said):
        load_run(copied)


def test_a_pooled_task_has_one_decision_for_all(tmp_path: Path) -> None:
    _, path = _made(tmp_path, "task=synthetic", "model=gaussian", "grad=two_stage")
    deployed = load_run(path)
    rows = np.array([[np.nan], [1.0], [1.0]])
    (made,) = deployed.stream([rows])
    assert made.made.tolist() == [False, True, True]
    assert torch.equal(torch.tensor(made.decision[1]), torch.tensor(made.decision[2]))
