"""Problems with a fault each, as a user may write them, and what must be said of them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

import diffusion_dfl as ddfl
from tests.own.test_train import frame

HINGES = [ddfl.Hinge(4.0, lambda y, z: y - z), ddfl.Hinge(1.0, lambda y, z: z - y)]


def _numpy_cost(y: Tensor, z: Tensor) -> Tensor:
    return torch.as_tensor(np.square(z.detach().numpy() - y.detach().numpy()).sum())


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "concave": (
        {"smooth": lambda y, z: -(z**2).sum(), "lower": 0.0, "upper": 10.0},
        "expected a cost that is convex in the decision; found ",
    ),
    "saddle": (
        {"smooth": lambda y, z: ((z - y) ** 2).sum() + 5 * z[0] * z[1], "lower": 0.0},
        "expected a cost that is convex in the decision; found ",
    ),
    "concave kink": (
        {"smooth": lambda y, z: (z**2).sum() - 30 * (z - y).relu().sum(), "upper": 20.0},
        "expected a cost that is convex in the decision; found ",
    ),
    "shape": (
        {"smooth": lambda y, z: (z - y) ** 2},
        r"smooth\(y, z\) returned shape \(2,\); it must return one number a scenario",
    ),
    "numpy": ({"smooth": _numpy_cost}, r"smooth\(y, z\) does not vectorise"),
    "detached": (
        {"smooth": lambda y, z: ((z.detach() - y) ** 2).sum()},
        r"smooth\(y, z\) is not differentiable in z",
    ),
    "rounded": (
        {"smooth": lambda y, z: (torch.round(z) * y).sum() + 1e-3 * (y * y).sum()},
        "expected a cost that is convex in the decision; found ",
    ),
    "contradiction of bounds": (
        {"hinges": HINGES, "lower": 3.0, "upper": 2.0},
        r"constraints that some decision satisfies; found that they contradict each other.*"
        r"lower=\[3, 3\], upper=\[2, 2\]",
    ),
    "contradiction of rows": (
        {
            "hinges": HINGES,
            "lower": 1.0,
            "matrix": torch.ones(1, 2),
            "limit": torch.tensor([1.5]),
        },
        r"contradict each other.*lower=\[1, 1\], upper=none, matrix @ z <= \[1.5\]",
    ),
    "contradiction in a context": (
        {
            "hinges": HINGES,
            "lower": 1.0,
            "matrix": torch.ones(1, 2),
            "limit": lambda x: 3.0 - 4.0 * x[:1],
        },
        r"contradict each other \(for row \d+\)",
    ),
    "falls for ever": (
        {"smooth": lambda y, z: -(y * z).sum(), "lower": 0.0},
        "expected a cost with a minimum; found one that falls for ever",
    ),
    "two outcomes for one": (
        {"smooth": lambda y, z: (z**2).sum(), "num_outcomes": 3},
        "the program has num_outcomes=3; outcome names 2 columns: a, b",
    ),
}


def faulty(name: str) -> ddfl.FrameTask:
    """The task with this fault."""
    parts = {"num_decisions": 2, "num_outcomes": 2, **FAULTS[name][0]}
    program = ddfl.TorchProgram(**parts)
    return ddfl.task_from_frame("stock", program, frame(), context=["heat"], outcome=["a", "b"])


def make_task(rng: np.random.Generator, fault: str) -> ddfl.FrameTask:
    """As a YAML names it."""
    return faulty(fault)
