"""What is told of a study: costs with as many decimals as tell trials apart."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

from diffusion_dfl.suite.search.report import describe, write_table
from diffusion_dfl.suite.search.space import Budget, Space
from diffusion_dfl.suite.search.study import Study
from diffusion_dfl.suite.search.trials import Outcome

PLACES: list[Any] = [SimpleNamespace(name=f"fold {number}") for number in range(3)]


@pytest.mark.parametrize(
    ("size", "shown"), [(3.0, "3.0000"), (4e-4, "0.000400"), (-4e-4, "-0.000400")]
)
def test_costs_of_a_portfolio_are_not_rounded_away(tmp_path: Path, size: float, shown: str) -> None:
    space = Space("conf/search/test.yaml", {}, {"x": [1, 2]})
    study = Study(tmp_path / "studies" / "test.journal", space, "data")
    study.begin({"x": "1"}, {"x": "2"})
    budget = Budget(trials=2, seconds=1e9)
    study.run(
        PLACES, lambda changes, _: Outcome({"1": size + 1e-6 * (changes["x"] - 1)}, {}), budget
    )
    row: Any = SimpleNamespace(root=tmp_path, name="test", instances=PLACES, stage="fit")
    assert f"best: trial 0, {shown} with" in "\n".join(describe(row, study, budget))
    table = pd.read_csv(write_table(row, study))
    assert table["mean"].diff()[1] == pytest.approx(1e-6, abs=1e-5 if size > 1 else 1e-7)


def test_every_preset_of_a_decaying_stage_says_the_decay_its_epochs_were_chosen_under() -> None:
    folder = Path(__file__).resolve().parents[3] / "conf" / "preset"
    found = 0
    for path in folder.glob("synthetic-*.yaml"):
        text = path.read_text(encoding="utf-8")
        train = (yaml.safe_load(text) or {}).get("train", {})
        if (
            "results/search/synthetic-" in text
            and ".csv" in text
            and train.get("decay") == "cosine"
        ):
            found += 1
            assert train["decay_epochs"] >= train["epochs"], path.name
    assert found >= 3
