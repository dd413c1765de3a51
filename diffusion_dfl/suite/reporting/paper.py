"""Numbers printed in the paper's Table 1: mean and standard error over 10 runs.

Source: Zhao, Yeh, Kong, Wang, "Diffusion-DFL", Table 1. The power RMSE column mixes a root mean
square an hour (the three two-stage rows) with a sum over 24 hours (the other six). The portfolio's
Task column is the mean daily return in percent, where more is better.
"""

from dataclasses import dataclass

Cell = tuple[str, str]  # model, grad


@dataclass(frozen=True)
class Printed:
    """A printed pair of mean and standard error.

    Attributes:
        mean, error: as printed.
        summed: how many coordinates the number is a sum over; 1 for none.
    """

    mean: float
    error: float
    summed: int = 1

    def __str__(self) -> str:
        text = f"{self.mean:.3f} ± {self.error:.2f}"
        return text if self.summed == 1 else f"{text} ({self.mean / self.summed:.3f} an hour)"


DECISION_FOCUSED = "Decision-focused learning"

#: Rows in the paper's order with ours (path score, flow) last in a section: section, title, model,
#: grad.
ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("Two-stage", "Deterministic TS", "deterministic", "two_stage"),
    ("Two-stage", "Gaussian TS", "gaussian", "two_stage"),
    ("Two-stage", "Diffusion TS", "diffusion", "two_stage"),
    ("Two-stage", "Flow TS", "flow", "two_stage"),
    ("Offline contextual bandits", "Policy-based learning", "policy", "policy"),
    (DECISION_FOCUSED, "Deterministic", "deterministic", "reparam"),
    (DECISION_FOCUSED, "Gaussian reparameterization", "gaussian", "reparam"),
    (DECISION_FOCUSED, "Gaussian score function", "gaussian", "score"),
    (DECISION_FOCUSED, "Diffusion reparameterization", "diffusion", "reparam"),
    (DECISION_FOCUSED, "Diffusion score function", "diffusion", "score"),
    (DECISION_FOCUSED, "Diffusion path score", "diffusion", "score_path"),
    (DECISION_FOCUSED, "Flow reparameterization", "flow", "reparam"),
    (DECISION_FOCUSED, "Flow score function", "flow", "score"),
)

#: Task -> (model, grad) -> (RMSE, task).
TABLE_1: dict[str, dict[Cell, tuple[Printed, Printed]]] = {
    "synthetic": {
        ("deterministic", "two_stage"): (Printed(0.639, 0.00), Printed(1.987, 0.00)),
        ("gaussian", "two_stage"): (Printed(0.720, 0.00), Printed(1.272, 0.23)),
        ("diffusion", "two_stage"): (Printed(0.905, 0.00), Printed(0.393, 0.00)),
        ("policy", "policy"): (Printed(0.873, 0.00), Printed(0.568, 0.02)),
        ("deterministic", "reparam"): (Printed(0.640, 0.00), Printed(1.987, 0.00)),
        ("gaussian", "reparam"): (Printed(0.707, 0.00), Printed(1.169, 0.03)),
        ("gaussian", "score"): (Printed(0.708, 0.00), Printed(1.132, 0.00)),
        ("diffusion", "reparam"): (Printed(0.852, 0.01), Printed(0.365, 0.00)),
        ("diffusion", "score"): (Printed(0.849, 0.09), Printed(0.362, 0.00)),
    },
    "power": {
        ("deterministic", "two_stage"): (Printed(0.120, 0.00), Printed(41.239, 3.18)),
        ("gaussian", "two_stage"): (Printed(0.117, 0.00), Printed(5.580, 0.45)),
        ("diffusion", "two_stage"): (Printed(0.147, 0.00), Printed(7.901, 0.76)),
        ("policy", "policy"): (Printed(4.712, 0.10, 24), Printed(4.440, 0.17)),
        ("deterministic", "reparam"): (Printed(4.997, 0.10, 24), Printed(4.324, 0.25)),
        ("gaussian", "reparam"): (Printed(4.525, 0.12, 24), Printed(3.724, 0.05)),
        ("gaussian", "score"): (Printed(4.713, 0.15, 24), Printed(4.087, 0.06)),
        ("diffusion", "reparam"): (Printed(3.141, 0.06, 24), Printed(3.152, 0.03)),
        ("diffusion", "score"): (Printed(2.893, 0.03, 24), Printed(3.171, 0.02)),
    },
    "portfolio": {
        ("deterministic", "two_stage"): (Printed(0.027, 0.00), Printed(0.04, 0.04)),
        ("gaussian", "two_stage"): (Printed(0.188, 0.03), Printed(0.10, 0.04)),
        ("diffusion", "two_stage"): (Printed(0.455, 0.00), Printed(0.13, 0.03)),
        ("policy", "policy"): (Printed(0.064, 0.00), Printed(1.74, 0.41)),
        ("deterministic", "reparam"): (Printed(0.032, 0.00), Printed(0.07, 0.00)),
        ("gaussian", "reparam"): (Printed(0.189, 0.03), Printed(0.08, 0.03)),
        ("gaussian", "score"): (Printed(0.187, 0.03), Printed(0.14, 0.05)),
        ("diffusion", "reparam"): (Printed(0.063, 0.00), Printed(4.17, 0.24)),
        ("diffusion", "score"): (Printed(0.067, 0.00), Printed(3.98, 0.31)),
    },
}

#: Task -> what a reader must know before comparing with the printed numbers.
COMPARISON: dict[str, str] = {
    "synthetic": "The paper's task column is the mean cost of 200 fixed test points, on which the "
    "cost is so heavy-tailed that it says little; ours is the expected cost in closed form, on a "
    "new data set a seed. The policy's printed RMSE is of decisions, not of outcomes.",
    "power": "The paper's RMSE column mixes values an hour (two-stage rows) with sums over 24 hours "
    "(the others, here with the value an hour in brackets), and its protocol differs "
    "(docs/data.md).",
    "portfolio": "The paper's numbers come from another protocol (docs/data.md). The policy's "
    "printed RMSE is of weights, not of returns.",
}

#: The same for the tasks that repeat the released protocol.
COMPARISON_RELEASED = (
    "This task repeats the protocol of the authors' release, for its numbers to be traced "
    "(docs/released.md); networks and training are ours. No conclusion rests on it."
)
