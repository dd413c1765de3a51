"""The mean-variance portfolio: the paper's cost and its derivatives."""

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_dfl.programs import Instances, MeanVariancePortfolio

PROGRAMS = [
    MeanVariancePortfolio(4),
    MeanVariancePortfolio(4, risk_aversion=2.0, ridge=0.3),
    MeanVariancePortfolio(4, risk_aversion=0.0),
    MeanVariancePortfolio(4, risk_aversion=0.0, ridge=1.0),
]


def _instance(seed: int = 0) -> tuple[Instances, Tensor]:
    """Scenarios (3, 5, 4), weights that do not sum to 1, a bandwidth to ignore, decisions."""
    generator = torch.Generator().manual_seed(seed)
    scenarios = 0.1 + torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)
    weights = torch.rand(3, 5, dtype=torch.float64, generator=generator)
    z = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    return Instances(scenarios, weights, torch.full_like(z, 0.7)), z


def _steps(z: Tensor) -> Tensor:
    return 1e-5 * torch.eye(z.shape[-1], dtype=z.dtype)


@pytest.mark.parametrize("program", PROGRAMS)
def test_cost_is_half_alpha_times_squared_return_minus_return(
    program: MeanVariancePortfolio,
) -> None:
    at, z = _instance()
    for row in range(3):
        y, holdings = at.scenarios[row, 0].tolist(), z[row].tolist()
        gain = sum(a * b for a, b in zip(y, holdings, strict=True))
        plain = 0.5 * program.risk_aversion * gain**2 - gain
        plain += 0.5 * program.ridge * sum(b * b for b in holdings)
        assert float(program.cost(at.scenarios[row, 0], z[row])) == pytest.approx(plain, rel=1e-13)


def test_the_paper_has_no_ridge_and_alpha_ten() -> None:
    assert MeanVariancePortfolio(50) == MeanVariancePortfolio(50, risk_aversion=10.0, ridge=0.0)


@pytest.mark.parametrize("program", PROGRAMS)
def test_objective_is_the_weighted_cost_whatever_the_bandwidth(
    program: MeanVariancePortfolio,
) -> None:
    at, z = _instance()
    plain = (at.weights * program.cost(at.scenarios, z.unsqueeze(1))).sum(1)
    assert torch.allclose(program.objective(at, z), plain, rtol=1e-13)
    assert not program.kinked


@pytest.mark.parametrize("program", PROGRAMS)
def test_gradients_are_central_differences_of_the_cost(program: MeanVariancePortfolio) -> None:
    at, z = _instance(1)
    gradients = program.gradients(at, z)
    for i, step in enumerate(_steps(z)):
        up = program.cost(at.scenarios, (z + step).unsqueeze(1))
        down = program.cost(at.scenarios, (z - step).unsqueeze(1))
        # Quadratic in z: central differences are exact but for rounding.
        assert torch.allclose(gradients[:, :, i], (up - down) / 2e-5, rtol=1e-9, atol=1e-9)
    mean = torch.einsum("bm,bmn->bn", at.weights, gradients)
    assert torch.allclose(program.gradient(at, z), mean, rtol=1e-12)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_hessian_is_the_central_difference_of_the_gradient(
    program: MeanVariancePortfolio,
) -> None:
    at, z = _instance(2)
    hessian = program.hessian(at, z)
    assert torch.equal(hessian, program.hessian(at, 3 * z))
    for i, step in enumerate(_steps(z)):
        up, down = program.gradient(at, z + step), program.gradient(at, z - step)
        assert torch.allclose(hessian[:, i], (up - down) / 2e-5, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_cross_product_is_the_derivative_of_the_slope_along_the_adjoint(
    program: MeanVariancePortfolio,
) -> None:
    at, z = _instance(3)
    adjoint = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    product = program.cross_product(at, z, adjoint)
    for j, step in enumerate(_steps(z)):
        up = program.gradients(replace(at, scenarios=at.scenarios + step), z)
        down = program.gradients(replace(at, scenarios=at.scenarios - step), z)
        slope = torch.einsum("bmn,bn->bm", (up - down) / 2e-5, adjoint)
        assert torch.allclose(product[:, :, j], slope, rtol=1e-9, atol=1e-9)


def test_the_printed_cross_derivative_of_the_appendix_is_a_misprint() -> None:
    # At alpha = 1, y = (1, 0), z = (0, 1): f_zy = [[0, 1], [0, 0]] - I; 2 alpha y'z - 1 = -1.
    program = MeanVariancePortfolio(2, risk_aversion=1.0)
    y = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    z = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    first = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    product = program.cross_product(Instances.of(y), z, first)
    assert product.flatten().tolist() == [-1.0, 1.0]


def test_the_feasible_set_is_the_simplex() -> None:
    constraints = MeanVariancePortfolio(3).constraints(torch.zeros(1, 1, dtype=torch.float64))
    assert constraints.counts == (0, 3, 0, 0)
    z = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.7, -0.2]], dtype=torch.float64)
    assert constraints.equality_residual(z).abs().max() <= 1e-15
    assert (constraints.inequality_values(z) <= 0).all(1).tolist() == [True, False]


def test_the_cvxpy_statement_is_the_objective_and_dpp_in_the_scenarios() -> None:
    program = MeanVariancePortfolio(4, risk_aversion=3.0, ridge=0.2)
    at, _ = _instance(4)
    parameter = cp.Parameter((5, 4))
    problem, z, constraints = program.cvxpy_problem(parameter, at.weights[0].numpy())
    assert problem.is_dcp(dpp=True)
    assert [limit.size for limit in constraints] == [4, 1]
    parameter.value = at.scenarios[0].numpy()
    z.value = np.full(4, 0.25)
    portfolio = torch.full((3, 4), 0.25, dtype=torch.float64)
    ours = program.objective(at, portfolio)[0]
    assert problem.objective.value == pytest.approx(float(ours), rel=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_decisions": 0},
        {"num_decisions": 2, "risk_aversion": -1.0},
        {"num_decisions": 2, "ridge": float("nan")},
        {"num_decisions": 2, "risk_aversion": float("inf")},
    ],
)
def test_a_parameter_without_meaning_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        MeanVariancePortfolio(**arguments)  # type: ignore[arg-type]
