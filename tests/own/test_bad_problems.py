"""A problem that cannot be trained on: one clear error, by script and by task=, before training."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import diffusion_dfl as ddfl
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.config.identities import searching
from diffusion_dfl.suite.runs.run import run
from diffusion_dfl.training.steps import Steps
from tests.own.problems import FAULTS, faulty
from tests.own.test_train import SMALL, frame, stock, task

YAML = """
defaults:
  - override /data@_global_.data: own
  - _self_
name: stock
_target_: tests.own.problems.make_task
fault: {fault}
"""


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steps, "fit", lambda *a: pytest.fail("something was trained"))


@pytest.mark.parametrize("fault", FAULTS)
def test_by_script(fault: str) -> None:
    with pytest.raises(ddfl.UserError) as refusal:
        ddfl.train(faulty(fault), SMALL, ddfl.Reparam(5), device="cpu")
    assert str(refusal.value).startswith("task=stock: ")
    assert re.search(FAULTS[fault][1], str(refusal.value))


@pytest.mark.parametrize(
    "fault",
    [
        fault
        if fault in ("concave", "contradiction of rows")
        else pytest.param(fault, marks=pytest.mark.slow)
        for fault in FAULTS
    ],
)
def test_by_task(tmp_path: Path, fault: str) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "stock.yaml").write_text(YAML.format(fault=fault), encoding="utf-8")
    with searching(tmp_path):
        config = compose_config(
            [
                "task=stock",
                "model=gaussian",
                "grad=reparam",
                f"output.root={tmp_path}",
                "device=cpu",
            ]
        )
        with pytest.raises(ddfl.UserError) as refusal:
            run(config)
    assert str(refusal.value).startswith("task=stock: ")
    assert re.search(FAULTS[fault][1], str(refusal.value))
    assert list(tmp_path.rglob("*.pt")) == []


def test_a_cost_that_is_convex_where_decisions_are_allowed_passes() -> None:
    cubes = ddfl.TorchProgram(  # Concave for negative decisions, which the bound forbids.
        2,
        2,
        smooth=lambda y, z: (z**3).sum() - (y * z).sum(),
        lower=0.0,
    )
    ddfl.check_problem(task(cubes))
    saddle = ddfl.TorchProgram(  # On z1 = z2 it is a parabola.
        2,
        2,
        smooth=lambda y, z: 2 * z[0] ** 2 - z[1] ** 2 - (y * z).sum(),
        equality_matrix=torch.tensor([[1.0, -1.0]]),
        equality_value=0.0,
    )
    with pytest.raises(ddfl.UserError, match="convex"):
        ddfl.check_problem(task(saddle))  # The solver asks for curvature everywhere.


def test_a_sound_problem_passes() -> None:
    ddfl.check_problem(task())
    ddfl.check_problem(task(stock(limit=lambda x: x[1:2])))


DATA = frame()


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (DATA.drop(columns="room"), {}, "found no room. The frame has: heat, a, b"),
        (DATA.assign(room="big"), {}, "room is .*found 'big' in it; expected numbers"),
        (DATA.assign(a=DATA["a"].where(DATA["a"] > 4)), {}, r"outcome column a is nan in row \d+"),
        (DATA.assign(heat=np.inf), {}, "heat is inf in row 0 .80 such values"),
        (DATA.head(8), {}, "8 rows.*expected at least 10 rows"),
        (DATA, {"shares": (0.98, 0.01, 0.01)}, "2 in every part"),
        (DATA, {"shares": (0.5, 0.2, 0.2)}, "three positive numbers with sum 1"),
        (DATA, {"context": []}, "context=.. names no column"),
        (DATA, {"context": ["heat", "a"]}, "a is both a context and an outcome"),
        (DATA, {"context": "heat"}, "expected a list of columns, as in .'heat'."),
        (DATA, {"context": ["heat", "heat"]}, "context columns repeat"),
        (DATA, {"order": "random"}, "order='random': choose one of time, shuffled"),
        (DATA, {"date": "day"}, "expected the date column day"),
        (DATA.assign(day="noon"), {"date": "day"}, "day holds no dates"),
        (DATA.to_dict(), {}, "expected a pandas DataFrame; found dict"),
    ],
)
def test_a_frame_that_cannot_be_used_is_refused(data: object, options: dict, message: str) -> None:
    given = {"context": ["heat", "room"], "outcome": ["a", "b"], **options}
    with pytest.raises(ddfl.DataError, match=message):
        ddfl.task_from_frame("stock", stock(), data, **given)  # type: ignore[arg-type]


def test_rows_are_split_in_the_order_of_time_or_at_random() -> None:
    days = np.datetime64("2024-01-01") + np.arange(80)
    data = frame().assign(day=days).sample(frac=1.0, random_state=0)
    columns = {"context": ["heat"], "outcome": ["a", "b"]}
    timed = ddfl.task_from_frame("stock", stock(), data, **columns, date="day").dataset
    assert timed.dates is not None and (np.diff(timed.dates).astype(int) == 1).all()
    assert timed.train.max() < timed.validation.min() < timed.test.min()
    assert [len(timed.train), len(timed.validation), len(timed.test)] == [48, 16, 16]
    first, again, other = (
        ddfl.task_from_frame(
            "stock", stock(), data, **columns, rng=seed, order="shuffled"
        ).dataset.test
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_baselines_see_no_test_row() -> None:
    changed = DATA.copy()
    changed.loc[64:, ["a", "b"]] *= 3
    ours, theirs = (task(data=data).baselines() for data in (DATA, changed))
    for name in ("saa", "knn_saa"):
        assert np.array_equal(ours[name], theirs[name])
