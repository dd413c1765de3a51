"""What a script gives `train`, `compare` and `evaluate`, and what a predictor of its own gives them."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from diffusion_dfl import (
    Fitted,
    FrameTask,
    GaussianPredictor,
    Hinge,
    Predictor,
    Reparam,
    Score,
    TorchProgram,
    TrainingSettings,
    UserError,
    compare,
    solve,
    task_from_frame,
    train,
)
from diffusion_dfl.predictors import LogDensity

SETTINGS = TrainingSettings(epochs=1, batch_size=32, learning_rate=1e-3)
STAGES: dict[str, Any] = {"fit": SETTINGS, "train": SETTINGS, "progress": False}


@pytest.fixture(scope="module")
def task() -> FrameTask:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=60), "b": rng.normal(size=60)})
    frame["y"] = 5 + frame.a + rng.normal(size=60)
    hinges = [Hinge(4.0, lambda y, z: y - z), Hinge(1.0, lambda y, z: z - y)]
    return task_from_frame(
        "own", TorchProgram(1, 1, hinges=hinges, lower=0.0, upper=20.0), frame, ["a", "b"], ["y"]
    )


@pytest.fixture(scope="module")
def fitted(task: FrameTask) -> Fitted:
    return train(task, GaussianPredictor, **STAGES)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"train": None}, "train=None: expected TrainingSettings"),
        ({"fit": {}}, "fit={}: expected TrainingSettings.*or None for a predictor that was fitted"),
        ({"foundation": 3}, "foundation=3: expected TrainingSettings"),
        ({"refit": "no"}, "refit='no': expected True or False"),
        ({"seed": -1}, "seed=-1 must be an integer >= 0"),
        ({"seed": 1.5}, "seed=1.5 is float; it must be an integer"),
        ({"seed": "3"}, "seed='3' is str"),
        ({"seed": None}, "seed=None is NoneType"),
        ({"decision": "exact"}, "decision='exact': expected a DecisionRule"),
        ({"directory": 5}, "directory=5: expected a folder's path"),
    ],
)
def test_an_argument_that_is_none_is_refused_by_name(
    task: FrameTask, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        train(task, GaussianPredictor, Reparam(10), **{**STAGES, **given})


def test_a_frame_is_no_task(task: FrameTask) -> None:
    frame: Any = pd.DataFrame({"a": [1.0]})
    with pytest.raises(UserError, match="task is DataFrame: expected a Task, as task_from_frame"):
        train(frame, GaussianPredictor, **STAGES)


def test_a_seed_of_numpy_or_torch_is_that_number(task: FrameTask, fitted: Fitted) -> None:
    for seed in (np.int64(0), torch.tensor(0)):
        again = train(task, GaussianPredictor, seed=seed, **STAGES)
        assert again.evaluate(progress=False).metrics == fitted.evaluate(progress=False).metrics


@pytest.mark.parametrize("value", ["a", None, [1e-3]])
def test_a_knob_that_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(
        TypeError, match=re.escape(f"learning_rate={value!r} must be a finite number > 0")
    ):
        TrainingSettings(epochs=1, batch_size=32, learning_rate=value)


def test_what_is_compared_has_names_and_was_trained(fitted: Fitted) -> None:
    for given, told in (
        ([fitted], "list has no names; pass name -> a trained predictor"),
        (fitted, "Fitted has no names"),
        ({"mine": 1}, "mine: int is no trained predictor"),
    ):
        wrong: Any = given
        with pytest.raises(UserError, match=told):
            compare(wrong)


def test_a_part_and_a_count_are_checked(fitted: Fitted) -> None:
    part: Any = "val"
    with pytest.raises(UserError, match="part='val': expected train, validation, test, known"):
        fitted.evaluate(part)
    count: Any = 1e2
    with pytest.raises(TypeError, match=r"num_large=100.0 is float; it must be an integer"):
        fitted.evaluate(num_large=count)


class Own(Predictor):
    """A linear Gaussian, or what somebody takes for one."""

    def __init__(self, context_size: int, outcome_size: int, mistake: str) -> None:
        super().__init__(context_size, outcome_size)
        self.mean, self.mistake = nn.Linear(context_size, outcome_size), mistake

    def sample(
        self, context: Tensor, num_scenarios: int, generator: torch.Generator, *_: Any, **__: Any
    ) -> Any:
        shape = (len(context), num_scenarios, self.outcome_size)
        drawn = self.mean(context).unsqueeze(1) + torch.randn(shape, generator=generator)
        made = {
            "one too few": drawn[:, 1:],
            "flat": drawn[..., 0],
            "wide": drawn.expand(-1, -1, 3),
            "no graph": drawn.detach(),
            "an array": drawn.detach().numpy(),
            "integers": drawn.long(),
        }
        return made.get(self.mistake, drawn)

    def loss(self, context: Tensor, outcome: Tensor, generator: torch.Generator) -> Any:
        rows = (self.mean(context) - outcome).square().mean(1)
        made = {
            "a loss a row": rows,
            "a loss without graph": rows.mean().detach(),
            "a float": 2.0,
            "nothing": None,
        }
        return made.get(self.mistake, rows.mean())

    def weighted_log_density(self, *_: Any, **__: Any) -> LogDensity:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("one too few", r"Own.sample gave scenarios \(\d+, 9, 1\); expected \(B, M, d_y\) = \(\d+, 10, 1\)"),
        ("flat", r"Own.sample gave scenarios \(\d+, 10\)"),
        ("wide", r"Own.sample gave scenarios \(\d+, 10, 3\)"),
        ("no graph", "without a graph, and so no pathwise gradient"),
        ("an array", "Own.sample gave ndarray; expected a tensor of floats"),
        ("integers", "Own.sample gave torch.int64; expected a tensor of floats"),
        ("a loss a row", r"Own.loss gave shape \(\d+,\); expected a scalar tensor"),
        ("a loss without graph", "Own.loss gave a number without a graph, which trains nothing"),
        ("a float", "Own.loss gave 2.0; expected a scalar tensor"),
        ("nothing", "Own.loss gave None; expected a scalar tensor"),
    ],
)  # fmt: skip
def test_what_a_predictor_of_one_s_own_gives_is_checked(
    task: FrameTask, mistake: str, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        train(task, lambda x, y: Own(x, y, mistake), Reparam(10), **STAGES)
    assert train(task, lambda x, y: Own(x, y, ""), Reparam(10), **STAGES).predictor


def test_scenarios_without_graph_are_all_that_a_score_wants(task: FrameTask) -> None:
    with pytest.raises(NotImplementedError):
        train(task, lambda x, y: Own(x, y, "no graph"), Score(10), **STAGES)


def test_a_prediction_without_spread_may_be_given_once_or_as_often_as_asked() -> None:
    context, generator = torch.zeros(2, 2), torch.Generator()
    for count in (1, 10):

        class Certain(Own):
            stochastic = False

            def sample(self, context: Tensor, *_: Any, times: int = count, **__: Any) -> Tensor:
                return self.mean(context).unsqueeze(1).expand(-1, times, -1)

        found = Certain(2, 1, "").checked_sample(context, 10, generator)
        assert found.shape == (2, count, 1)


class Priced(nn.Module):
    def forward(self, y: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return (z - y - x[:1]).square().sum()


def test_a_context_that_may_be_left_out_or_is_a_module_s_is_not_left_out() -> None:
    y, x = torch.ones(2, 3, 1, dtype=torch.float64), torch.full((2, 1), 5.0, dtype=torch.float64)

    def optional(y: Tensor, z: Tensor, x: Tensor | None = None) -> Tensor:
        return (z - y - (0.0 if x is None else x[:1])).square().sum()

    for cost in (optional, Priced()):
        found = solve(TorchProgram(1, 1, smooth=cost), y, context=x)
        torch.testing.assert_close(found.decision, torch.full_like(found.decision, 6.0))
    with pytest.raises(ValueError, match=r"takes the context.*pass context="):
        solve(TorchProgram(1, 1, smooth=optional), y)
    for price in (2.0, 3.0):
        constant = TorchProgram(1, 1, smooth=lambda y, z, p=price: (z - p * y).square().sum())
        found = solve(constant, y)
        torch.testing.assert_close(found.decision, torch.full_like(found.decision, price))
