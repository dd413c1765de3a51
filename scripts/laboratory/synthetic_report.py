"""The text and the figure of ``gradient_lab.py synthetic``."""

import math
import statistics
from typing import TYPE_CHECKING, Any

from laboratory.files import LINES, MARKERS, PALETTE, ordered_style, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

_ESTIMATORS = {"score": "score (ELBO)", "score_path": "score_path", "reparam": "reparam, redrawn"}


def markdown(record: dict[str, Any]) -> str:
    """The tables, with what they are tables of."""
    settings = record["settings"]
    versions = ", ".join(
        f"{name} {number}" for name, number in record["environment"]["versions"].items()
    )
    lines = [
        "# Score against reparameterisation on the product allocation task (Figure 2)",
        "",
        f"`{record['command']}`, {record['seconds']:g} s on one thread. {versions}.",
        "",
        "![Cosine by epoch and by dimension](synthetic.png)",
        "",
        "Simulated margins, mixture of the released code, no context: M scenarios are pooled into "
        f"one decision. A diffusion of 2 x {settings['width']} units is fitted to "
        f"{settings['train_rows']} rows ({settings['fit_steps']} steps), T = 1000, sampled in "
        f"{settings['sampling_steps']} ancestral steps (variance beta, noise in the last step too). "
        "Gradients are those of the mean cost over all training rows, in all weights of the "
        "network. A draw of the score and a draw of reparam share their scenarios. *One*: mean "
        "cosine of such a pair ± standard deviation over pairs, the paper's measure. *Mean*: cosine "
        "of the means of the draws ± its standard deviation (jackknife), which noise spoils less. "
        "Score is the paper's: simple weights, independent uniform timesteps, nothing clipped. "
        "score_path has the exact score of the sampled path in place of the ELBO. The released code "
        "pools 32 x 30 = 960 scenarios; the text has M = 30.",
        "",
        *_reading(record),
        *_epochs(record),
        *_dimensions(record["dimensions"], settings),
        *_surrogates(record, settings),
    ]
    return "\n".join(lines) + "\n"


def _reading(record: dict[str, Any]) -> list[str]:
    settings, epochs = record["settings"], record["epochs"]
    followed = settings["followed_dimension"]
    largest = max(row["M"] for row in epochs)
    many = max(row["k"] or 0 for row in epochs)
    curve = [row["one"] for row in epochs if (row["M"], row["k"]) == (largest, many)]
    by_k = ", ".join(
        f"{_mean_over_epochs(epochs, largest, k):.2f} "
        + ("(score_path)" if k is None else f"(k = {k})")
        for k in dict.fromkeys(row["k"] for row in epochs)
    )
    rows = record["dimensions"]
    final, least = max(row["M"] for row in rows), min(row["M"] for row in rows)
    redrawn = [row["one"] for row in rows if (row["M"], row["estimator"]) == (least, "reparam")]
    effective = ", ".join(
        f"{row['effective']:.0f} (d = {row['d']})"
        for row in rows
        if (row["M"], row["estimator"]) == (final, "score")
    )
    means = {
        name: ", ".join(
            f"{_number(row, 'mean')} (d = {row['d']})"
            for row in rows
            if (row["M"], row["estimator"]) == (final, name)
        )
        for name in ("score", "score_path")
    }
    plain = [row for row in record["surrogates"] if "paper" in row["surrogate"]]
    fits = ", ".join(
        f"{_number(row, 'mean')} after {row['fit_steps']} steps (cost {row['cost']:.2f})"
        for row in plain
    )
    return [
        "## What it says",
        "",
        f"The paper's figure shows about .99. Here, at d = {followed}, M = {largest} and "
        f"k = {many}, the mean cosine of a pair lies between {min(curve):.2f} and "
        f"{max(curve):.2f} over the epochs. What stands between it and 1:",
        "",
        "- *Scenario noise*, the most of it. Compare score_path: its score is exact, and on the "
        "same scenarios it is far from reparam too. exp(-y'z) gives few scenarios all the weight: "
        f"M = {final} are worth {effective}, so that a sweep over d is one over the tail of the "
        f"cost. At M = {least} reparam does not agree with reparam on other scenarios "
        f"either: {min(redrawn):.2f} to {max(redrawn):.2f}.",
        "- *Timestep noise*, which more timesteps remove, without mending the rest: "
        f"M = {largest}, averaged over the epochs, {by_k}.",
        f"- *Bias.* Cosine of the means at M = {final}, score: {means['score']}; score_path: "
        f"{means['score_path']}. Where score_path agrees with reparam and score does not, the "
        "surrogate is the reason.",
        "- *The fit.* The ELBO is close to log p only where the model is close to its optimum. At "
        f"d = {followed}, M = {plain[0]['M']}, cosine of the means: {fits}. `vlb` weights suffer "
        "most, as in the linear model. score_path is exact for any model.",
        "",
        "The paper's .99 could not be traced: the log that its figure was read from is not "
        "published. Its released code differs in the reparameterised gradient, whose "
        "cross-derivative is transposed and averaged over the scenarios of a row, and it drops "
        "cosines that are exactly 0. Its caption speaks of dimensions, its axis is epochs; both are "
        "below.",
        "",
    ]


def _mean_over_epochs(rows: list[Row], scenarios: int, k: int | None) -> float:
    return statistics.fmean(row["one"] for row in rows if (row["M"], row["k"]) == (scenarios, k))


def _epochs(record: dict[str, Any]) -> list[str]:
    settings, rows = record["settings"], record["epochs"]
    lines = []
    ks = list(dict.fromkeys(row["k"] for row in rows))
    for scenarios in dict.fromkeys(row["M"] for row in rows):
        count = dict(settings["followed_draws"])[scenarios]
        heads = " | ".join("score_path" if k is None else f"k = {k}" for k in ks)
        lines += [
            f"## By epoch, d = {settings['followed_dimension']}, M = {scenarios}",
            "",
            f"*One*, {count} pairs. Cost: closed-form expected cost of the decision made from 4000 "
            "scenarios.",
            "",
            f"| epoch | cost | {heads} |",
            "|---:|---:|" + "---:|" * len(ks),
        ]
        for epoch in dict.fromkeys(row["epoch"] for row in rows):
            picked = [row for row in rows if (row["epoch"], row["M"]) == (epoch, scenarios)]
            cells = " | ".join(_number(row, "one") for row in picked)
            lines.append(f"| {epoch} | {picked[0]['cost']:.3f} | {cells} |")
        lines.append("")
    return lines


def _dimensions(rows: list[Row], settings: dict[str, Any]) -> list[str]:
    lines = [
        "## By dimension, fitted model",
        "",
        f"k = {settings['fixed_timesteps']}. *reparam, redrawn* is reparam on other scenarios against "
        "reparam: what noise alone leaves, unpaired. *zeros*: share of pairs left out because a "
        "gradient is exactly 0 (every product at a bound). *M_eff*: 1 / sum of squared shares of "
        "the scenarios in the expected cost of the decision.",
        "",
        "| d | cost / optimum | M | M_eff | pairs | estimator | one | mean | zeros |",
        "|---:|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        count = dict(settings["draws"])[row["M"]]
        lines.append(
            f"| {row['d']} | {row['cost']:.3g} / {row['optimal_cost']:.3g} | {row['M']} "
            f"| {row['effective']:.0f} | {count} | {_ESTIMATORS[row['estimator']]} "
            f"| {_number(row, 'one')} | {_number(row, 'mean')} "
            f"| {row['zeros']:.2f} |"
        )
    return [*lines, ""]


def _surrogates(record: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    rows = record["surrogates"]
    lines = [
        f"## Other surrogates, d = {settings['followed_dimension']}, M = {rows[0]['M']}",
        "",
        f"{settings['surrogate_draws'][1]} pairs, k = {settings['fixed_timesteps']}.",
        "",
        "| fit steps | cost | surrogate | one | mean |",
        "|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['fit_steps']} | {row['cost']:.3f} | {row['surrogate']} "
            f"| {_number(row, 'one')} | {_number(row, 'mean')} |"
        )
    return lines


def _number(row: Row, name: str) -> str:
    if not math.isfinite(row[name]):
        return "-"
    return f"{row[name]:.2f} ± {row[f'{name}_sd']:.2f}"


def figure(record: dict[str, Any]) -> "Figure":
    """Above: cosine by epoch, a panel each M, a curve each k. Below: by dimension, a panel each M."""
    settings = record["settings"]
    followed = [scenarios for scenarios, _ in settings["followed_draws"]]
    swept = [scenarios for scenarios, _ in settings["draws"]]
    columns = max(len(followed), len(swept))
    made, axes = panels(2, columns, 3.5 * columns, 6.4, sharey=True)
    ks = settings["timesteps"]
    for axis, scenarios in zip(axes[0], followed, strict=False):
        for index, k in enumerate((*ks, None)):
            style = ordered_style(index, len(ks))
            if k is None:
                style |= {"color": "black", "linestyle": "--", "marker": "x"}
            picked = [row for row in record["epochs"] if (row["M"], row["k"]) == (scenarios, k)]
            # Side by side, so that the bars do not hide each other.
            places = [row["epoch"] + 0.06 * (index - 0.5 * len(ks)) for row in picked]
            label = "score_path" if k is None else f"score, k = {k}"
            _curve(axis, places, picked, "one", label, style)
        axis.set_title(f"d = {settings['followed_dimension']}, M = {scenarios}", fontsize=10)
        axis.set_xlabel("epoch of decision-focused training")
    for axis in axes[0, len(followed) :]:
        axis.set_axis_off()
    # In the panel that is left over, if there is one.
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[0, -1].legend(handles, labels, fontsize=9, loc="center")
    sizes = settings["dimensions"]
    for axis, scenarios in zip(axes[1], swept, strict=False):
        for index, (name, label) in enumerate(_ESTIMATORS.items()):
            picked = [
                row
                for row in record["dimensions"]
                if (row["M"], row["estimator"]) == (scenarios, name)
            ]
            style = {"color": PALETTE[index], "marker": MARKERS[index], "linestyle": LINES[index]}
            places = [place + 0.08 * (index - 1) for place in range(len(sizes))]
            _curve(axis, places, picked, "mean", label, style | {"markersize": 4.5})
        axis.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        pairs = dict(settings["draws"])[scenarios]
        axis.set_title(f"M = {scenarios}, means of {pairs} draws", fontsize=10)
        axis.set_xlabel("dimension d, fitted model")
    axes[1, -1].legend(fontsize=8, loc="lower left")
    for row, label in ((0, "cosine of one pair (± sd)"), (1, "cosine of the means (± sd)")):
        axes[row, 0].set_ylabel(label)
    axes[0, 0].set_ylim(-0.6, 1.05)
    return made


def _curve(
    axis: Any, places: list[float], rows: list[Row], name: str, label: str, style: dict[str, Any]
) -> None:
    axis.errorbar(
        places,
        [row[name] for row in rows],
        [row[f"{name}_sd"] for row in rows],
        label=label,
        elinewidth=0.7,
        **style,
    )
