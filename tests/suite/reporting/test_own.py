"""Runs of own tasks, models and grads have a table; ours have theirs."""

import pandas as pd

from diffusion_dfl.suite.reporting.own import own_runs, render_own

KNOWN = ["power", "synthetic"]


def runs() -> pd.DataFrame:
    def row(task: str, model: str, grad: str, seed: int, cost: float, config: str) -> dict:
        return {
            "task": task,
            "model": model,
            "grad": grad,
            "scale": "laptop",
            "source": "own",
            "seed": seed,
            "config_hash": config,
            "differs": "{}",
            "test.task": cost,
            "test.higher_is_better": False,
            "test.baselines.saa": 5.0,
        }

    return pd.DataFrame(
        [
            row("shop", "gaussian", "score", 0, 1.0, "a"),
            row("shop", "gaussian", "score", 1, 3.0, "a"),
            row("shop", "gaussian", "score", 2, 9.0, "b"),
            row("power", "gaussian", "score", 0, 7.0, "a"),
            row("power", "net", "score", 0, 8.0, "a"),
        ]
    )


def test_what_no_other_table_shows_is_shown_and_nothing_else() -> None:
    found = own_runs(runs(), KNOWN, "laptop", None)
    assert found["test.task"].tolist() == [1.0, 3.0, 9.0, 8.0]
    assert own_runs(runs(), KNOWN, "laptop", "shop")["task"].unique().tolist() == ["shop"]
    assert own_runs(runs(), KNOWN, "paper", None).empty
    assert own_runs(pd.DataFrame(), KNOWN, "laptop", None).empty
    assert render_own(pd.DataFrame()) == ""


def test_only_runs_of_one_configuration_are_averaged() -> None:
    text = render_own(own_runs(runs(), KNOWN, "laptop", "shop"))
    assert "## shop (own data, scale laptop)" in text
    assert "| gaussian | score | – | 2 | 2.000 ± 1.000 |" in text
    assert "| gaussian | score | – | 1 | 9.000 |" in text
    assert "| Saa | plain | – | 3 | 5.000 ± 0.000 |" in text
