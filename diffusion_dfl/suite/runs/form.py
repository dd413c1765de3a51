"""The form of summary.json and metrics.jsonl, held against what tables, status and report read."""

import json
import re
from collections.abc import Mapping
from typing import Any

SCHEMA = 1

# Values in one part.
_MOST = 10_000

#: Keys of a record's identity.
IDENTITY = (
    "task",
    "model",
    "grad",
    "scale",
    "source",
    "seed",
    "config_hash",
    "source_hash",
    "differs",
)
# Of stages and of what is measured.
_LABEL = re.compile(r"[A-Za-z_][\w./-]{0,99}")
# They become folders, overrides and headings.
_NAME, _KEY = re.compile(r"\w[\w.+-]{0,99}"), re.compile(r"[A-Za-z_]\w*(\.\w+)*")


def check_record(summary: Any) -> None:
    """Refuse what is no record: tables, status and report read nothing that this lets by.

    Args:
        summary: of :func:`diffusion_dfl.files.parse_json`.

    Raises:
        ValueError: naming the first key that is not what it must be.
    """
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA:
        schema = summary.get("schema") if isinstance(summary, dict) else None
        raise ValueError(
            f"summary.json has schema {str(schema)[:20]}, not {SCHEMA}; run it again with force=true"
        )
    identity = _part(summary, "identity")
    for key in IDENTITY:
        if key not in identity:
            raise ValueError(f"summary.json has no identity.{key}")
        value = identity[key]
        if key == "differs":
            good = isinstance(value, dict) and all(map(_KEY.fullmatch, value))
        elif key == "seed":
            good = type(value) is int and value >= 0
        else:
            good = isinstance(value, str) and _NAME.fullmatch(value) is not None
        if not good:
            raise ValueError(f"summary.json has identity.{key} {str(value)[:40]!r}")
    for part in ("test", "validation", "timing", "resources"):
        _check_numbers(_part({part: {}} | summary, part), part)  # Older records lack some.
    sources = summary.get("sources", [])
    if not isinstance(sources, list) or not all(map(_is_version, sources)):
        raise ValueError("summary.json has sources that are no versions")
    baselines = summary.get("test", {}).get("baselines", {})
    if not isinstance(baselines, dict) or not all(map(_is_number, baselines.values())):
        raise ValueError("summary.json has test.baselines that are no numbers")


def _part(summary: dict[str, Any], name: str) -> dict[str, Any]:
    part = summary.get(name)
    if not isinstance(part, dict):
        raise ValueError(f"summary.json has no {name}")
    return part


def _check_numbers(value: Any, path: str) -> None:
    """Numbers, None and lists and mappings of them; words in ``resources`` only."""
    if isinstance(value, dict | list) and len(value) > _MOST:
        raise ValueError(f"summary.json has {len(value)} values in {path}")
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            _check_numbers(item, f"{path}.{key}")
    elif not (
        _is_number(value)
        or isinstance(value, bool)
        or (isinstance(value, str) and path.startswith("resources."))
    ):
        raise ValueError(f"summary.json has {path} {str(value)[:40]!r}")


def _is_version(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value)
    )


def is_mixed(summary: Mapping[str, Any]) -> bool:
    """Whether versions of the source that compute otherwise made a record together."""
    return len({numbers for _, numbers in summary.get("sources", ())}) > 1


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def epoch_of(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl: its ``stage``, ``epoch`` and numbers; None for what is none."""
    try:
        told = json.loads(line)
        stage, epoch = told["stage"], told["epoch"]
        numbers = {
            name: float(value)
            for name, value in told.items()
            if _LABEL.fullmatch(name) and isinstance(value, int | float)
        }
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None
    if not isinstance(stage, str) or not _LABEL.fullmatch(stage):
        return None
    if type(epoch) is not int or not 0 <= epoch < 10**9:
        return None
    return {"stage": stage, "epoch": epoch, **{k: v for k, v in numbers.items() if k != "epoch"}}
