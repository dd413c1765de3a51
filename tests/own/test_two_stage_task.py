"""A task whose cost has a second stage is trained like any other."""

import numpy as np
import pandas as pd

import diffusion_dfl as ddfl


def test_a_two_stage_task_is_trained_and_evaluated() -> None:
    rng = np.random.default_rng(0)
    known = rng.random((80, 1))
    outcomes = known + 0.5 * rng.random((80, 2))
    data = pd.DataFrame(np.hstack([known, outcomes]), columns=["known", "first", "second"])
    program = ddfl.TwoStageProgram(
        2,
        2,
        smooth=lambda y, z: z.sum() + 0.1 * (z @ z),
        lower=0.0,
        recourse=ddfl.Recourse(
            2,
            smooth=lambda y, z, u: 3.0 * u.sum() + 0.2 * (u @ u),
            inequality=lambda y, z, u: y - z - u,
            lower=0.0,
        ),
    )
    task = ddfl.task_from_frame(
        "production", program, data, ["known"], ["first", "second"], rng, source="simulated"
    )
    settings = ddfl.TrainingSettings(epochs=1, batch_size=32, learning_rate=1e-3)
    fitted = ddfl.train(
        task,
        ddfl.GaussianPredictor,
        ddfl.Reparam(6),
        decision=ddfl.DecisionRule(num_scenarios=6),
        fit=settings,
        train=settings,
    )
    found = fitted.evaluate(num_large=20)
    assert np.isfinite(found.metrics["task"])
    assert found.metrics["task"] > 0
