"""How our cost grows with the batch B, the scenarios M and the decisions n."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.cases import CASES, Case
from benchmarks.measure import burst

BATCHES = (1, 4, 16, 64, 256, 1024)
SCENARIOS = (10, 32, 100, 316, 1000)
# Fixed costs of a call hide the growth at small sizes: the exponent is that of the largest three.
FITTED = 3
# B in the sweeps over M, and over n.
_BATCH, _BATCH_OVER_SIZES = 64, 16

# Case -> sizes n that make sense for it; M there is the case's own, at most 100.
SIZES = {
    "power": (12, 24, 48, 96),
    "power_convolved": (12, 24, 48, 96),
    "power_binding": (12, 24, 48, 96),
    "portfolio": (10, 50, 100, 200, 392),
    "allocation": (3, 10, 30, 100),
    "newsvendor": (1, 4, 16, 64),
}


@dataclass
class Sweep:
    """Times of one case over one size.

    Attributes:
        along: ``B``, ``M`` or ``n``.
        fixed: the other two, in words.
        sizes, milliseconds: the curve, forward + backward.
        exponent: slope of log time over log size on the largest ``FITTED`` sizes.
    """

    case: str
    title: str
    along: str
    fixed: str
    sizes: list[int]
    milliseconds: list[float]

    @property
    def fitted(self) -> list[int]:
        return self.sizes[-FITTED:]

    @property
    def exponent(self) -> float:
        pairs = zip(self.fitted, self.milliseconds[-FITTED:], strict=True)
        return slope([(math.log(size), math.log(time)) for size, time in pairs])

    def record(self) -> dict[str, Any]:
        """For json."""
        own = {name: getattr(self, name) for name in ("case", "title", "along", "fixed", "sizes")}
        return own | {
            "milliseconds": self.milliseconds,
            "fitted_sizes": self.fitted,
            "exponent": self.exponent,
        }


def slope(points: list[tuple[float, float]]) -> float:
    """Least-squares slope of y over x; nan for fewer than two points."""
    if len(points) < 2:
        return math.nan
    x, y = (torch.tensor(values, dtype=torch.float64) for values in zip(*points, strict=True))
    centred = x - x.mean()
    return float((centred * y).sum() / (centred * centred).sum())


def sweeps(names: set[str], seconds: float, small: bool = False) -> list[Sweep]:
    """Every sweep of the cases ``names``; ``small`` keeps the smallest sizes only."""
    found = []
    for case in CASES:
        if case.name not in names or case.name not in SIZES:
            continue
        for along, field, sizes in (
            ("B", "batch", BATCHES),
            ("M", "num_scenarios", SCENARIOS),
            ("n", "num_decisions", SIZES[case.name]),
        ):
            batch = _BATCH_OVER_SIZES if along == "n" else _BATCH
            own = case.sized(num_scenarios=min(case.num_scenarios, 100), batch=batch)
            picked = list(sizes[:3] if small else sizes)
            every = [own.sized(**{field: size}) for size in picked]
            fixed = {"B": own.batch, "M": own.num_scenarios, "n": own.num_decisions}
            words = ", ".join(f"{name}={value}" for name, value in fixed.items() if name != along)
            times = [_milliseconds(one, seconds) for one in every]
            found.append(Sweep(case.name, case.label, along, words, picked, times))
    return found


def _milliseconds(case: Case, seconds: float) -> float:
    scenarios = case.scenarios()
    direction = torch.ones(case.batch, case.num_decisions, dtype=torch.float64)
    direction[:, ::2] = -0.5
    layer = case.layer()
    layer(scenarios)
    return 1e3 * burst(layer, scenarios, direction, seconds)[1]
