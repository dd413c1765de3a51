"""What a study found: a table of its trials, its winner, and the preset made of it."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from optuna.trial import FrozenTrial, TrialState

from diffusion_dfl.files import replacing
from diffusion_dfl.suite.reporting.statistics import mean_and_error
from diffusion_dfl.suite.search.rows import Row, bench
from diffusion_dfl.suite.search.space import Budget
from diffusion_dfl.suite.search.study import Study, best_choice, chosen_costs
from diffusion_dfl.suite.search.trials import Outcome

_FEWEST = 2  # Instances of a standard error.


def tell(
    row: Row,
    budget: Budget,
    presets: Path,
    calibration: Sequence[str] | None = None,
    show: bool = False,
    early: bool = False,
) -> None:
    """What a stage's search found: on the screen, in its table and, its budget spent, in presets.

    Args:
        row: stage.
        budget: of the search.
        presets: folder they go to.
        calibration: as :meth:`Row.calibration` takes changes; None for no calibration.
        show: make nothing that is not there, neither a twin nor presets.
        early: write presets before the budget is spent.
    """
    study, tried = row.study(), bench(row.root, torch.device("cpu"))
    if not show:
        twin = row.twin(tried, study)
        if twin:
            keep_twin(study, twin)
    print("\n".join(describe(row, study, budget)), flush=True)
    if calibration is not None and row.stage == "fit" and study.finished():
        for name, values in row.calibration(tried, study, calibration).items():
            mean, error = mean_and_error(values)
            digits = _decimals(study) + 1 if name.startswith("cost") else 4
            print(f"  {name}: {mean:.{digits}f} +- {error:.{digits}f} over instances", flush=True)
    if study.trials:
        write_table(row, study)
    if study.finished() and (early or (study.over(budget) and not show)):
        for path in write_presets(row, study, presets):
            print(f"  {path}")


def write_table(row: Row, study: Study) -> Path:
    """``results/search/<row>.csv``: a line a trial, the best first, and the winner's twin."""
    path = row.root / f"{row.name}.csv"
    knobs, digits = list(study.space.knobs), _decimals(study)
    header = ["trial", "state", "mean", "choice", "instances", "seconds", *knobs, "costs", "reason"]
    with replacing(path) as partial, partial.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        for trial in _in_order(study):
            writer.writerow(_line(study, trial, knobs))
        twin = _twin(study)
        if twin is not None:
            costs = json.dumps([{twin[0]: round(float(cost), digits + 1)} for cost in twin[1]])
            told = [f"{twin[1].mean():.{digits + 1}f}", twin[0], len(twin[1]), ""]
            writer.writerow(["twin", "complete", *told, *[""] * len(knobs), costs, ""])
    return path


def _in_order(study: Study) -> list[FrozenTrial]:
    done = study.finished()
    rest = [one for one in study.trials if one.state in (TrialState.PRUNED, TrialState.FAIL)]
    return done + rest


def _line(study: Study, trial: FrozenTrial, knobs: list[str]) -> list[Any]:
    told = trial.intermediate_values
    mean = told[max(told)] if told else math.nan
    values = dict.fromkeys(knobs, "")
    if trial.params.keys() >= study.space.knobs.keys():
        values = study.space.values(trial.params)
    costs = [
        {name: round(cost, _decimals(study) + 1) for name, cost in one.items()}
        for one in trial.user_attrs.get("costs", [])
    ]
    return [
        trial.number,
        trial.state.name.lower(),
        f"{mean:.{_decimals(study) + 1}f}",
        trial.user_attrs.get("chosen", ""),
        len(told),
        f"{trial.user_attrs.get('seconds', 0.0):.0f}",
        *(_shown(values[knob]) for knob in knobs),
        json.dumps(costs),
        trial.user_attrs.get("reason", ""),
    ]


def _decimals(study: Study) -> int:
    """Decimals that costs of the study's size are told with: four, more where the best is below .1."""
    done = study.finished()
    size = abs(float(done[0].value or 0.0)) if done else 1.0
    return 4 if size == 0 else max(4, 2 - math.floor(math.log10(size)))


def _shown(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def keep_twin(study: Study, outcomes: list[Outcome]) -> None:
    """Put the twin's costs beside the winner they are of."""
    best = study.finished()[0].number
    costs = [dict(one.costs) for one in outcomes]
    study.study.set_user_attr("twin", {"of": best, "costs": costs})


def _twin(study: Study) -> tuple[str, np.ndarray] | None:
    """The twin's own best c and its costs, an instance each; None if it is not known."""
    kept = study.study.user_attrs.get("twin")
    if kept is None or not study.finished() or kept["of"] != study.finished()[0].number:
        return None
    choice, _ = best_choice(kept["costs"])
    return choice, np.array([one[choice] for one in kept["costs"]])


def describe(row: Row, study: Study, budget: Budget) -> list[str]:
    """The study in sentences, with what of its budget was spent."""
    done, every = study.finished(), study.trials
    states = {state: sum(one.state == state for one in every) for state in TrialState}
    lines = [
        f"{row.name}: {states[TrialState.COMPLETE]} trials went through all {len(row.instances)} "
        f"instances, {states[TrialState.PRUNED]} were stopped early, {states[TrialState.FAIL]} failed; "
        f"{study.spent:.0f} of {budget.seconds:.0f} s of processor, {len(every)} of {budget.trials} trials"
    ]
    digits = _decimals(study)
    if done:
        best = done[0]
        lines.append(
            f"  best: trial {best.number}, {best.value:.{digits}f} with "
            + ", ".join(f"{k}={_shown(v)}" for k, v in study.space.values(best.params).items())
            + f"; {_choice_name(row)}={best.user_attrs['chosen']}"
        )
    if len(done) > 1:
        lines.append("  runner-up: " + _distance(done[0], done[1], digits))
    twin = _twin(study)
    if twin is not None:
        gap = chosen_costs(done[0]) - twin[1]
        lines.append(
            f"  twin with decision weight 0: {twin[1].mean():.{digits}f} at its best c={twin[0]}; the row less "
            f"its twin, paired: {gap.mean():+.{digits}f} +- "
            f"{gap.std(ddof=1) / math.sqrt(len(gap)):.{digits}f}"
        )
    return lines


def _choice_name(row: Row) -> str:
    return "decision.bandwidth_scale" if row.stage == "fit" else "train.epochs"


def _distance(best: FrozenTrial, other: FrozenTrial, digits: int) -> str:
    """How far the second is from the first, paired over instances."""
    gap = chosen_costs(other) - chosen_costs(best)
    told = (
        f"trial {other.number}, {other.value:.{digits}f}, paired distance {gap.mean():.{digits}f}"
    )
    if len(gap) >= _FEWEST:
        told += f" +- {gap.std(ddof=1) / math.sqrt(len(gap)):.{digits}f}"
    return told


def write_presets(row: Row, study: Study, folder: Path) -> list[Path]:
    """The winner's values as ``conf/preset`` files: of a fit those its rows share, and its rule."""
    best = study.finished()[0]
    values = {**study.space.values(best.params)}
    chosen = best.user_attrs["chosen"]
    comment = f"# Chosen on days before the test only: results/search/{row.name}.csv.\n"
    if row.stage == "fit":
        values.update({k: v for k, v in study.space.fixed.items() if not _is_of_search(k)})
        for name in ("foundation", "fit"):
            if name in best.user_attrs["epochs"][0]:
                epochs = [one[name] for one in best.user_attrs["epochs"]]
                found = round(float(np.mean(epochs)))
                known = {**study.space.fixed, **values}
                if (
                    known.get(f"{name}.decay") == "cosine"
                ):  # Its length is a knob, not where it is best.
                    found = known[f"{name}.epochs"]
                values.update(_given(name, found))
        shared = folder / f"{row.task}-{row.model}.yaml"
        _write(shared, comment, values)
        rule = folder / f"{row.task}-{row.model}-{row.grad}.yaml"
        _write(rule, comment, {"decision.bandwidth_scale": float(chosen)}, shared.stem)
        return [shared, rule]
    values.update(_given("train", int(chosen)))
    if study.space.fixed.get("train.decay") == "cosine":
        # What was chosen is an epoch of this course.
        values["train.decay_epochs"] = study.space.fixed["train.epochs"]
    base = f"{row.task}-{row.model}" if row.fit is not None else None
    path = folder / f"{row.task}-{row.model}-{row.grad}.yaml"
    fixed = {k: v for k, v in row.space.fixed.items() if not _is_of_search(k)}
    _write(path, comment, {**fixed, **values}, base)
    return [path]


def _is_of_search(key: str) -> bool:
    """Whether a key says how a stage of the search ends, which its preset is given."""
    return key.partition(".")[2] in ("epochs", "patience", "keep")


def _given(stage: str, epochs: int) -> dict[str, Any]:
    return {f"{stage}.epochs": epochs, f"{stage}.patience": 0, f"{stage}.keep": "last"}


def _write(path: Path, comment: str, values: dict[str, Any], base: str | None = None) -> None:
    nested: dict[str, Any] = {}
    if base is not None:
        nested["defaults"] = [base, "_self_"]
    for key in sorted(values):
        group, _, name = key.partition(".")
        value = values[key]
        nested.setdefault(group, {})[name] = (
            float(f"{value:.3g}") if isinstance(value, float) else value
        )
    body = yaml.safe_dump(nested, sort_keys=False, default_flow_style=None)
    with replacing(path) as partial:
        partial.write_text("# @package _global_\n" + comment + body, encoding="utf-8")
