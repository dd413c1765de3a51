"""What the device tests run: one line a program, solver and curvature."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields
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
from diffusion_dfl.programs.general import Hinge, TorchProgram
from diffusion_dfl.programs.risk import conditional_value_at_risk

Move = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A program, its scenarios ``(B, M, d_y)`` on the CPU, and the options of the layer."""

    program: Program
    scenarios: Tensor
    options: dict[str, Any] = field(default_factory=dict)
    context: Tensor | None = None

    def run(self, move: Move) -> dict[str, Tensor]:
        """Solution and gradients, by name, where ``move`` puts the input.

        One instance is broken on purpose, so that the solvers' way round it is run too.
        """
        batch, num_scenarios = self.scenarios.shape[:2]
        y = self.scenarios.clone()
        y[-1, 0, 0] = torch.nan
        share = 1 + 0.5 * torch.linspace(-1, 1, num_scenarios, dtype=torch.float64)
        share = (share / share.sum()).expand(batch, -1)
        layer = DecisionLayer(self.program, max_failure_share=0.5, **self.options)
        scenarios, weights = move(y).requires_grad_(), move(share).requires_grad_()
        context = None if self.context is None else move(self.context)
        decision = layer(scenarios, weights, context=context)
        solution = layer.last_solution
        assert solution is not None
        torch.where(solution.solved.unsqueeze(1), decision, 0.0).pow(2).sum().backward()
        assert scenarios.grad is not None and weights.grad is not None
        parts = {part.name: getattr(solution, part.name) for part in fields(solution)}
        parts |= {"layer's decision": decision.detach()}
        parts |= {"in scenarios": scenarios.grad, "in weights": weights.grad}
        return {name: value for name, value in parts.items() if value is not None}


def _noise(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


_LOAD = 1 + torch.sin(torch.linspace(0, 4, 5, dtype=torch.float64)) + 0.3 * _noise(0, 3, 7, 5)
_RETURNS = 0.0005 + 0.02 * _noise(1, 3, 12, 4)
_MARGINS = torch.tensor([0.3, -0.3, 0.1, 2.0], dtype=torch.float64) + _noise(2, 3, 12, 4)
_DEMAND = 2.5 + _noise(3, 3, 9, 2)

_SLACK = PowerProgram(ramp=50.0, num_decisions=5)
_BINDING = PowerProgram(ramp=0.2, num_decisions=5)
_PORTFOLIO = MeanVariancePortfolio(4, risk_aversion=10.0)
_ALLOCATION = ProductAllocation(4)
_NEWSVENDOR = Newsvendor(num_decisions=2)

# The user's constants are moved by the program; those inside his functions are his own business.
_BALL = TorchProgram(
    4,
    4,
    smooth=lambda y, z: 0.5 * ((z - y) ** 2).sum(),
    matrix=torch.ones(1, 4, dtype=torch.float64),
    limit=torch.tensor([0.5], dtype=torch.float64),
    inequality=lambda x, z: z @ z - x,
    num_inequalities=1,
)
_HINGES = TorchProgram(
    5,
    5,
    smooth=lambda y, z: 0.5 * ((z - y) ** 2).sum(),
    hinges=[Hinge(50.0, lambda y, z: y - z), Hinge(0.5, lambda y, z: z - y)],
)
_RISK = conditional_value_at_risk(
    lambda y, z: -(y @ z),
    level=0.7,
    num_decisions=4,
    num_outcomes=4,
    lower=0.0,
    equality_matrix=torch.ones(1, 4, dtype=torch.float64),
    equality_value=torch.ones(1, dtype=torch.float64),
)

_SAA = {"curvature": "saa"}
_POINT = {"solver": "interior_point"}

CASES = {
    "power-slack-saa": Case(_SLACK, _LOAD, _SAA),
    "power-binding-saa": Case(_BINDING, _LOAD, _SAA),
    "power-equal-saa": Case(PowerProgram(ramp=0.0, num_decisions=5), _LOAD, _SAA),
    "power-slack-convolved": Case(_SLACK, _LOAD),
    "power-binding-convolved": Case(_BINDING, _LOAD),
    "power-binding-paper": Case(_BINDING, _LOAD, {"curvature": "paper"}),
    "power-binding-saa-interior": Case(_BINDING, _LOAD, _SAA | _POINT),
    "power-binding-convolved-interior": Case(_BINDING, _LOAD, _POINT),
    "portfolio": Case(_PORTFOLIO, _RETURNS),
    "portfolio-interior": Case(_PORTFOLIO, _RETURNS, _POINT),
    "allocation": Case(_ALLOCATION, _MARGINS),
    "allocation-stiff": Case(_ALLOCATION, 100 * _MARGINS),
    "allocation-interior": Case(_ALLOCATION, _MARGINS, _POINT),
    "newsvendor-saa": Case(_NEWSVENDOR, _DEMAND, _SAA),
    "newsvendor-convolved": Case(_NEWSVENDOR, _DEMAND),
    "newsvendor-saa-interior": Case(_NEWSVENDOR, _DEMAND, _SAA | _POINT),
    "retry": Case(_BINDING, _LOAD, {"on_failure": "retry"}),
    "torch-ball": Case(_BALL, _MARGINS, context=torch.tensor([[0.5], [1.0], [2.0]]).double()),
    "torch-hinges-saa": Case(_HINGES, _LOAD, _SAA),
    "torch-hinges-convolved": Case(_HINGES, _LOAD),
    "torch-risk-saa": Case(_RISK, _RETURNS, _SAA),
}


def fresh(name: str) -> Case:
    """A case of its own: programs remember what they found out about a device."""
    return copy.deepcopy(CASES[name])
