"""What a run says when it ends."""

import math
from typing import Any

from diffusion_dfl.reporting.layout import layout_of


def announce(summary: dict[str, Any]) -> None:
    """Print the run's cell and its numbers on one line.

    The headline number stands with its unit and, where more is better, its direction, beside the
    best of the task's plain baselines on the same test rows.
    """
    identity, test, validation = summary["identity"], summary["test"], summary["validation"]
    name = f"{identity['task']} {identity['model']}-{identity['grad']} seed {identity['seed']}"
    # Validation is by the program's cost, whatever the headline number is.
    numbers = [f"validation cost {validation['task']:.4g} (start {validation['first_task']:.4g})"]
    if test:
        layout = layout_of(identity["task"])
        higher = bool(test.get("higher_is_better"))
        # None: no decision at all, or one of infinite expected cost.
        value = "not finite" if test["task"] is None else f"{test['task']:.3f}{layout.unit}"
        direction = " (higher is better)" if higher else ""
        numbers.append(f"test {layout.quantity} {value}{direction}")
        exact = test.get("task_exact")
        if exact is not None and exact != test["task"]:
            numbers.append(f"with the exact rule {exact:.3f}")
        best = best_baseline(test.get("baselines") or {}, higher)
        if best is not None:
            numbers.append(f"best plain baseline: {best[0]} {best[1]:.3f}")
    numbers.append(f"{summary['timing']['total']:.0f} s")
    print(
        f"{name} ({identity['source']} data, scale {identity['scale']}): {', '.join(numbers)}",
        flush=True,
    )


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
