"""The text and the figure of ``gradient_lab.py bias``."""

import math
from typing import TYPE_CHECKING, Any

from laboratory.files import LINES, MARKERS, PALETTE, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

_NONE, _PATHWISE = "none", "reparam"
#: A shortfall below this at the largest M, and no more than at the smallest, counts as gone.
_GONE = 0.01


def shortfalls(rows: list[Row]) -> dict[str, dict[int, float]]:
    """Largest loss of length over cases and parameters by rule and M, ``1 - ratio / unbounded``.

    Paired: a rule and the unbounded score have their scenarios in common.
    """
    unbounded = {(row["case"], row["M"]): row for row in rows if row["rule"] == _NONE}
    worst: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["rule"] in (_NONE, _PATHWISE):
            continue
        whole = unbounded[row["case"], row["M"]]
        lost = max(1 - row[name] / whole[name] for name in ("mu", "sigma"))
        by_size = worst.setdefault(row["rule"], {})
        by_size[row["M"]] = max(by_size.get(row["M"], -math.inf), lost)
    return worst


def vanishes(by_size: dict[int, float]) -> bool:
    """Whether a shortfall is gone at the largest M and did not grow on the way."""
    first, last = by_size[min(by_size)], by_size[max(by_size)]
    return last < _GONE and last <= max(first, 1e-3)


def markdown(record: dict[str, Any]) -> str:
    """The tables, with what they are tables of."""
    versions = ", ".join(
        f"{name} {number}" for name, number in record["environment"]["versions"].items()
    )
    lines = [
        "# Bias of the score's clip, trust region and ELBO weights",
        "",
        f"`{record['command']}`, {record['seconds']} s on one thread. {versions}.",
        "",
        "![Loss of length by M, and the score of the diffusion](bias.png)",
        "",
    ]
    if record["closed"]:
        lines += _worst(record) + _cases(record)
    if record["diffusion"]:
        lines += _diffusion(record)
    return "\n".join(lines)


def _worst(record: dict[str, Any]) -> list[str]:
    worst = shortfalls(record["closed"])
    sizes = sorted({row["M"] for row in record["closed"]})
    lines = [
        "## A Gaussian: what a bound takes",
        "",
        "Power program without ramps, 50 : 0.5, forecast N(mu, .055^2) an hour, c = 1.5. Share of the "
        "gradient's length that a bound takes, in the worst of the cases and parameters below, against "
        "the score without bounds on the same scenarios. A clip is in standard deviations of the "
        "weights of a context, a region in multiples of d. *region chi2(M)*: 1 + 2 sqrt(x/d) + 2 x/d "
        "with x = log M, beyond which at most one of a model's own M scenarios lies. *Gone*: below "
        f"{_GONE:g} at the largest M, and not risen to it; a bound that grows with M gets there at some M.",
        "",
        "| bound | " + " | ".join(f"M = {size}" for size in sizes) + " | gone |",
        "|---|" + "---:|" * len(sizes) + "---|",
    ]
    for rule, by_size in worst.items():
        cells = " | ".join(f"{by_size[size]:.3f}" for size in sizes)
        lines.append(f"| {rule} | {cells} | {'yes' if vanishes(by_size) else 'no'} |")
    return [*lines, ""]


def _cases(record: dict[str, Any]) -> list[str]:
    rows = record["closed"]
    sizes = sorted({row["M"] for row in rows})
    error = max(row[f"{name}_se"] for row in rows for name in ("mu", "sigma"))
    lines = [
        "## A Gaussian: against the closed form",
        "",
        "Mean of the draws over the truth, mu / log sigma (1 = right), "
        f"{record['settings']['rows']} draws (a fifth of it at d = 24), standard errors up to "
        f"{error:.3f}. What *none* lacks is the sample's own: 1/M, and the spread of M scenarios. "
        "*Noise*: standard deviation of a draw in lengths of the truth; *cosine*, *error*: of the mean "
        "over 64 contexts, expected cosine with the truth and root mean square distance from it in "
        "its lengths. *Surplus*: the outcome is the forecast's mean; *shortage*: six standard "
        "deviations above it.",
        "",
    ]
    shown = [size for size in (100, 200) if size in sizes] or sizes[:1]
    for case in dict.fromkeys(row["case"] for row in rows):
        heads = [f"M = {size}" for size in sizes]
        for size in shown:
            heads += [f"noise, {size}", f"cosine, {size}", f"error, {size}"]
        lines += [f"### {case}", "", "| bound | " + " | ".join(heads) + " |"]
        lines.append("|---|" + "---:|" * len(heads))
        for rule in dict.fromkeys(row["rule"] for row in rows):
            found = {row["M"]: row for row in rows if (row["case"], row["rule"]) == (case, rule)}
            cells = [f"{found[size]['mu']:.2f} / {found[size]['sigma']:.2f}" for size in sizes]
            for size in shown:
                cells += [
                    f"{found[size]['noise']:.2f}",
                    f"{found[size]['cosine']:.3f}",
                    f"{found[size]['error']:.2f}",
                ]
            lines.append(f"| {rule} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def _diffusion(record: dict[str, Any]) -> list[str]:
    settings = record["settings"]
    lines = [
        "## The diffusion of the power task",
        "",
        f"Two-stage diffusion of seed 0, the first {settings['days']} training days as one batch, "
        f"M = {settings['scenarios']}, c = 2, {settings['draws']} draws each; the truth is the mean of "
        "as many pathwise draws of their own. *Cosine* and *length* are those of the expectation: "
        "squared lengths are products of different draws, so that noise neither lengthens a mean nor "
        "turns it; a cosine may exceed 1 by its error (jackknife). *Along*: length along the truth, "
        "what a step gains. *One*: cosine of a draw with the truth. *Noise*: standard deviation of a "
        "draw in lengths of its mean. *Clipped*, *outside*: shares of weights and of terms. "
        "*s*: processor seconds of a draw, and over those of the first score.",
        "",
        "| surrogate | clip | region | cosine | length | along | one | noise | clipped | outside | s "
        "| ratio |",
        "|---|" + "---:|" * 11,
    ]
    for row in record["diffusion"]:
        cells = [_pair(row, name) for name in ("cosine", "length", "along")]
        cells += [_number(row["one"]), _number(row["noise"])]
        cells += [
            f"{row[name]:.3f}" if name in row else "" for name in ("clipped_share", "outside_share")
        ]
        lines.append(
            f"| {row['surrogate']} | {row.get('clip', 0):g} | {row.get('region', 0):g} | "
            + " | ".join(cells)
            + f" | {row['seconds']:.2f} | {row['ratio']:.1f} |"
        )
    return [*lines, ""]


def _pair(row: Row, name: str) -> str:
    if row[name] is None or not math.isfinite(row[name]):
        return "-"
    return f"{row[name]:.3f} ± {row[f'{name}_se'] or math.nan:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.2f}"


def figure(record: dict[str, Any]) -> "Figure":
    """Left: worst loss of length by M, a curve a bound. Right: cosine and length of the diffusion."""
    diffusion = record["diffusion"]
    made, axes = panels(1, 2, 12.0, max(4.5, 1.4 + 0.24 * len(diffusion)))
    left, right = axes[0]
    for index, (rule, by_size) in enumerate(shortfalls(record["closed"]).items()):
        sizes = sorted(by_size)
        left.plot(
            sizes,
            [max(by_size[size], 1e-4) for size in sizes],
            label=rule,
            color=PALETTE[index % len(PALETTE)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle=LINES[index % len(LINES)],
            # Hollow once the palette has gone round.
            markerfacecolor="white" if index >= len(PALETTE) else None,
            linewidth=1.0 if index >= len(PALETTE) else 1.8,
            markersize=5,
        )
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("scenarios M")
    left.set_ylabel("share of the gradient lost, worst case (below 1e-4: 1e-4)")
    if record["closed"]:
        left.legend(fontsize=7)
    places = range(len(diffusion))
    for index, (name, label) in enumerate(
        (("cosine", "cosine of the expectation"), ("along", "length along the truth"))
    ):
        right.errorbar(
            [_finite(row[name]) for row in diffusion],
            places,
            xerr=[_finite(row[f"{name}_se"]) for row in diffusion],
            color=PALETTE[index],
            marker=MARKERS[index],
            linestyle="none",
            markersize=5,
            elinewidth=0.8,
            label=label,
        )
    right.set_yticks(places, [_label(row) for row in diffusion], fontsize=7)
    right.invert_yaxis()
    right.set_xlim(-0.3, 1.5)
    right.axvline(1.0, color="0.5", linestyle=":", linewidth=1.0)
    right.set_xlabel("against the pathwise gradient")
    right.legend(fontsize=8)
    return made


def _label(row: Row) -> str:
    parts = [row["surrogate"]]
    parts += [f"clip {row['clip']:g}"] if row.get("clip") else []
    parts += [f"region {row['region']:g}"] if row.get("region") else []
    return ", ".join(parts)


def _finite(value: float | None) -> float:
    return math.nan if value is None else value
