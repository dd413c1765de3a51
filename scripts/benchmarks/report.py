"""The benchmark's files: solvers.json, solvers.md and solvers.png."""

import json
from pathlib import Path
from typing import Any

import machine_readable

from benchmarks.peers import CLARABEL, OURS

_PACKAGES = (
    "cvxpy",
    "cvxpylayers",
    "diffcp",
    "clarabel",
    "scs",
    "osqp",
    "moreau",
    "proxsuite",
    "qpsolvers",
    "matplotlib",
)
# A relative gap above this is an answer to another question; its time is no comparison.
_WRONG = 1e-3
# Greys and hatches that differ in print.
_GREYS = ("0.15", "0.5", "0.75", "0.35", "0.9", "0.6", "0.25", "1.0")
_HATCHES = ("", "", "", "///", "", "...", "xxx", "\\\\\\")
_MARKERS = ("o", "s", "^", "D", "v", "x")
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


def environment() -> dict[str, Any]:
    """Versions of ours and the peers, and threads."""
    return machine_readable.environment(_PACKAGES)


def write(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write the three files of ``record`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"solvers.{kind}" for kind in ("json", "md", "png")]
    paths[0].write_text(
        json.dumps(machine_readable.plain(record, 5), indent=2) + "\n", encoding="utf-8"
    )
    paths[1].write_text(markdown(record), encoding="utf-8")
    figure(record, paths[2])
    return paths


def markdown(record: dict[str, Any]) -> str:
    """The tables."""
    settings, versions = record["settings"], record["environment"]["versions"]
    lines = [
        "# Solvers: ours against the peers",
        "",
        f"`{settings['command']}`. One process, one core, "
        f"{record['environment']['threads']} torch thread, float64, CPU; turns of ours and a peer "
        f"interleaved, median of {settings['rounds']} turns, 1 for peers slower than "
        f"{settings['budget']:g} s a call.",
        "",
        "A ratio is the peer's time over ours in the same turns; milliseconds are for the whole "
        "batch. *Instances* is how many a peer solved in a timed call where the batch would take "
        "too long: peers solve one instance after the other, so its time is scaled linearly to B. "
        "*Setup* (statement, canonicalisation, first call) is not in the times. Every peer keeps "
        f"its default tolerances. Errors are those of the first {settings['checked']} instances at "
        "most; KKT and violation of all that it solved.",
        "",
        "*Gap*: objective over the best of ours and tight Clarabel, relative to the mean cost of a "
        "scenario (below 0: it pays by violated constraints). *Violation*: of the worst "
        "constraint. *Decision*: largest distance to the best decision. *Gradient*: relative "
        "distance of dL/dscenarios to ours. *KKT*: our residual, recomputed from the data, "
        "relative to the largest scenario gradient. A gap or violation above "
        f"{_WRONG:g} is marked **wrong**: such a peer is not counted as fastest, nor drawn.",
        "",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".",
        "",
    ]
    if settings["quick"]:
        lines += ["**A quick run on tiny sizes: its numbers mean nothing.**", ""]
    lines += _summary(record["cases"])
    for case in record["cases"]:
        lines += _case(case)
    if record["scaling"]:
        lines += _scaling(record["scaling"])
    return "\n".join(lines)


def _summary(cases: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## Forward + backward against cvxpylayers with Clarabel",
        "",
        "| case | ours (ms) | ratio | goal | fastest peer (ratio) | our gap | our KKT | goal |",
        "|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    for case in cases:
        by_name = {result["name"]: result for result in case["results"]}
        ours, clarabel = by_name[OURS.name], by_name.get(CLARABEL.name)
        rivals = [
            r
            for r in case["results"]
            if r["name"] != OURS.name and r["ratio_both"] and not _wrong(r)
        ]
        best = min(rivals, key=lambda r: r["ratio_both"], default=None)
        fastest = "none" if best is None else f"{best['name']} ({_ratio(best['ratio_both'])})"
        ratio = _ratio(None if clarabel is None else clarabel["ratio_both"])
        lines.append(
            f"| {case['title']} | {_ms(ours['both_ms'])} | {ratio} | {case['goal_ratio']:g}x "
            f"| {fastest} | {_small(ours['gap'])} | {_small(ours['kkt'])} "
            f"| {case['goal_error']:.0e} |"
        )
    return [*lines, ""]


def _case(case: dict[str, Any]) -> list[str]:
    lines = [f"## {case['title']} (B={case['batch']})", ""]
    if case["convolved"]:
        lines += [
            "Peers solve the exact program, and are judged by it: this one has no conic form.",
            "",
        ]
    lines += [
        "| solver | instances | forward (ms) | ratio | forward + backward (ms) | ratio | setup (s) "
        "| gap | KKT | violation | decision | gradient |",
        "|---|" + "---:|" * 11,
    ]
    for result in case["results"]:
        if result["status"] != "ran":
            lines.append(f"| {result['name']} | {result['status']}" + " |" * 11)
            continue
        cells = [
            str(result["instances"]),
            _ms(result["forward_ms"]),
            _ratio(result["ratio_forward"]),
            _ms(result["both_ms"]),
            _ratio(result["ratio_both"]),
            _ms(result["setup_seconds"]),
            _small(result["gap"]) + (" **wrong**" if _wrong(result) else ""),
            *(_small(result[name]) for name in ("kkt", "violation")),
            _small(result["decision_difference"]),
            _small(result["gradient_difference"]),
        ]
        lines.append(f"| {result['name']} | " + " | ".join(cells) + " |")
    tight = _small(case["clarabel_tight_gap"])
    return [*lines, "", f"Tight Clarabel's own gap to the best known: {tight}.", ""]


def _scaling(sweeps: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## How our cost grows",
        "",
        "Forward + backward in ms. The exponent is the slope of log time over log size on the sizes "
        "in bold; fixed costs of a call hide the growth at the small ones.",
        "",
    ]
    for along in ("B", "M", "n"):
        picked = [sweep for sweep in sweeps if sweep["along"] == along]
        lines += [f"| over {along} | fixed | ms at {along} | exponent |", "|---|---|---|---:|"]
        for sweep in picked:
            curve = ", ".join(
                f"{f'**{size}**' if size in sweep['fitted_sizes'] else size}: {_ms(time)}"
                for size, time in zip(sweep["sizes"], sweep["milliseconds"], strict=True)
            )
            exponent = f"{sweep['exponent']:.2f}"
            lines.append(f"| {sweep['title']} | {sweep['fixed']} | {curve} | {exponent} |")
        lines.append("")
    return lines


def _wrong(result: dict[str, Any]) -> bool:
    return max(abs(result["gap"] or 0.0), result["violation"] or 0.0) > _WRONG


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}x" if value < 1000 else f"{value:,.0f}x"


def _small(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.1e}"


def figure(record: dict[str, Any], path: Path) -> None:
    """Ratios of every peer, and our cost over B, M and n; legible without colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    layout: Any = [["ratio"] * 3, ["B", "M", "n"]] if record["scaling"] else [["ratio"] * 3]
    heights = [1.6, 1.0][: len(layout)]
    made, axes = pyplot.subplot_mosaic(
        layout, figsize=(11, 4.5 * sum(heights) / 1.3), height_ratios=heights, layout="constrained"
    )
    _draw_ratios(axes["ratio"], record["cases"])
    for along in ("B", "M", "n"):
        if along in axes:
            _draw_sweeps(axes[along], along, record["scaling"])
    made.savefig(path, dpi=150)
    pyplot.close(made)


def _draw_ratios(axis: Any, cases: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(r["name"] for c in cases for r in c["results"]))
    names.remove(OURS.name)
    width = 0.85 / max(len(names), 1)
    for index, name in enumerate(names):
        heights, places = [], []
        for place, case in enumerate(cases):
            ratio = next((_any_ratio(r) for r in case["results"] if r["name"] == name), None)
            if ratio is not None:
                heights.append(ratio)
                places.append(place + (index - (len(names) - 1) / 2) * width)
        grey, hatch = _GREYS[index % len(_GREYS)], _HATCHES[index % len(_HATCHES)]
        axis.bar(
            places, heights, width, label=name, color=grey, hatch=hatch, edgecolor="black", lw=0.5
        )
    axis.axhline(1.0, color="black", lw=1)
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low, 10 * high)  # room for the legend
    titles = [case["title"].replace(", ", ",\n") for case in cases]
    axis.set_xticks(range(len(cases)), titles, fontsize=8)
    axis.set_ylabel("time over ours")
    axis.set_title(
        "Forward + backward (OSQP and qpsolvers: forward only, over our forward)", fontsize=10
    )
    axis.legend(fontsize=7, ncols=4, loc="upper center")
    axis.grid(axis="y", color="0.85", lw=0.5)
    axis.set_axisbelow(True)


def _any_ratio(result: dict[str, Any]) -> float | None:
    return None if _wrong(result) else result["ratio_both"] or result["ratio_forward"]


def _draw_sweeps(axis: Any, along: str, sweeps: list[dict[str, Any]]) -> None:
    for index, sweep in enumerate(sweep for sweep in sweeps if sweep["along"] == along):
        axis.loglog(
            sweep["sizes"],
            sweep["milliseconds"],
            color=("0.0", "0.3", "0.45")[index % 3],
            marker=_MARKERS[index % len(_MARKERS)],
            linestyle=_LINES[index % len(_LINES)],
            markersize=4,
            label=f"{sweep['title']} ({sweep['exponent']:.2f})",
        )
    axis.set_xlabel(along)
    axis.set_ylabel("ms")
    axis.legend(fontsize=6, title="exponent on the largest sizes", title_fontsize=6)
    axis.grid(color="0.9", lw=0.5)
