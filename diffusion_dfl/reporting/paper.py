"""Numbers printed in the paper's Table 1: mean and standard error over 10 runs.

Source: Zhao, Yeh, Kong, Wang, "Diffusion-DFL", Table 1. The power RMSE column mixes a root mean
square an hour (the three two-stage rows) with a sum over 24 hours (the other six).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Printed:
    """A printed pair of mean and standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.2f}"


#: Rows in the paper's order, then ours: section, title, model, grad.
ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("Two-stage", "Deterministic TS", "deterministic", "two_stage"),
    ("Two-stage", "Gaussian TS", "gaussian", "two_stage"),
    ("Two-stage", "Diffusion TS", "diffusion", "two_stage"),
    ("Offline contextual bandits", "Policy-based learning", "policy", "policy"),
    ("Decision-focused learning", "Deterministic", "deterministic", "reparam"),
    ("Decision-focused learning", "Gaussian reparameterization", "gaussian", "reparam"),
    ("Decision-focused learning", "Gaussian score function", "gaussian", "score"),
    ("Decision-focused learning", "Diffusion reparameterization", "diffusion", "reparam"),
    ("Decision-focused learning", "Diffusion score function", "diffusion", "score"),
    # Not in the paper.
    ("Decision-focused learning", "Diffusion path score", "diffusion", "score_path"),
)

#: Task -> (model, grad) -> (RMSE, task).
TABLE_1: dict[str, dict[tuple[str, str], tuple[Printed, Printed]]] = {
    "power": {
        ("deterministic", "two_stage"): (Printed(0.120, 0.00), Printed(41.239, 3.18)),
        ("gaussian", "two_stage"): (Printed(0.117, 0.00), Printed(5.580, 0.45)),
        ("diffusion", "two_stage"): (Printed(0.147, 0.00), Printed(7.901, 0.76)),
        ("policy", "policy"): (Printed(4.712, 0.10), Printed(4.440, 0.17)),
        ("deterministic", "reparam"): (Printed(4.997, 0.10), Printed(4.324, 0.25)),
        ("gaussian", "reparam"): (Printed(4.525, 0.12), Printed(3.724, 0.05)),
        ("gaussian", "score"): (Printed(4.713, 0.15), Printed(4.087, 0.06)),
        ("diffusion", "reparam"): (Printed(3.141, 0.06), Printed(3.152, 0.03)),
        ("diffusion", "score"): (Printed(2.893, 0.03), Printed(3.171, 0.02)),
    },
}
