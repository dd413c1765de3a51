"""The audit: a text whose every number is filled in from records, studies and demonstrations.

The text (docs/templates/audit.md) names a number as ``{key:format}``. Keys of runs are
``<task>.<model>-<grad>`` for a mean, with ``.error``, ``.low``, ``.high``, ``.against`` (the paired
difference to the best row that is not decision-focused), ``.own`` (to the same model's two-stage fit),
``.reparam`` (to the same model's reparam), ``.twin`` (to the twin) behind, and ``.days`` of these for
the interval over seeds and days; the others come from
results/audit/demonstrations.json and results/gradient_lab. How they are filled in, and claims held, is
:mod:`.claims`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.reporting.collect import collect
from diffusion_dfl.suite.reporting.frame import frame
from diffusion_dfl.suite.reporting.layout import BEYOND, LAYOUTS
from diffusion_dfl.suite.reporting.paper import ROWS, TABLE_1
from diffusion_dfl.suite.reporting.selection import selection
from diffusion_dfl.suite.reporting.table1 import RMSE, Table, build

# What a row has beside its headline number.
_METRICS = {
    "rmse": RMSE,
    "regret": "test.regret",
    "large": "test.task_large",
    "objective": "test.mean_variance",
    "coverage": "test.coverage_90",
    "crps": "test.crps",
    "bytes": "resources.saved_for_backward_bytes",
}


#: Tables of the audit beside those of the tasks: prefix of their keys -> task, overrides. Runs of the
#: released protocol as it is, and with one of its rules mended.
RELEASED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "power_released": ("power_released", ()),
    "power_measured": ("power_released", ("task.temperatures=false",)),
    "synthetic_released": ("synthetic_released", ()),
    "synthetic_pooled": (
        "synthetic_released",
        ("task.context_size=0", "decision.num_scenarios=960", "evaluation.num_large=960"),
    ),
    "portfolio_same": ("portfolio_released", ("task.subset_mismatch=false",)),
}


def audit_tables(results: Path) -> dict[str, Table]:
    """Prefix of its keys -> table: the tasks', and those of the released protocol.

    Committed records only: the audit is of this project's numbers.
    """
    collection = collect(results, own=False)
    runs = frame(collection)
    tasks = (*LAYOUTS, *BEYOND)
    wanted: dict[str, tuple[str, tuple[str, ...]]] = {task: (task, ()) for task in tasks}
    wanted.update(RELEASED)
    return {
        prefix: build(runs, selection(runs, task, "laptop", None, overrides), collection=collection)
        for prefix, (task, overrides) in wanted.items()
    }


def numbers(results: Path, tables: Mapping[str, Table]) -> dict[str, Any]:
    """Every number the text may name.

    Args:
        results: the folder of committed records and studies.
        tables: :func:`audit_tables`.

    Raises:
        UserError: a file of demonstrations or studies is not there.
    """
    found: dict[str, Any] = {}
    for prefix, table in tables.items():
        found.update(_of_table(prefix, table))
    found.update(_read(results / "audit" / "demonstrations.json", "make audit"))
    found.update(dict(_of_linear(_read(results / "gradient_lab" / "linear.json"))))
    found.update(dict(_of_power(_read(results / "gradient_lab" / "power.json"))))
    found.update(dict(_of_variance(_read(results / "gradient_lab" / "variance.json"))))
    found.update(dict(_of_synthetic(_read(results / "gradient_lab" / "synthetic.json"))))
    figure = _read(results / "figures" / "data" / "figure11.json", "make_figures.py --collect")
    found.update({f"modes.{name}": share for name, share in figure["near_a_mode"].items()})
    found.update(dict(_of_memory(_read(results / "benchmarks" / "memory.json"))))
    return found


def _of_table(prefix: str, table: Table) -> Iterator[tuple[str, Any]]:
    methods = table.estimates("method")
    beside = {suffix: table.estimates("method", metric) for suffix, metric in _METRICS.items()}
    blocks = {
        "against": table.estimates("against_two_stage"),
        "plain": table.estimates("against_baseline"),
        "own": table.estimates("against_own"),
        "reparam": table.estimates("against_reparam"),
        "twin": table.estimates("against_twin"),
    }
    over_days = {
        "against": table.over_days("against_two_stage"),
        "own": table.over_days("against_own"),
        "twin": table.over_days("against_twin"),
    }
    for _, name, model, grad in ROWS:
        key = f"{prefix}.{model}-{grad}"
        if name in methods:
            yield key, methods[name].mean
            yield f"{key}.error", methods[name].error
            yield f"{key}.count", methods[name].count
        for suffix, estimates in beside.items():
            if name in estimates:
                yield f"{key}.{suffix}", estimates[name].mean
                yield f"{key}.{suffix}.error", estimates[name].error
        for block, estimates in blocks.items():
            if name in estimates:
                one = estimates[name]
                yield f"{key}.{block}", one.mean
                yield f"{key}.{block}.error", one.error
                yield f"{key}.{block}.low", one.low
                yield f"{key}.{block}.high", one.high
        for block, estimates in over_days.items():
            if name in estimates:
                yield f"{key}.{block}.days.low", estimates[name].low
                yield f"{key}.{block}.days.high", estimates[name].high
        printed = TABLE_1.get(table.task, {}).get((model, grad))
        if printed is not None:
            yield f"{key}.paper", printed[1].mean
            yield f"{key}.paper.rmse", printed[0].mean
    for name, one in table.estimates("published").items():
        yield f"{prefix}.published.{name.partition(', ')[2].replace(':', '')}", one.mean
    for name, one in table.estimates("baseline").items():
        yield f"{prefix}.baseline.{name}", one.mean
        yield f"{prefix}.baseline.{name}.error", one.error


def _of_linear(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for length in (100, 1000):
        rows = [r for r in record["cosines"] if r["T"] == length and r["variance"] == "beta"]
        exact = [r for r in rows if r["error"] == 0.0]
        yield f"linear.vlb.{length}", min(r["vlb"] for r in exact)
        yield f"linear.simple.{length}", sum(r["simple"] for r in exact) / len(exact)


def _of_power(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for row in record["rows"]:
        if row["axis"] == "estimator":
            yield f"lab.{row['estimator']}.one", row["cosine_one"]
            yield f"lab.{row['estimator']}.mean", row["cosine_mean"]
        if row["axis"] == "curvature":
            yield f"lab.{row['estimator']}.{row['curvature']}.mean", row["cosine_mean"]


def _of_variance(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for row in record["rows"]:
        yield f"variance.{row['k']}.{row['scheme']}", row["variance"]


def _of_synthetic(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for row in record["dimensions"]:
        if row["estimator"] == "score":
            yield f"cosine.d{row['d']}.M{row['M']}", row["one"]


def _of_memory(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for row in record["counts"]:
        name = row["name"].replace(", ", ".").replace(" ", "_")
        yield f"memory.{name}.MB", row["saved"] / 1e6
        yield f"memory.{name}.GB", row["saved"] / 1e9


def _read(path: Path, mend: str = "docs/estimators.md has its command") -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not there; {mend}") from None
