"""The files of ``gradient_lab.py linear``: linear.json, linear.md, linear.png and linear.pdf."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laboratory.files import ordered_style, panels, write_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

_VARIANCE = {"beta": "sigma^2 = beta", "posterior": "sigma^2 = posterior"}
_WEIGHTING = {"vlb": "VLB weights", "simple": "simple weights"}


def write(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write the four files of ``record`` into ``folder``."""
    return write_files(folder, "linear", record, markdown, figure)


def markdown(record: dict[str, Any]) -> str:
    """The tables, with what they are tables of."""
    settings, described = record["settings"], record["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in described["versions"].items())
    cosines = record["cosines"]
    worst = max(max(row["vlb_se"], row["simple_se"]) for row in cosines)
    lines = [
        "# The ELBO's gradient in the linear-Gaussian model (Figure 6, Proposition 5.1)",
        "",
        f"`{record['command']}`, {record['seconds']:g} s on one thread, float64. {versions}.",
        "",
        "![Cosine against model error](linear.png)",
        "",
        *_introduction(settings, worst),
        *_claims(cosines),
        *_reading(cosines),
        *_schedules(record["schedules"]),
    ]
    for steps in settings["timesteps"]:
        lines += ["", f"## Cosine, T = {steps}", ""]
        lines += _by_dimension(
            [row for row in cosines if row["T"] == steps],
            settings["dimensions"],
            lambda row: f"{row['vlb']:.2f} / {row['simple']:.2f}",
            "Entries: VLB weights / simple weights.",
        )
        lines += ["", f"## KL(q || p) in nats, T = {steps}", ""]
        lines += _by_dimension(
            [row for row in cosines if row["T"] == steps],
            settings["dimensions"],
            lambda row: f"{row['kl']:.2g}",
            "Mean of log p(y_0) - ELBO(y_0).",
        )
    return "\n".join([*lines, *_bound(record["bound"], cosines)]) + "\n"


def _introduction(settings: dict[str, Any], worst: float) -> list[str]:
    return [
        "Model of Appendix A.5: eps_theta = A_t y_t + B_t x + c_t, data N(Wx, I), x ~ N(0, I), "
        "W_ij ~ N(0, 1/d), as many contexts as outcomes. log p(y_0 | x), the ELBO (constants "
        "included) and both gradients in (A_t, B_t, c_t), t = 1..T, are closed forms: nothing is "
        "sampled over timesteps or noise. The cosine is over the whole of theta, for one pair "
        "(x, y_0) with y_0 from the model's own ancestral chain, then averaged: over the chain's "
        "own law the mean of grad log p is zero, and so a cosine of means is not defined.",
        "",
        f"Entries are means over {settings['draws']} models a cell, {settings['samples']} samples "
        f"each; the largest standard error of a cosine (over models) is {worst:.2g}. Linear "
        "schedule, resampled for T other than 1000. Posterior variance is 0 at t = 1, where the "
        "ELBO would be minus infinity; that step takes the variance of step 2 (Nichol and "
        "Dhariwal, 2021).",
        "",
        "Model error e: normal errors, independent over entries and steps, of e times the root "
        "mean square entry of A_t or B_t (c_t: e |A_t|_F / sqrt(d)). *Stepwise*: relative to each "
        "step's matrix. *Uniform*: relative to the root mean square over all steps, so that the "
        "error does not shrink with A_t towards t = 1, as the error of a trained network need not.",
    ]


def _claims(cosines: list[Row]) -> list[str]:
    lines = [
        "",
        "## At the optimum, sigma^2 = beta",
        "",
        "| T | d | VLB weights | simple weights | KL |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in cosines:
        if row["error"] == 0 and row["variance"] == "beta":
            lines.append(
                f"| {row['T']} | {row['d']} | {row['vlb']:.4f} | {row['simple']:.3f} "
                f"| {row['kl']:.1e} |"
            )
    return [
        *lines,
        "",
        "For data of unit noise the forward process is reversible with steps of variance beta, so "
        "that the optimal chain is the reversed forward process and q(z | y_0) its exact "
        "posterior: ELBO = log p, gradient = gradient. All that is left is the start, N(0, I) in "
        "place of N(sqrt(alpha_bar_T) W x, I); the KL is exactly 0 where W x = 0. Simple weights "
        "multiply the gradient of every step by another number, which turns it; posterior "
        "variance is not the variance of the reversed process, so that its KL is not 0.",
    ]


def _reading(cosines: list[Row]) -> list[str]:
    """How the two weightings stand errors, at the largest T and d."""
    steps, size = max(row["T"] for row in cosines), max(row["d"] for row in cosines)
    picked = {
        (row["shape"], row["error"]): f"{row['vlb']:.2f} / {row['simple']:.2f}"
        for row in cosines
        if (row["T"], row["d"], row["variance"]) == (steps, size, "beta")
    }
    entries = [f"{_error(*key)}: {picked[key]}" for key in picked if key[1] in (0, 0.05, 0.3)]
    return [
        "",
        f"VLB / simple weights at T = {steps}, d = {size}: " + "; ".join(entries) + ". VLB weights "
        "are right only as far as the model is: they weigh the first steps most, where a small "
        "error of the predicted noise is a large error of the model. With an error that does not "
        "shrink towards t = 1 simple weights have the better angle, the more so the longer the "
        "chain. The dimension hardly matters.",
    ]


def _schedules(rows: list[Row]) -> list[str]:
    lines = [
        "",
        f"## At the optimum under other schedules, T = {rows[0]['T']}, d = {rows[0]['d']}",
        "",
        "Entries: VLB weights / simple weights.",
        "",
        "| schedule | alpha_bar_T | sigma^2 = beta | sigma^2 = posterior |",
        "|---|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row["schedule"] for row in rows):
        found = {row["variance"]: row for row in rows if row["schedule"] == name}
        pair = [f"{found[v]['vlb']:.3f} / {found[v]['simple']:.3f}" for v in _VARIANCE]
        lines.append(f"| {name} | {found['beta']['alpha_bar_T']:.1g} | {pair[0]} | {pair[1]} |")
    return [
        *lines,
        "",
        "Only sigma^2 = beta with VLB weights gives the same on every schedule, and it too needs "
        "alpha_bar_T near 0: the unscaled betas of T = 1000 used for fewer steps leave signal at T, "
        "so that the chain starts from the wrong law. The cosine of simple weights is a fact of "
        "the schedule, not of the surrogate: how far beta_t^2 / (2 sigma_t^2 alpha_t "
        "(1 - alpha_bar_t)) is from constant.",
    ]


def _by_dimension(
    rows: list[Row], dimensions: tuple[int, ...], entry: Callable[[Row], str], note: str
) -> list[str]:
    heads = [f"d={size}" for size in dimensions]
    lines = [
        note,
        "",
        "| variance | error | " + " | ".join(heads) + " |",
        "|---|---|" + "---:|" * len(heads),
    ]
    for variance, label in _VARIANCE.items():
        picked = [row for row in rows if row["variance"] == variance]
        for shape, error in dict.fromkeys((row["shape"], row["error"]) for row in picked):
            found = {
                row["d"]: entry(row)
                for row in picked
                if (row["shape"], row["error"]) == (shape, error)
            }
            cells = " | ".join(found[size] for size in dimensions)
            lines.append(f"| {label} | {_error(shape, error)} | {cells} |")
    return lines


def _bound(rows: list[Row], cosines: list[Row]) -> list[str]:
    if not rows:
        return []
    lines = [
        "",
        f"## Proposition 5.1, T = {rows[0]['T']}",
        "",
        "The proposition bounds |grad log p - grad ELBO| by sqrt(2) B sqrt(KL(q || p)) with B the "
        "largest norm of the joint score s over all latents. **That B is infinite here, as for "
        "every diffusion model with Gaussian transitions:** the part of s of step t, "
        "(d mu_theta/d theta)^T (y_{t-1} - mu_theta)/sigma_t^2, is linear in y_{t-1}. As printed, "
        "the bound says nothing; its second-moment form does:",
        "",
        "    |E_p s - E_q s| <= int |s| |p - q| <= sqrt(int |s|^2 (p + q)) sqrt(int (p - q)^2 / (p + q))",
        "",
        "and the last integral is at most c KL(q || p). With |p - q| = |sqrt p - sqrt q| "
        "(sqrt p + sqrt q) one gets c = 2 (*loose*: sqrt(2 (E_q|s|^2 + E_p|s|^2) KL)). As "
        "f-divergences in u = q/p the two are of (u-1)^2/(u+1) and u log u - u + 1, both "
        "non-negative, and the ratio of these is at most 1.1159 (near u = 0.22): c = 1.1159 "
        "(*sharp*), which no smaller constant can replace for all p and q. A constant taken from "
        "s leaves the left side alone, so that the moments may be taken about (E_p s + E_q s)/2 "
        "(*centred*).",
        "",
        "KL = log p - ELBO, and both moments are exact (fourth moments of a Gaussian). Means over "
        "samples; *ratio* is right over left, median over samples, *smallest* over samples.",
        "",
        "| variance | d | error | KL | norm of grad log p | left | loose | ratio | sharp | centred "
        "| ratio | smallest |",
        "|---|---:|---|" + "---:|" * 9,
    ]
    for row in rows:
        numbers = ("kl", "length", "left", "loose", "loose_ratio", "sharp", "centred")
        cells = [f"{row[name]:.3g}" for name in (*numbers, "centred_ratio")]
        cells.append(f"{row['centred_smallest_ratio']:.3g}")
        head = f"| {_VARIANCE[row['variance']]} | {row['d']} | {_error(row['shape'], row['error'])}"
        lines.append(" | ".join([head, *cells]) + " |")
    low = min(row["centred_ratio"] for row in rows)
    vacuous = min(row["kl"] for row in rows if row["centred"] > row["length"])
    other = [row for row in cosines if row["variance"] == "posterior" and row["error"] == 0][-1]
    return [
        *lines,
        "",
        "Every form holds for every sample. With sigma^2 = beta the ratio is the same at errors of 1 "
        "and of 30 %: both sides grow in proportion to the error, the order sqrt(KL) is right. The "
        "constant is not: the second moment of s adds up over steps and parameters, the difference "
        f"of its means does not, so that the tightest form is at best {low:.0f} times too large "
        f"(median over samples), and more so the larger d. From KL = {vacuous:.1g} on it exceeds the "
        "norm of grad log p itself. So the proposition says that the gradients agree in the limit "
        "of KL = 0 and, at the errors of a trained model, nothing about their angle; nor does KL "
        f"order the angles: sigma^2 = posterior at the optimum, T = {other['T']}, d = {other['d']}, "
        f"has KL = {other['kl']:.2g} and cosine {other['vlb']:.2f}.",
    ]


def _error(shape: str, error: float) -> str:
    return "0" if error == 0 else f"{100 * error:g} % {shape}"


def figure(record: dict[str, Any]) -> "Figure":
    """Cosine against model error by dimension, weighting, T and error shape; sigma^2 = beta."""
    settings = record["settings"]
    rows = [row for row in record["cosines"] if row["variance"] == "beta"]
    columns = [(steps, name) for steps in settings["timesteps"] for name in _WEIGHTING]
    shapes = ("stepwise", "uniform")
    made, axes = panels(
        len(shapes), len(columns), 2.9 * len(columns), 5.6, sharex=True, sharey=True
    )
    for line, shape in enumerate(shapes):
        for place, (steps, weighting) in enumerate(columns):
            axis = axes[line, place]
            for index, size in enumerate(settings["dimensions"]):
                picked = [
                    row
                    for row in rows
                    if (row["T"], row["d"]) == (steps, size)
                    and (row["shape"] == shape or row["error"] == 0)
                ]
                picked.sort(key=lambda row: row["error"])
                axis.errorbar(
                    range(len(picked)),
                    [row[weighting] for row in picked],
                    [row[f"{weighting}_se"] for row in picked],
                    label=f"d = {size}",
                    **ordered_style(index, len(settings["dimensions"])),
                )
            axis.set_xticks(
                range(len(settings["errors"])), [f"{100 * e:g}" for e in settings["errors"]]
            )
            axis.set_ylim(0, 1.03)
            if line == 0:
                axis.set_title(f"T = {steps}, {_WEIGHTING[weighting]}", fontsize=10)
            else:
                axis.set_xlabel("model error (%)")
        axes[line, 0].set_ylabel(f"cosine, {shape} error")
    axes[0, 0].legend(fontsize=8, loc="lower left")
    return made
