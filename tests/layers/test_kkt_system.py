"""The KKT system of Eq. 5 and 9, whole and transposed, against the layer; and what it cannot be."""

import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import Instances, MeanVariancePortfolio, Program, TorchProgram
from diffusion_dfl.solvers import Solution, solve

D = {"dtype": torch.float64}


def _returns(num_assets: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.001 + 0.02 * torch.randn(1, 40, num_assets, generator=generator, **D)


def _ball() -> TorchProgram:
    """A quadratic cost in a ball: a constraint with curvature."""
    return TorchProgram(
        3,
        3,
        smooth=lambda y, z: 0.5 * ((z - y) ** 2).sum() + 0.1 * (y @ z) ** 2,
        inequality=lambda x, z: (z @ z - 0.25).reshape(1),
        num_inequalities=1,
        equality_matrix=torch.ones(1, 3, **D),
        equality_value=0.3,
    )


def _outcomes() -> Tensor:
    centre = torch.tensor([1.5, 0.5, -0.5], **D)
    return centre + 0.5 * torch.randn(1, 30, 3, generator=torch.Generator().manual_seed(5), **D)


CASES = {
    "portfolio": (MeanVariancePortfolio(5, risk_aversion=10.0), _returns()),
    "ball": (_ball(), _outcomes()),
}


def _matrix(program: Program, scenarios: Tensor, solution: Solution) -> Tensor:
    """The matrix of Eq. 5 and Lemma A.2, every inequality in it, binding or not."""
    z, duals, nu = solution.decision, solution.duals[0], solution.equality_duals
    hessian = program.hessian(Instances.of(scenarios), z)[0]
    limits = program.constraints(z)
    rows = [limits.matrix[0]]
    if limits.lower is not None:
        rows.append(-torch.eye(z.shape[1], **D))
    if limits.upper is not None:
        rows.append(torch.eye(z.shape[1], **D))
    if limits.smooth is not None:
        rows.append(limits.smooth.jacobian(z)[0])
        hessian = hessian + limits.smooth.hessian(z, solution.duals)[0]
    inequality, equality = torch.cat(rows), limits.equality_matrix[0]
    values = limits.inequality_values(z)[0]
    m, p = len(inequality), nu.shape[1]
    return torch.cat(
        [
            torch.cat([hessian, inequality.T, equality.T], dim=1),
            torch.cat([duals[:, None] * inequality, torch.diag(values), torch.zeros(m, p, **D)], 1),
            torch.cat([equality, torch.zeros(p, m + p, **D)], dim=1),
        ]
    )


@pytest.mark.parametrize("name", CASES)
def test_the_adjoint_is_the_first_block_of_the_transposed_kkt_system(name: str) -> None:
    program, scenarios = CASES[name]
    solution = solve(program, scenarios)
    assert bool((solution.duals > 1e-6).any())
    direction = torch.linspace(-1, 2, program.num_decisions, **D)
    matrix = _matrix(program, scenarios, solution)
    right = torch.cat([direction, torch.zeros(len(matrix) - len(direction), **D)])
    u = torch.linalg.solve(matrix.T, right)[: len(direction)]
    leaves = scenarios.clone().requires_grad_()
    weights = torch.full(scenarios.shape[:2], 1 / scenarios.shape[1], **D).requires_grad_()
    (DecisionLayer(program)(leaves, weights) * direction).sum().backward()
    assert leaves.grad is not None and weights.grad is not None
    # Eq. 9: w_m = -u' grad_z f(y_m, z*), with the minus.
    score = -(solution.subgradients[0] @ u)
    assert torch.allclose(weights.grad[0], score, rtol=1e-7, atol=1e-9)
    # Eq. 5: dL/dy_m = -omega_m f_zy' u.
    cross = program.cross_product(Instances.of(scenarios), solution.decision, u[None])
    assert torch.allclose(leaves.grad, -cross / scenarios.shape[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_the_transpose_matters_for_the_multipliers_and_not_for_the_adjoint(name: str) -> None:
    program, scenarios = CASES[name]
    matrix = _matrix(program, scenarios, solve(program, scenarios))
    size = program.num_decisions
    right = torch.zeros(len(matrix), **D)
    right[:size] = torch.linspace(-1, 2, size, **D)
    as_it_should, as_it_stands = (torch.linalg.solve(one, right) for one in (matrix.T, matrix))
    assert torch.allclose(as_it_should[:size], as_it_stands[:size], rtol=1e-7, atol=1e-9)
    assert not torch.allclose(as_it_should, as_it_stands, rtol=1e-2, atol=1e-6)


def test_the_curvature_of_a_constraint_belongs_to_the_hessian() -> None:
    program, scenarios = CASES["ball"]
    solution = solve(program, scenarios)
    smooth = program.constraints(solution.decision).smooth
    assert smooth is not None
    curved = smooth.hessian(solution.decision, solution.duals)
    (multiplier,) = solution.duals[0].tolist()
    assert multiplier > 1e-3
    assert torch.allclose(curved[0], 2 * multiplier * torch.eye(3, **D))


def test_the_multiplier_of_an_equality_may_be_negative() -> None:
    """The appendix asks nu >= 0 of it. A portfolio that pays has a negative price of the budget."""
    program = MeanVariancePortfolio(2, risk_aversion=1.0)
    gain, loss = (sign * torch.full((1, 3, 2), 0.5, **D) for sign in (1, -1))
    multipliers = [float(solve(program, y).equality_duals) for y in (gain, loss)]
    # Stationarity at y = (g, g): g'z = g, so g^2 - g + nu = 0.
    assert multipliers == pytest.approx([0.5 - 0.25, -0.5 - 0.25])


def test_an_equality_without_a_free_coordinate_is_counted_and_holds_nothing() -> None:
    """Of z0 = z1, both at their bounds, nothing is left; z2 is two thirds of the mean outcome."""
    program = TorchProgram(
        3,
        1,
        smooth=lambda y, z: z[0] + 2 * z[1] + 0.5 * (z[2] - y[0]) ** 2 + 0.25 * z[2] ** 2,
        lower=[0.0, 0.0, -10.0],
        equality_matrix=torch.tensor([[1.0, -1.0, 0.0]], **D),
        equality_value=0.0,
    )
    y = _returns(4).transpose(1, 2)[:, :, :1].clone().requires_grad_()
    layer = DecisionLayer(program, curvature="saa")
    z = layer(y)
    torch.testing.assert_close(z[0, 2], y.mean() / 1.5, rtol=1e-9, atol=1e-12)
    z[0, 2].backward()
    torch.testing.assert_close(y.grad, torch.full_like(y, 1 / (1.5 * y.numel())))
    assert layer.statistics.rank_deficient == 1
