"""Table 1: numbers, marks, baselines, paired differences, notes."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from diffusion_dfl.suite.reporting import sensitivity
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.layout import LAYOUTS, layout_of
from diffusion_dfl.suite.reporting.markdown import number, render
from diffusion_dfl.suite.reporting.table1 import build, tidy
from tests.suite.reporting.records import TWIN, frame_of, place, summary, wanted, write, write_all


def row(text: str, name: str) -> list[str]:
    """Cells of the first row of that name."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def row_below(text: str, heading: str, name: str) -> list[str]:
    return row(text[text.index(heading) :], name)


def seeds(model: str, grad: str, values: list[float], **changes: Any) -> list[dict[str, Any]]:
    return [summary(model, grad, seed, value, **changes) for seed, value in enumerate(values)]


def portfolio(model: str, grad: str, seed: int, task: float, **test: Any) -> dict[str, Any]:
    test = {"higher_is_better": True, **test}
    return summary(model, grad, seed, task, test, task="portfolio", source="sp500")


def test_table_shows_ours_beside_the_paper_and_missing_cells(tmp_path: Path) -> None:
    text = render(build(frame_of(tmp_path, seeds("diffusion", "score", [3.0, 3.2])), wanted()))
    ours = row(text, "Diffusion score function")
    assert ours[1:3] == ["2.893 ± 0.03 (0.121 an hour)", "<u>3.171 ± 0.02</u>"]
    assert ours[4] == "**3.100 ± 0.100**"
    assert ours[-1] == "2"
    assert row(text, "Gaussian score function")[3:] == ["missing"] * 9 + ["0"]
    assert "Solver failures: 4." in text


def test_where_the_paper_has_no_table_rows_without_runs_are_told_in_one_line(
    tmp_path: Path,
) -> None:
    record = summary("gaussian", "two_stage", 0, 3.0, task="restaurant", source="yaz")
    text = render(build(frame_of(tmp_path, [record]), wanted("restaurant", "yaz", compare=False)))
    assert row(text, "Gaussian TS")[-1] == "1"
    assert "missing" not in text.replace("--missing", "")
    assert "Without runs: " in text and "task=restaurant" in text
    told = next(line for line in text.splitlines() if line.startswith("Without runs: "))
    assert "Diffusion score function" in told and "Gaussian TS" not in told


def test_best_is_bold_and_second_underlined_equals_share_a_mark_and_direction_is_the_tasks(
    tmp_path: Path,
) -> None:
    values = {"gaussian": 0.05, "diffusion": 0.04, "deterministic": 0.05}
    records = [portfolio(model, "two_stage", 0, value) for model, value in values.items()]
    records.append(portfolio("policy", "policy", 0, 0.03))
    table = build(frame_of(tmp_path, records), wanted("portfolio", "sp500"))
    text = render(table)
    assert table.higher_is_better
    assert "Task, % a day ↑" in text
    assert row(text, "Gaussian TS")[4] == row(text, "Deterministic TS")[4] == "**0.050**"
    assert row(text, "Diffusion TS")[4] == "<u>0.040</u>"
    assert row(text, "Policy-based learning")[4] == "0.030"
    assert row(text, "Diffusion reparameterization")[2] == "**4.170 ± 0.24**"
    assert row(text, "Diffusion score function")[2] == "<u>3.980 ± 0.31</u>"


def test_an_interval_over_days_shows_both_ends_averaged_over_seeds(tmp_path: Path) -> None:
    records = [
        portfolio("gaussian", "two_stage", seed, 0.05, interval_95=[-0.1 * seed, 0.2])
        for seed in (1, 3)
    ]
    text = render(build(frame_of(tmp_path, records), wanted("portfolio", "sp500")))
    assert row(text, "Gaussian TS")[5] == "[-0.200, 0.200]"


def test_a_metric_some_seeds_lack_says_over_how_many_it_is(tmp_path: Path) -> None:
    records = [
        summary("gaussian", "two_stage", seed, 3.0, {"task_exact": exact})
        for seed, exact in enumerate([1.0, 3.0, None])
    ]
    text = render(build(frame_of(tmp_path, records), wanted()))
    assert row(text, "Gaussian TS")[5] == "2.000 ± 1.000 (n 2)"


def test_plain_baselines_and_bounds_have_rows_of_one_value_a_seed(tmp_path: Path) -> None:
    def made(model: str, seed: int, saa: float) -> dict[str, Any]:
        test = {"baselines": {"saa": saa, "brand_new": 9.0}, "optimal_cost": 2.0}
        identity = {"task": "inventory", "source": "simulated"}
        return summary(model, "two_stage", seed, 3.0, test, **identity)

    records = [made("gaussian", 0, 4.0), made("diffusion", 0, 4.0), made("gaussian", 1, 6.0)]
    table = build(frame_of(tmp_path, records), wanted("inventory", "simulated", compare=False))
    text = render(table)
    saa = row(text, "_Sample average of the training demands_")
    assert (saa[2], saa[-1]) == ("5.000 ± 1.000", "2")
    assert row(text, "_Brand new_")[2] == "9.000 ± 0.000"
    assert row(text, "_Optimum of the true distribution_")[2] == "2.000 ± 0.000"
    assert "disagree" not in text


def test_the_restaurants_table_has_published_costs_of_its_level_and_models_in_closed_form(
    tmp_path: Path,
) -> None:
    cells = [("gaussian", "reparam", 12.0), ("forest", "two_stage", 11.0)]
    records = [summary(*cell[:2], 0, cell[2], task="restaurant") for cell in cells]
    runs = frame_of(tmp_path, records)
    studied = {"task.service_level": 0.75, "task.storage": None}
    runs["config"] = [studied, studied]
    text = render(build(runs, wanted("restaurant", compare=False)))
    assert row(text, "_Random-forest weights_")[2] == "11.000"
    average = row(text, "_Published, sample average_")
    assert (average[2], average[-1]) == ("24.073", "–")
    assert row(text, "_Published, all features†: random-forest weights_")[2] == "15.859"
    assert "Those with † have lag features that contain the demand of the target day" in text
    runs["config"] = [studied, {**studied, "task.storage": 100.0}]
    assert "Published" not in render(build(runs, wanted("restaurant", compare=False)))


def test_published_costs_stand_beside_every_service_level_they_are_of(tmp_path: Path) -> None:
    levels = (0.9, 0.6, 0.75)
    records = [
        summary(
            "gaussian", "two_stage", 0, 10.0 * level, task="restaurant", config_hash=f"h{level}",
            differs={} if level == 0.9 else {"task.service_level": level},
        )
        for level in levels
    ]  # fmt: skip
    runs = frame_of(tmp_path, records).sort_values("test.task", ascending=False)
    runs["config"] = [
        {"task.service_level": level, "task.storage": None} for level in sorted(levels)[::-1]
    ]
    runs["preset"] = "one"
    text = sensitivity.render(
        sensitivity.sensitivity(runs, wanted("restaurant")), wanted("restaurant"), False
    )
    assert row(text, "Method")[1:] == ["as configured", "service_level=0.6", "service_level=0.75"]
    assert row(text, "_Published, sample average_")[1:] == ["14.457", "–", "24.073"]
    assert "the demand of the target day" in text


def test_runs_of_a_seed_that_disagree_on_a_baseline_are_told(tmp_path: Path) -> None:
    records = [
        summary(model, "two_stage", 0, 3.0, {"baselines": {"ols_offsets": value}})
        for model, value in (("gaussian", 3.0), ("diffusion", 3.1))
    ]
    text = render(build(frame_of(tmp_path, records), wanted()))
    assert "disagree on Least squares and an offset an hour" in text


def test_differences_are_to_the_best_method_not_decision_focused_on_the_same_seeds(
    tmp_path: Path,
) -> None:
    best, worse = [3.0, 4.0, 5.0, 6.0, 7.0], [9.0] * 5
    records = [
        *seeds("gaussian", "two_stage", best, test={"baselines": {"ols_offsets": 2.0}}),
        *seeds("diffusion", "two_stage", worse, test={"baselines": {"ols_offsets": 2.0}}),
        *seeds("gaussian", "score", [value - 0.5 for value in best]),
        *seeds("diffusion", "score", [2.0, 5.0, 4.0, 7.0, 7.0]),
    ]
    text = render(build(frame_of(tmp_path, records), wanted()))
    heading = "### Paired differences"
    score = row_below(text, heading, "Gaussian score function")
    assert score[1:3] == ["-0.500 ± 0.000 (Gaussian TS)", "[-0.500, -0.500] better"]
    assert score[3].endswith("(Least squares and an offset an hour)")
    assert score[4].endswith("worse")
    assert score[-1] == "5"
    unclear = row_below(text, heading, "Diffusion score function")
    assert unclear[1] == "0.000 ± 0.447 (Gaussian TS)"
    assert unclear[2].endswith("]")
    assert row_below(text, heading, "Gaussian TS")[1:3] == ["–", "–"]


def test_a_rival_with_more_of_the_seeds_goes_before_one_that_is_better_on_fewer(
    tmp_path: Path,
) -> None:
    records = [
        *seeds("gaussian", "two_stage", [4.0, 4.0]),
        *seeds("diffusion", "two_stage", [1.0]),
        *seeds("gaussian", "score", [3.0, 3.0]),
    ]
    table = build(frame_of(tmp_path, records), wanted())
    (difference,) = table.block("against_two_stage").to_dict("records")
    assert (difference["against"], difference["mean"], difference["count"]) == (
        "Gaussian TS",
        -1,
        2,
    )


def test_a_decision_focused_row_is_held_against_its_own_models_fit(tmp_path: Path) -> None:
    records = [
        *seeds("gaussian", "two_stage", [4.0, 4.5]),
        *seeds("flow", "two_stage", [1.0, 1.0]),
        *seeds("gaussian", "score", [3.0, 3.7]),
    ]
    table = build(frame_of(tmp_path, records), wanted())
    (own,) = table.block("against_own").to_dict("records")
    assert (own["against"], own["count"]) == ("Gaussian TS", 2)
    assert own["mean"] == pytest.approx(-0.9)
    assert "| Gaussian score function | -0.900 ± 0.100 | – | 2 |" in render(table)


def test_a_score_is_held_against_the_same_models_reparam(tmp_path: Path) -> None:
    records = [
        *seeds("gaussian", "score", [3.0, 3.7]),
        *seeds("gaussian", "reparam", [2.0, 2.5]),
        *seeds("diffusion", "score", [1.0, 1.0]),
    ]
    table = build(frame_of(tmp_path, records), wanted())
    (found,) = table.block("against_reparam").to_dict("records")
    assert (found["name"], found["against"]) == (
        "Gaussian score function",
        "Gaussian reparameterization",
    )
    assert found["mean"] == pytest.approx(1.1)
    assert "| Method | To the same model's reparam | 95 % | Seeds |" in render(table)


def test_where_more_is_better_the_best_rival_is_the_highest(tmp_path: Path) -> None:
    records = [
        portfolio(model, grad, seed, value)
        for model, grad, value in (
            ("gaussian", "two_stage", 0.1),
            ("diffusion", "two_stage", 0.2),
            ("gaussian", "score", 0.3),
        )
        for seed in range(5)
    ]
    text = render(build(frame_of(tmp_path, records), wanted("portfolio", "sp500")))
    ours = row_below(text, "### Paired differences", "Gaussian score function")
    assert ours[1:3] == ["0.100 ± 0.000 (Diffusion TS)", "[0.100, 0.100] better"]


def test_twins_are_compared_over_the_seeds_both_have(tmp_path: Path) -> None:
    records = [
        *seeds("diffusion", "score", [3.0, 4.0, 5.0]),
        *seeds("diffusion", "score", [4.0, 4.0], differs=TWIN, config_hash="t"),
    ]
    text = render(build(frame_of(tmp_path, records), wanted()))
    assert row_below(text, "### Twins", "Diffusion score function")[1:] == [
        "4.000 ± 0.000",
        "3.500 ± 0.500",
        "-0.500 ± 0.500",
        "–",
        "2",
    ]
    assert row(text, "Diffusion score function")[-1] == "3"


def test_a_deleted_record_is_missed_and_stale_and_failed_runs_are_counted(tmp_path: Path) -> None:
    records = [
        *seeds("gaussian", "two_stage", [1.0, 2.0, 3.0]),
        summary("diffusion", "two_stage", 0, 1.0),
        summary("diffusion", "two_stage", 2, 1.0),
    ]
    write_all(tmp_path, records)
    old = summary("diffusion", "two_stage", 1, 1.0, config_hash="old")
    write(tmp_path / "runs", place(old["identity"]), old)
    failed = summary("gaussian", "score", 0, 1.0)
    write(tmp_path / "runs", "laptop/power/gaussian-score/seed-0", failed, "failed")
    write(tmp_path / "runs", "smoke/power/gaussian-score/seed-0", failed, "failed")
    collection = collect(tmp_path)
    text = render(build(frame(collection), wanted(), collection.left_out))
    assert "Missing seeds, of those that other methods have: Diffusion TS 1." in text
    assert "1 records of an older preset are not counted." in text
    assert (
        "1 runs are no usable record and not counted: "
        "runs/laptop/power/gaussian-score/seed-0: failed because." in text
    )


def test_diverged_runs_versions_of_the_source_and_the_raw_policy_are_told(tmp_path: Path) -> None:
    diverged = summary("gaussian", "score", 0, 1.0)
    diverged["validation"]["diverged"] = True
    policy = summary("policy", "policy", 0, 3.0, {"task_raw": 2.5}, source_hash="other")
    text = render(build(frame_of(tmp_path, [diverged, policy]), wanted()))
    assert "Diverged runs (best checkpoint kept): 1." in text
    assert "2 versions of the source" in text
    assert "the policy's decisions are worth 2.500" in text


def test_a_record_without_the_newer_keys_still_has_its_row(tmp_path: Path) -> None:
    old = summary("gaussian", "two_stage", 0, 3.0)
    old["test"] = {"task": 3.0}
    del old["resources"], old["timing"]
    old["validation"] = {}
    ours = row(render(build(frame_of(tmp_path, [old]), wanted())), "Gaussian TS")
    assert ours[4] == "**3.000**"
    assert set(ours[5:-1]) == {"–"}


def test_a_table_without_runs_shows_the_papers_numbers(tmp_path: Path) -> None:
    text = render(build(frame_of(tmp_path, []), wanted("synthetic", "simulated")))
    assert row(text, "Diffusion score function")[1:4] == [
        "0.849 ± 0.09",
        "**0.362 ± 0.00**",
        "missing",
    ]
    assert "Paired differences" not in text


def test_the_csv_holds_every_number_of_the_table(tmp_path: Path) -> None:
    records = [
        *seeds("gaussian", "two_stage", [1.0, 2.0], test={"baselines": {"ols_offsets": 2.0}}),
        *seeds("gaussian", "score", [0.5, 1.0]),
    ]
    records[0]["test"]["hourly"] = [1.0, 2.0]
    numbers = tidy([build(frame_of(tmp_path, records), wanted())])
    target = tmp_path / "table.csv"
    numbers.to_csv(target, index=False)
    read = pd.read_csv(target)
    assert set(read["block"]) == {
        "method",
        "baseline",
        "against_two_stage",
        "against_own",
        "against_baseline",
    }
    (task,) = read[
        (read["block"] == "method")
        & (read["metric"] == "test.task")
        & (read["name"] == "Gaussian score function")
    ].to_dict("records")
    assert (task["task"], task["scale"], task["source"]) == ("power", "laptop", "real")
    assert (task["mean"], task["error"], task["count"]) == (0.75, 0.25, 2)
    assert (task["paper_mean"], task["paper_error"]) == (4.087, 0.06)
    assert not read["metric"].str.contains("hourly").any()


@pytest.mark.parametrize("task", LAYOUTS)
def test_a_variant_of_a_task_is_laid_out_like_it(task: str) -> None:
    variant = layout_of(f"{task}_released")
    assert variant.columns == LAYOUTS[task].columns
    assert variant.title == f"{LAYOUTS[task].title}, released"


def test_numbers_have_no_negative_zero_and_large_ones_three_digits() -> None:
    assert number(-0.0001, 3) == "0.000"
    assert number(5499.1234, 3) == "5499.123"
    assert number(1.234e12, 3) == "1.23e+12"
