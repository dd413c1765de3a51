"""What a run says when it ends."""

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusion_dfl.files import DamagedFile, read_json
from diffusion_dfl.suite.config.commands import command, identity_of_record
from diffusion_dfl.suite.config.compose import Identity
from diffusion_dfl.suite.invocation import verb
from diffusion_dfl.suite.places import INSTALLED, REPOSITORY
from diffusion_dfl.suite.reporting.layout import Layout, layout_of, plain_name

# What a two-stage run reads nothing of.
_DECISION_FOCUSED = ("grad.", "train.")


def announce(summary: dict[str, Any], results: Path | None = None) -> None:
    """Print the run's cell and its numbers on one line, what they are worth, and where its files are.

    The headline number stands with its unit and, where more is better, its direction, beside the
    best of the task's plain baselines on the same test rows.

    Args:
        summary: record of the run.
        results: the folder that holds it, in ``runs/``; None leaves out all lines but the first.
    """
    identity, test, validation = summary["identity"], summary["test"], summary["validation"]
    name = f"{identity['task']} {identity['model']}-{identity['grad']} seed {identity['seed']}"
    # Validation is by the program's cost, whatever the headline number is.
    numbers = ["all days before the test trained on"]
    if validation["task"] is not None:
        numbers = [
            f"validation cost {validation['task']:.4g} (start {validation['first_task']:.4g})"
        ]
    if test:
        layout = layout_of(identity["task"])
        higher = bool(test.get("higher_is_better"))
        # None: no decision at all, or one of infinite expected cost.
        value = "not finite" if test["task"] is None else f"{_shown(test['task'])}{layout.unit}"
        direction = " (higher is better)" if higher else ""
        numbers.append(f"test {layout.quantity} {value}{direction}")
        exact = test.get("task_exact")
        if exact is not None and exact != test["task"]:
            numbers.append(f"with the exact rule {_shown(exact)}")
        best = best_baseline(test.get("baselines") or {}, higher)
        if best is not None:
            plain = plain_name(layout, best[0])
            numbers.append(f"best of the task's plain baselines: {plain} {_shown(best[1])}")
    numbers.append(f"{summary['timing']['total']:.0f} s")
    lines = [f"{name} ({identity['source']} data, scale {identity['scale']}): {', '.join(numbers)}"]
    if results is not None:
        lines += [f"  {line}" for line in comparisons(summary, results)]
        folder = results / "runs" / identity_of_record(summary).path
        lines.append(f"  files: {folder}")
        for offline in sorted(folder.glob("wandb/offline-run-*")):
            lines.append(f"  W&B, offline: {offline}; `{_upload(offline, results)}` uploads it")
    print("\n".join(lines), flush=True)


def _upload(offline: Path, results: Path) -> str:
    """The command for what ``logger=wandb`` left in a run's folder."""
    if INSTALLED:
        return shlex.join(["wandb", "sync", str(offline)])
    if results.resolve() == (REPOSITORY / "results").resolve():
        return "make wandb-sync"
    return shlex.join([*shlex.split(verb("wandb_sync")), "--results", str(results)])


def comparisons(summary: dict[str, Any], results: Path) -> list[str]:
    """How far the headline number is from two-stage and from the best of the task's plain baselines, a line each.

    Two-stage is the run of the same command with ``grad=two_stage``: the same seed, data, model and
    decision rule as far as the command sets them, its own preset for the rest. Where it has not been
    run, its command is given.
    """
    test, twin = summary["test"], two_stage_of(identity_of_record(summary))
    if not test or test["task"] is None:
        return []
    layout, higher = layout_of(summary["identity"]["task"]), bool(test.get("higher_is_better"))
    found = []
    if twin is not None:
        value = _number_of(twin, results / "runs")
        told = (
            f"no run here yet; make it with `{command(twin)}`"
            if value is None
            else _against(test["task"], value, higher, layout)
        )
        found.append(f"two-stage, same seed: {told}")
    best = best_baseline(test.get("baselines") or {}, higher)
    if best is not None:
        told = _against(test["task"], best[1], higher, layout)
        found.append(f"best of the task's plain baselines, {plain_name(layout, best[0])}: {told}")
    return found


def two_stage_of(identity: Identity) -> Identity | None:
    """The two-stage run to hold a run against; None for one that has none, or is one."""
    if identity.grad in ("two_stage", "policy"):
        return None
    differs = _read_by_two_stage(identity.differs)
    return replace(identity, grad="two_stage", differs=differs, config_hash="")


def _read_by_two_stage(differs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in differs.items() if not key.startswith(_DECISION_FOCUSED)}


def _against(value: float, other: float, higher: bool, layout: Layout) -> str:
    """``3.335, this run 0.097 better``; level where three digits of the larger show nothing."""
    gain = value - other if higher else other - value
    digits = _digits(max(abs(value), abs(other)))
    told = f"{abs(gain):.{digits}f} {'better' if gain > 0 else 'worse'}"
    level = abs(gain) < 0.5 * 10**-digits
    return f"{other:.{digits}f}{layout.unit}, this run is {'level' if level else told}"


def _shown(value: float) -> str:
    return f"{value:.{_digits(abs(value))}f}"


def _digits(size: float) -> int:
    """Decimals that show three digits of a number, three at least."""
    return 3 if size == 0 else max(3, 2 - math.floor(math.log10(size)))


def _number_of(twin: Identity, runs: Path) -> float | None:
    """Headline number of a finished two-stage run, whatever it says of keys it does not read."""
    pattern = f"{twin.model}-{twin.grad}*/seed-{twin.seed}/summary.json"
    for path in sorted((runs / twin.scale / twin.task).glob(pattern)):
        try:
            found = identity_of_record(read_json(path))
            if replace(found, differs=_read_by_two_stage(found.differs), config_hash="") != twin:
                continue
            state, value = read_json(path.with_name("status.json")), read_json(path)["test"]["task"]
        except (OSError, DamagedFile, KeyError, TypeError):
            continue
        if state["status"] == "finished" and value is not None:
            return float(value)
    return None


def best_baseline(
    baselines: dict[str, float | None], higher_is_better: bool
) -> tuple[str, float] | None:
    """Name and value of the best baseline that has a finite value, None if none has."""
    finite = {
        name: float(value)
        for name, value in baselines.items()
        if value is not None and math.isfinite(value)
    }
    if not finite:
        return None
    choose = max if higher_is_better else min
    name = choose(finite, key=finite.__getitem__)
    return name, finite[name]
