"""The decision problems of the solver benchmark: programs, scenarios and what must hold of them.

Scenarios are drawn from one seed, resemble the data of the tasks, and are checked: a case that
claims that no ramp binds, or that one binds in every instance, is refused if it does not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import (
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    ProductAllocation,
    Program,
)
from diffusion_dfl.solvers import Solution

# (batch, num_scenarios, num_outcomes, generator) -> (B, M, d_y)
Draw = Callable[[int, int, int, torch.Generator], Tensor]
SEED = 2026


@dataclass(frozen=True)
class Case:
    """One row block of the table.

    Attributes:
        name: for ``--cases``.
        label: for people.
        make_program: n -> the program.
        draw: its scenarios.
        num_scenarios, num_decisions, batch: M, n, B.
        convolved: whether ours solves the convolved program; peers then solve the exact one.
        goal_ratio: forward + backward against cvxpylayers with Clarabel.
        goal_error: objective gap and KKT residual.
        holds: what must be true of our solution, or None.
    """

    name: str
    label: str
    make_program: Callable[[int], Program]
    draw: Draw
    num_scenarios: int
    num_decisions: int
    goal_ratio: float
    goal_error: float
    convolved: bool = False
    batch: int = 64
    holds: Callable[[Program, Solution], str | None] | None = None

    @property
    def title(self) -> str:
        return f"{self.label}, n={self.num_decisions}, M={self.num_scenarios}"

    @property
    def program(self) -> Program:
        return self.make_program(self.num_decisions)

    def scenarios(self) -> Tensor:
        """``(B, M, d_y)`` float64, the same in every run."""
        generator = torch.Generator().manual_seed(SEED)
        return self.draw(self.batch, self.num_scenarios, self.program.num_outcomes, generator)

    def layer(self) -> DecisionLayer:
        """Our layer, as a user would make it."""
        if self.convolved:
            return DecisionLayer(self.program, curvature="convolved")
        return DecisionLayer(self.program, curvature="saa")

    def sized(self, **sizes: Any) -> "Case":
        """The same problem with other ``batch``, ``num_scenarios`` or ``num_decisions``."""
        return replace(self, **sizes)

    def check(self, solution: Solution) -> None:
        """Raise ``AssertionError`` if the case is not what its title says."""
        reason = None if self.holds is None else self.holds(self.program, solution)
        if reason is not None:
            raise AssertionError(f"case {self.name}: {reason}")


def load_like(batch: int, num_scenarios: int, hours: int, generator: torch.Generator) -> Tensor:
    """Daily load curves in units of their standard deviation: smooth, with smooth forecast errors.

    A curve with one wave a day, and scenarios that differ by a level and two slow waves of their
    own. Hourly changes are about those of real load: 0.25 at the steepest.
    """
    time = 2 * math.pi * torch.arange(hours, dtype=torch.float64) / 24
    curve = 0.7 * torch.sin(time + 0.3 * torch.randn(batch, 1, 1, generator=generator).double())
    draws = torch.randn(5, batch, num_scenarios, 1, generator=generator, dtype=torch.float64)
    waves = draws[0] * torch.sin(time) + draws[1] * torch.cos(time)
    waves = waves + 0.5 * (draws[2] * torch.sin(2 * time) + draws[3] * torch.cos(2 * time))
    noise = torch.randn(batch, num_scenarios, hours, generator=generator, dtype=torch.float64)
    return curve + 0.2 * draws[4] + 0.05 * waves + 0.01 * noise


def daily_returns(batch: int, num_scenarios: int, size: int, generator: torch.Generator) -> Tensor:
    """Returns N(5e-4, 0.02^2) of assets that share a market factor (correlation 0.3)."""
    market = torch.randn(batch, num_scenarios, 1, generator=generator, dtype=torch.float64)
    own = torch.randn(batch, num_scenarios, size, generator=generator, dtype=torch.float64)
    return 5e-4 + 0.02 * (math.sqrt(0.3) * market + math.sqrt(0.7) * own)


def margins(batch: int, num_scenarios: int, size: int, generator: torch.Generator) -> Tensor:
    """Profit margins of products, some of which lose money on average."""
    mean = 0.3 + 0.4 * torch.randn(batch, 1, size, generator=generator, dtype=torch.float64)
    noise = torch.randn(batch, num_scenarios, size, generator=generator, dtype=torch.float64)
    return mean + 0.7 * noise


def demands(batch: int, num_scenarios: int, size: int, generator: torch.Generator) -> Tensor:
    """Log-normal demands of 0 to 5 or so, with another level in every instance."""
    level = 0.6 * torch.rand(batch, 1, size, generator=generator, dtype=torch.float64)
    noise = torch.randn(batch, num_scenarios, size, generator=generator, dtype=torch.float64)
    return torch.exp(level + 0.3 * noise)


def _ramps_slack(program: Any, solution: Solution) -> str | None:
    steepest = float(solution.decision.diff(dim=1).abs().max())
    if bool((solution.duals > 0).any()) or steepest >= program.ramp:
        return f"a ramp binds: the steepest is {steepest:.3f}"
    return None


def _ramps_bind(program: Program, solution: Solution) -> str | None:
    bound = (solution.duals > 1e-6).any(1)
    if not bool(bound.all()):
        return f"ramps bind in {int(bound.sum())} of {len(bound)} instances only"
    return None


def _tight_power(hours: int) -> PowerProgram:
    return PowerProgram(num_decisions=hours, ramp=0.05)


def _power(hours: int) -> PowerProgram:
    return PowerProgram(num_decisions=hours, ramp=0.4)


def _portfolio(size: int) -> MeanVariancePortfolio:
    return MeanVariancePortfolio(size, risk_aversion=10.0)


def _allocation(size: int) -> ProductAllocation:
    return ProductAllocation(num_decisions=size)


def _newsvendor(size: int) -> Newsvendor:
    return Newsvendor(num_decisions=size)


CASES: tuple[Case, ...] = (
    Case(
        "power",
        "power, exact, ramps slack",
        _power,
        load_like,
        50,
        24,
        goal_ratio=300,
        goal_error=1e-9,
        holds=_ramps_slack,
    ),
    Case(
        "power_convolved",
        "power, convolved",
        _power,
        load_like,
        200,
        24,
        goal_ratio=100,
        goal_error=1e-9,
        convolved=True,
    ),
    Case(
        "power_binding",
        "power, exact, ramps bind in every instance",
        _tight_power,
        load_like,
        50,
        24,
        goal_ratio=20,
        goal_error=1e-7,
        holds=_ramps_bind,
    ),
    Case(
        "portfolio",
        "portfolio, alpha=10",
        _portfolio,
        daily_returns,
        50,
        50,
        goal_ratio=20,
        goal_error=1e-7,
    ),
    Case(
        "portfolio_wide",
        "portfolio, alpha=10",
        _portfolio,
        daily_returns,
        100,
        392,
        goal_ratio=20,
        goal_error=1e-6,
    ),
    Case(
        "allocation",
        "product allocation",
        _allocation,
        margins,
        1000,
        10,
        goal_ratio=20,
        goal_error=1e-8,
    ),
    Case(
        "newsvendor",
        "newsvendor",
        _newsvendor,
        demands,
        1000,
        1,
        goal_ratio=100,
        goal_error=1e-9,
    ),
)


def quick(case: Case) -> Case:
    """A small version that takes seconds, to try the benchmark out; its numbers mean nothing."""
    return case.sized(
        batch=3,
        num_scenarios=min(case.num_scenarios, 8),
        num_decisions=min(case.num_decisions, 24),
    )
