"""`train` without any configuration: the same numbers as a run, no file, clear refusals."""

import inspect
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

import diffusion_dfl as ddfl
from diffusion_dfl.suite.config.compose import compose_config
from diffusion_dfl.suite.runs.compile import make_task
from diffusion_dfl.training import api

torch.set_num_threads(1)
SHORT = ddfl.TrainingSettings(epochs=2, batch_size=16, learning_rate=1e-2)
SMALL = partial(ddfl.GaussianPredictor, width=8, layers=1)
RULE = ddfl.DecisionRule(num_scenarios=6)


def stock(limit: Any = 11.0, **parts: Any) -> ddfl.TorchProgram:
    """Two goods in one store."""
    given = {
        "smooth": lambda y, z: 0.1 * (z**2).sum(),
        "hinges": [ddfl.Hinge(4.0, lambda y, z: y - z), ddfl.Hinge(1.0, lambda y, z: z - y)],
        "lower": 0.0,
        "matrix": torch.ones(1, 2),
        "limit": limit if callable(limit) else torch.tensor([limit]),
        **parts,
    }
    return ddfl.TorchProgram(num_decisions=2, num_outcomes=2, **given)


def frame(days: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    heat = rng.random(days)
    demand = 3.0 + 2.0 * heat[:, None] + rng.gamma(2.0, 0.5, (days, 2))
    return pd.DataFrame({"heat": heat, "room": 6.0 + heat, "a": demand[:, 0], "b": demand[:, 1]})


def task(program: ddfl.Program | None = None, data: pd.DataFrame | None = None) -> ddfl.FrameTask:
    return ddfl.task_from_frame(
        "stock",
        stock() if program is None else program,
        frame() if data is None else data,
        context=["heat", "room"],
        outcome=["a", "b"],
    )


def fitted(estimator: ddfl.Estimator | None = None, **options: Any) -> ddfl.Fitted:
    given = {"decision": RULE, "fit": SHORT, "train": SHORT, "device": "cpu", **options}
    return ddfl.train(task(), given.pop("predictor", SMALL), estimator, **given)


@pytest.mark.parametrize(
    ("predictor", "estimator"),
    [
        (partial(ddfl.DeterministicPredictor, width=8), ddfl.Reparam(6)),
        (SMALL, ddfl.Score(6, fit_weight=0.5)),
        (
            partial(
                ddfl.DiffusionPredictor,
                width=8,
                num_diffusion_steps=8,
                sampling=ddfl.Sampling(3, sampler="ancestral", variance="beta", final_noise=True),
                outcome_scaling="residual",
            ),
            ddfl.ScorePath(6, fit_weight=1.0),
        ),
        (partial(ddfl.PolicyNetwork, width=8), ddfl.Policy()),
    ],
    ids=["deterministic", "gaussian", "diffusion", "policy"],
)
def test_every_predictor_is_trained_through_a_problem_of_torch_functions(
    predictor: Any, estimator: ddfl.Estimator
) -> None:
    found = ddfl.train(
        task(),
        predictor,
        estimator,
        decision=RULE,
        foundation=SHORT,
        fit=SHORT,
        train=SHORT,
        device="cpu",
    )
    assert [epoch for epoch, _ in found.history["train"]] == [0, 1, 2]
    assert found.history["train"][1][1]["gradient_norm"] > 0
    result = found.evaluate(num_large=12)
    assert math.isfinite(result.metrics["task"])
    assert result.metrics["hindsight_cost"] < result.metrics["task"]
    decisions = found.decide(task().dataset.contexts)
    assert decisions.decision.shape == (80, 2)
    assert set(decisions.sentences) == {"solved: the KKT residuals are within tolerance"}
    assert (decisions.decision.sum(1) <= 11.0 + 1e-6).all()


def test_the_same_seed_gives_the_same_decisions_and_another_seed_others() -> None:
    first, again, other = (fitted(seed=seed).decide(frame()).decision for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_call_leaves_the_random_state_and_the_folder_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    fitted(ddfl.Reparam(6)).evaluate(num_large=6)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(tmp_path.iterdir()) == []


def test_with_a_directory_the_same_call_goes_on_and_another_one_is_refused(tmp_path: Path) -> None:
    cut = ddfl.TrainingSettings(epochs=1, batch_size=16, learning_rate=1e-2)
    whole = fitted(ddfl.Reparam(6), directory=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.pt") if "previous" not in path.name) == [
        "fit.pt",
        "train.pt",
    ]
    again = fitted(ddfl.Reparam(6), directory=tmp_path)
    assert np.array_equal(again.decide(frame()).decision, whole.decide(frame()).decision)
    with pytest.raises(
        ddfl.UserError, match="is the checkpoint of stock GaussianPredictor-Reparam"
    ):
        fitted(ddfl.Reparam(6), directory=tmp_path, train=cut)


def _in_folder(folder: Path, **parts: Any) -> ddfl.Fitted:
    given: dict[str, Any] = {"task": task(), "predictor": SMALL, **parts}
    return ddfl.train(
        given["task"],
        given["predictor"],
        ddfl.Reparam(6),
        decision=RULE,
        fit=SHORT,
        train=SHORT,
        device="cpu",
        directory=folder,
    )


@pytest.fixture(scope="module")
def in_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints, which the same problem made anew goes on from."""
    folder = tmp_path_factory.mktemp("checkpoints")
    _in_folder(folder)
    _in_folder(folder, task=task())
    return folder


def _costs(over: float, under: float) -> list[ddfl.Hinge]:
    return [ddfl.Hinge(under, lambda y, z: y - z), ddfl.Hinge(over, lambda y, z: z - y)]


@pytest.mark.parametrize(
    "parts",
    [
        {"task": task(stock(hinges=_costs(4.0, 1.0)))},
        {"task": task(stock(smooth=lambda y, z: 0.2 * (z**2).sum()))},
        {"task": task(stock(limit=12.0))},
        {
            "task": ddfl.task_from_frame(
                "stock",
                stock(),
                frame(),
                context=["heat", "room"],
                outcome=["a", "b"],
                shares=(0.6, 0.3, 0.1),
            )
        },
        {"predictor": partial(ddfl.GaussianPredictor, width=8, layers=1, dropout=0.3)},
        {"predictor": partial(ddfl.GaussianPredictor, width=8, layers=1, max_log_variance=2.0)},
    ],
    ids=["costs", "smooth", "limit", "split", "dropout", "option"],
)
def test_checkpoints_of_another_problem_are_refused(
    parts: dict[str, Any], in_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(in_folder, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ddfl.UserError, match="is the checkpoint of stock"):
        _in_folder(tmp_path, **parts)


def test_a_folder_is_refused_for_a_cost_that_cannot_be_compared(tmp_path: Path) -> None:
    noise = torch.Generator()

    def smooth(y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        assert noise is not None
        return (z**2).sum()

    with pytest.raises(
        ddfl.UserError, match=r"noise in program\.smooth is a .*Generator.*leave out"
    ):
        _in_folder(tmp_path, task=task(stock(smooth=smooth)))
    assert list(tmp_path.glob("*.pt")) == []


def test_a_fitted_predictor_is_taken_as_it_is_and_left_as_it_was() -> None:
    two_stage = fitted()
    state = {name: value.clone() for name, value in two_stage.predictor.state_dict().items()}
    direct = fitted(ddfl.Reparam(6))
    later = fitted(ddfl.Reparam(6), predictor=two_stage.predictor, fit=None)
    assert later.fit is None and later.train is not None
    assert np.array_equal(later.decide(frame()).decision, direct.decide(frame()).decision)
    for name, value in two_stage.predictor.state_dict().items():
        assert torch.equal(value, state[name])


def test_a_policy_has_as_many_outputs_as_there_are_decisions() -> None:
    program = ddfl.TorchProgram(
        num_decisions=3,
        num_outcomes=2,
        smooth=lambda y, z: ((z[:2] - y) ** 2).sum() + (z[2] - z[0]) ** 2,
    )
    found = ddfl.train(
        task(program),
        partial(ddfl.PolicyNetwork, width=8),
        ddfl.Policy(),
        train=SHORT,
        device="cpu",
    )
    assert found.decide(frame()).decision.shape == (80, 3)
    with pytest.raises(TypeError, match=r"predicts no outcome; use decide\(\)"):
        found.sample(frame(), 5)


def test_constraints_may_depend_on_the_context_the_network_sees_noisily() -> None:
    program = stock(limit=lambda x: x[1:2])
    noisy = ddfl.TrainingSettings(epochs=1, batch_size=16, learning_rate=1e-2, context_noise=0.5)
    found = ddfl.train(
        task(program),
        SMALL,
        ddfl.Score(6, fit_weight=0.5),
        decision=RULE,
        fit=SHORT,
        train=noisy,
        device="cpu",
    )
    data = frame()
    total = found.decide(data).decision.sum(1)
    assert (total <= data["room"] + 1e-6).all()
    assert (total > data["room"] - 1e-3).any()
    rows = found.task.dataset.test
    saa = found.task.baselines()["saa"].sum(1)
    assert (saa <= data["room"].to_numpy()[rows] + 1e-6).all()


@pytest.mark.parametrize(
    ("predictor", "estimator"),
    [
        (SMALL, ddfl.Score(6, fit_weight=0.5)),
        (partial(ddfl.PolicyNetwork, width=8), ddfl.Policy()),
    ],
    ids=["gaussian", "policy"],
)
def test_limits_that_leave_one_decision_are_those_of_the_contexts_to_their_last_bit(
    predictor: Any, estimator: ddfl.Estimator
) -> None:
    # z <= (room / 3, 2 room / 3) and z_1 + z_2 = room: of room in float32 too much or too little.
    data = frame()
    data["third"], data["rest"] = data["room"] / 3, data["room"] - data["room"] / 3
    program = ddfl.TorchProgram(
        num_decisions=2,
        num_outcomes=2,
        smooth=lambda y, z: ((z - y) ** 2).sum(),
        upper=lambda x: x[1:3],
        equality_matrix=torch.ones(1, 2, dtype=torch.float64),
        equality_value=lambda x: x[:1],
    )
    exact = ddfl.task_from_frame(
        "stock", program, data, context=["room", "third", "rest"], outcome=["a", "b"]
    )
    found = ddfl.train(
        exact, predictor, estimator, decision=RULE, fit=SHORT, train=SHORT, device="cpu"
    )
    made = found.decide(data)
    assert np.isfinite(made.decision).all()
    np.testing.assert_allclose(made.decision, data[["third", "rest"]].to_numpy(), atol=1e-7)
    assert found.evaluate(num_large=6).metrics["solver_failures"] == 0


def test_a_frame_s_numbers_that_are_not_to_be_written_are_taken_without_a_warning() -> None:
    found = fitted()
    values = frame()[["heat", "room"]]
    fixed = values.to_numpy()
    fixed.setflags(write=False)
    tensor = torch.as_tensor(values.to_numpy(copy=True))
    expected = found.decide(values).decision
    for given in (fixed, fixed.tolist(), tensor):
        assert np.array_equal(found.decide(given).decision, expected)


@pytest.mark.parametrize(
    "predictor",
    [
        SMALL,
        partial(ddfl.DiffusionPredictor, width=8, num_diffusion_steps=8, sampling=ddfl.Sampling(3)),
    ],
    ids=["gaussian", "diffusion"],
)
def test_the_decision_of_a_row_does_not_depend_on_the_rows_after_it(predictor: Any) -> None:
    found = fitted(predictor=predictor)
    whole = found.decide(frame())
    for count in (1, 39):
        # Scenarios are the same to the last bit; a solver's vector lanes are of other rows.
        made = found.decide(frame()[:count]).decision
        np.testing.assert_allclose(made, whole.decision[:count], rtol=0, atol=1e-13)


def test_a_pooled_task_has_one_decision_which_is_the_one_that_is_evaluated() -> None:
    pooled = make_task(compose_config(["task=synthetic", "model=gaussian", "scale=smoke"]))
    assert pooled.pooled
    found = ddfl.train(
        pooled, SMALL, decision=ddfl.DecisionRule(num_scenarios=6), fit=SHORT, device="cpu"
    )
    rows = pooled.dataset.test
    made = found.decide(pooled.dataset.contexts[rows])
    assert made.decision.shape == (len(rows), pooled.program.num_decisions)
    assert len(made.status) == len(rows)
    assert (made.decision == made.decision[0]).all()
    judged = found.evaluate(num_large=6).metrics["task"]
    assert pooled.judge(rows, made.decision).task == pytest.approx(judged, rel=1e-12)


def test_the_defaults_are_those_of_the_configuration() -> None:
    # A cell without a preset.
    config = compose_config(["task=power_weather", "model=gaussian", "grad=reparam"])
    plain: Any = OmegaConf.to_container(config)
    assert ddfl.TrainingSettings(**plain["train"]) == api.TRAIN
    # A run is trained again on all rows before the test; a call of the library is what it says.
    assert plain["fit"].pop("refit") is True
    assert inspect.signature(ddfl.train).parameters["refit"].default is False
    assert ddfl.TrainingSettings(**plain["fit"]) == api.FIT
    assert ddfl.TrainingSettings(**plain["foundation"]) == api.FIT
    assert ddfl.DecisionRule(**plain["decision"]) == ddfl.DecisionRule()


def test_a_stage_learns_from_fewer_scenarios_than_decide_by_intent_only() -> None:
    drawn: list[int] = []

    class Watched(ddfl.GaussianPredictor):
        def sample(
            self, context: torch.Tensor, num_scenarios: int, *given: Any, **options: Any
        ) -> torch.Tensor:
            drawn.append(num_scenarios)
            return super().sample(context, num_scenarios, *given, **options)

    rule = ddfl.DecisionRule(num_scenarios=6, train_scenarios=3)
    predictor = partial(Watched, width=8, layers=1)
    found = fitted(ddfl.Reparam(3), predictor=predictor, decision=rule)
    assert set(drawn) == {3, 6}
    assert found.rule == rule
    drawn.clear()
    found.decide([[0.5, 6.5]])
    assert drawn == [6]
    # No more than decide: a smaller M takes the other with it.
    assert ddfl.DecisionRule(num_scenarios=2, train_scenarios=3).learned_from == 2
    with pytest.raises(ddfl.UserError, match="decision.train_scenarios=4"):
        fitted(ddfl.Reparam(4), decision=rule)
    one = ddfl.DecisionRule(num_scenarios=6, train_scenarios=1)
    with pytest.raises(ddfl.UserError, match="train_scenarios=1: the weights of one scenario"):
        fitted(ddfl.Score(1), decision=one)


@pytest.mark.parametrize(
    ("estimator", "options", "message"),
    [
        (ddfl.Reparam(5), {}, "num_scenarios=6, but Reparam has num_scenarios=5"),
        (ddfl.Policy(), {}, "Policy trains a PolicyNetwork, not a GaussianPredictor"),
        (ddfl.ScorePath(6), {}, "needs a DiffusionPredictor"),
        (
            ddfl.Score(6),
            {"predictor": ddfl.DeterministicPredictor},
            "DeterministicPredictor says has_density = False",
        ),
        (
            ddfl.Reparam(6),
            {"predictor": ddfl.PolicyNetwork},
            "PolicyNetwork says pathwise = False",
        ),
        (None, {"predictor": ddfl.PolicyNetwork}, "nothing to fit; use Policy"),
        (
            ddfl.Score(6),
            {"decision": ddfl.DecisionRule(6, bandwidth_scale=0.0)},
            "so its score gradient is zero",
        ),
        (ddfl.Score, {}, "is no estimator"),
        (lambda *a: None, {}, "no attribute decision_focused"),
        (None, {"predictor": ddfl.GaussianPredictor(3, 2)}, "context_size=3.*needs 2 and 2"),
        (None, {"predictor": SMALL, "fit": None}, "fit=None takes a predictor that was fitted"),
        (None, {"predictor": 3}, "expected a Predictor, or a class or function"),
        (None, {"predictor": torch.nn.Linear}, "made a Linear; expected a subclass of Predictor"),
        (None, {"device": "tpu"}, "device=tpu is no device"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_training(
    estimator: Any, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.Steps, "fit", lambda *a: pytest.fail("trained"))
    with pytest.raises(ddfl.UserError, match=message):
        fitted(estimator, **options)


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        (np.zeros((3, 5)), r"shape \(3, 5\); expected \(N, 2\), the columns heat, room"),
        (np.array([[0.5, np.nan]]), "room is nan in row 0"),
        (pd.DataFrame({"heat": [0.1]}), "expected the context columns heat, room; found no room"),
        (pd.DataFrame({"heat": ["hot"], "room": [1.0]}), "heat is .*expected numbers"),
    ],
)
def test_contexts_of_another_form_are_refused(contexts: Any, message: str) -> None:
    found = fitted()
    with pytest.raises(ddfl.UserError, match=message):
        found.decide(contexts)


def test_an_experiment_says_all_that_a_call_says() -> None:
    called = fitted(ddfl.Reparam(6))
    said = ddfl.Experiment(
        called.task,
        SMALL,
        ddfl.Reparam(6),
        called.rule,
        ddfl.Stages(fit=SHORT, train=SHORT),
        called.seed,
    )
    again = ddfl.train(said, device="cpu")
    assert again.validation_cost == called.validation_cost
    with pytest.raises(
        ddfl.UserError, match=r"train\(experiment\) takes device=, directory= and progress= alone"
    ):
        ddfl.train(said, seed=3)


def test_decisions_are_called_what_the_task_calls_them() -> None:
    parts = ("stock", stock(), frame(), ["heat", "room"], ["a", "b"])
    named = ddfl.task_from_frame(*parts, decisions=["left", "right"])
    assert named.decision_names == ("left", "right")
    assert ddfl.task_from_frame(*parts).decision_names == ("decision_0", "decision_1")
    trained = ddfl.train(named, SMALL, decision=RULE, fit=SHORT, device="cpu")
    assert trained.decision_names == named.decision_names
    assert trained.feature_names == named.dataset.feature_names == ("heat", "room")
    with pytest.raises(ddfl.DataError, match="expected 2 different names"):
        ddfl.task_from_frame(*parts, decisions=["left", "left"])
