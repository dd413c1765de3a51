"""What a run says when it ends."""

from typing import Any


def announce(summary: dict[str, Any]) -> None:
    """Print the run's cell and its numbers on one line."""
    identity, test, validation = summary["identity"], summary["test"], summary["validation"]
    name = f"{identity['task']} {identity['model']}-{identity['grad']} seed {identity['seed']}"
    numbers = [f"validation cost {validation['task']:.3f} (start {validation['first_task']:.3f})"]
    if test:
        word = "test task (higher is better)" if test["higher_is_better"] else "test cost"
        # None: no decision at all, or one of infinite expected cost.
        value = "not finite" if test["task"] is None else f"{test['task']:.3f}"
        numbers.append(f"{word} {value}")
        if test.get("task_exact") is not None:
            numbers.append(f"with the exact rule {test['task_exact']:.3f}")
    numbers.append(f"{summary['timing']['total']:.0f} s")
    print(
        f"{name} ({identity['source']} data, scale {identity['scale']}): {', '.join(numbers)}",
        flush=True,
    )
