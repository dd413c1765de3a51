"""The paper's programs as a user would write them."""

from typing import Any

import torch

from diffusion_dfl.programs import (
    Hinge,
    MeanVariancePortfolio,
    Newsvendor,
    PowerProgram,
    TorchProgram,
)

D: dict[str, Any] = {"dtype": torch.float64}
SIZE = 4


def users_power(program: PowerProgram, ramp: bool = True) -> TorchProgram:
    matrix, limit = program.inequalities(torch.zeros(1, **D))
    return TorchProgram(
        program.num_decisions,
        program.num_outcomes,
        smooth=lambda y, z: 0.5 * ((z - y) ** 2).sum(),
        hinges=[
            Hinge(program.shortage, lambda y, z: y - z),
            Hinge(program.excess, lambda y, z: z - y),
        ],
        matrix=matrix if ramp else None,
        limit=limit if ramp else None,
    )


def users_newsvendor(program: Newsvendor) -> TorchProgram:
    return TorchProgram(
        program.num_decisions,
        program.num_outcomes,
        smooth=lambda y, z: (program.c0 * z + 0.5 * program.q0 * z**2).sum(),
        hinges=[
            Hinge(program.cb, lambda y, z: y - z),
            Hinge(program.rb / 3, lambda y, z: y - z, power=3),
            Hinge(program.ch, lambda y, z: z - y),
            Hinge(program.rh / 3, lambda y, z: z - y, power=3),
        ],
        lower=0.0,
        upper=program.z_max,
    )


def users_portfolio(program: MeanVariancePortfolio) -> TorchProgram:
    return TorchProgram(
        program.num_decisions,
        program.num_outcomes,
        smooth=lambda y, z: 0.5 * program.risk_aversion * (y @ z) ** 2 - y @ z,
        lower=0.0,
        equality_matrix=torch.ones(1, program.num_decisions, **D),
        equality_value=1.0,
    )


POWER = PowerProgram(shortage=5.0, excess=0.5, num_decisions=SIZE)
NEWSVENDOR = Newsvendor(num_decisions=SIZE)
PORTFOLIO = MeanVariancePortfolio(SIZE)
PAIRS = {
    "power": (POWER, users_power(POWER)),
    "newsvendor": (NEWSVENDOR, users_newsvendor(NEWSVENDOR)),
    "portfolio": (PORTFOLIO, users_portfolio(PORTFOLIO)),
}
