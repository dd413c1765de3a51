"""The user's own runs stand first, whatever their scale, task, model and grad; committed ones do not."""

from pathlib import Path

import pandas as pd

from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.own import (
    beside,
    own_in_columns,
    own_runs,
    own_tables,
    render_own,
)
from diffusion_dfl.suite.reporting.selection import selection
from tests.suite.reporting.records import place, publish, summary, write


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
            "published": False,
            "role": "",
            "test.task": cost,
            "test.higher_is_better": False,
            "test.baselines.saa": 5.0,
        }

    return pd.DataFrame(
        [
            row("shop", "gaussian", "score", 0, 1.0, "a"),
            row("shop", "gaussian", "score", 1, 3.0, "a"),
            row("shop", "gaussian", "score", 2, 9.0, "b"),
            row("power", "gaussian", "score", 0, 7.0, "a") | {"scale": "smoke"},
            row("power", "net", "score", 0, 8.0, "a") | {"role": "stale"},
            row("power", "gaussian", "score", 1, 6.0, "a") | {"published": True},
        ]
    )


def test_the_users_runs_are_those_that_are_not_committed() -> None:
    assert own_runs(runs())["test.task"].tolist() == [1.0, 3.0, 9.0, 7.0, 8.0]
    assert own_runs(runs(), ["shop"])["task"].unique().tolist() == ["shop"]
    assert own_runs(runs(), None, "smoke")["test.task"].tolist() == [7.0]
    assert own_runs(pd.DataFrame()).empty
    assert render_own(own_tables(own_runs(pd.DataFrame()))) == ""


def test_a_table_a_task_source_and_scale_names_all_three() -> None:
    text = render_own(own_tables(own_runs(runs())))
    assert text.startswith("# Yours\n")
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Power schedule (own data, scale laptop)",
        "## shop (own data, scale laptop)",
        "## Power schedule (own data, scale smoke)",
    ]
    assert "| net score (older preset) | 8.000 | 1 |" in text
    assert text.count("ranks no methods") == 1


def test_only_runs_of_one_configuration_are_averaged() -> None:
    (table,) = own_tables(own_runs(runs(), ["shop"]))
    text = render_own([table])
    assert "| Gaussian score function | 2.000 ± 1.000 | 2 |" in text
    assert "| Gaussian score function | 9.000 | 1 |" in text
    assert "| _Sample average of the rows before the test_ | 5.000 ± 0.000 | 3 |" in text
    assert (table.count, table.best) == (3, ("2.000", "Gaussian score function"))


def test_runs_of_different_problems_stand_apart_with_their_own_baselines() -> None:
    mixed = runs()[:2].assign(task="shop", differs=['{"train.epochs": 3}', '{"task.shortage": 5}'])
    mixed["test.baselines.saa"] = [5.0, 2.0]
    first, second = own_tables(own_runs(mixed))
    assert [one.rows[-1][:2] for one in (first, second)] == [
        ("_Sample average of the rows before the test_", "5.000"),
        ("_Sample average of the rows before the test_", "2.000"),
    ]
    assert second.title == "shop (own data, scale laptop, task.shortage=5)"
    assert second.rows[0][0] == "Gaussian score function"
    assert first.rows[0][0] == "Gaussian score function (train.epochs=3)"


def test_on_a_terminal_trial_scales_come_last_and_long_names_below() -> None:
    long = runs()
    long["differs"] = '{"model.width": 17, "train.learning_rate": 0.00123, "fit.epochs": 2}'
    text = own_in_columns(own_tables(own_runs(long)))
    assert max(map(len, text.splitlines())) <= 100
    assert "\n[1] model.width=17, train.learning_rate=0.00123, fit.epochs=2\n" in text
    assert text.index("scale smoke") > text.index("shop (own data, scale laptop)")
    assert text.count("is the mean over the test rows") == 1


def test_what_no_table_shows_has_the_command_that_does(tmp_path: Path) -> None:
    committed = summary("gaussian", "score", 0, 4.0)
    publish(tmp_path, {place(committed["identity"]): committed})
    for identity in (
        {"scale": "smoke", "differs": {}},
        {"scale": "laptop", "differs": {"train.epochs": 3}, "config_hash": "c"},
    ):
        record = summary("gaussian", "score", 0, 3.0, **identity)
        suffix = "-00000001" if identity["differs"] else ""
        write(tmp_path / "runs", f"{identity['scale']}/power/gaussian-score{suffix}/seed-0", record)
    found = frame(collect(tmp_path))
    found["role"] = ["run" if row == "{}" else "variant" for row in found["differs"]]
    shown = [selection(found, "power", "laptop")]
    assert [line.partition("make_tables.py")[2] for line in beside(found, shown, ["power"])] == [
        " --task power train.epochs=3",
        " --task power --scale smoke",
    ]
    assert beside(found, shown, ["synthetic"]) == []
