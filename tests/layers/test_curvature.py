"""``curvature=paper`` is the printed formula, and no derivative; what each curvature refuses."""

import pytest
import torch
from torch import Tensor

from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.programs import MeanVariancePortfolio, Newsvendor, PowerProgram
from diffusion_dfl.solvers import solve


def _loads(seed: int, batch: int = 3, num_scenarios: int = 9, hours: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, num_scenarios, hours, dtype=torch.float64, generator=generator)
    return 1.5 + 0.4 * noise


def _printed_gradients(
    program: PowerProgram, scenarios: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Appendix A.10 for one instance: H = I, cross term -I, mask 1{y > z}, the full KKT matrix."""
    num_scenarios, size = scenarios.shape
    solution = solve(program, scenarios[None])
    z, duals = solution.decision[0], solution.duals[0]
    matrix, limit = program.inequalities(z)
    top = torch.cat([torch.eye(size, dtype=z.dtype), matrix.T], dim=1)
    bottom = torch.cat([duals[:, None] * matrix, torch.diag(matrix @ z - limit)], dim=1)
    system = torch.cat([top, bottom])
    right = torch.cat([direction, torch.zeros_like(duals)])
    adjoint = torch.linalg.solve(system.T, right)[:size]
    mask = (scenarios > z).to(z.dtype)
    gradients = z - scenarios + program.excess - (program.shortage + program.excess) * mask
    return adjoint.expand(num_scenarios, size) / num_scenarios, -(gradients @ adjoint)


@pytest.mark.parametrize("ramp", [50.0, 0.1])
def test_paper_is_the_printed_formula_of_the_power_task(ramp: float) -> None:
    program = PowerProgram(ramp=ramp, num_decisions=5)
    scenarios = _loads(0).requires_grad_()
    weights = torch.full((3, 9), 1 / 9, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(3, 5, dtype=torch.float64)
    decision = DecisionLayer(program, curvature="paper")(scenarios, weights)
    assert torch.equal(decision, solve(program, scenarios.detach()).decision)
    (direction * decision).sum().backward()
    for row in range(3):
        pathwise, score = _printed_gradients(program, scenarios.detach()[row], direction[row])
        assert scenarios.grad is not None and weights.grad is not None
        assert torch.allclose(scenarios.grad[row], pathwise, rtol=1e-8, atol=1e-10)
        assert torch.allclose(weights.grad[row], score, rtol=1e-8, atol=1e-8)


def test_paper_differentiates_no_map() -> None:
    """Each hour sits on one scenario, which moves it alone; the printed formula moves all alike."""
    program = PowerProgram(ramp=50.0, num_decisions=5)
    gradients = []
    for curvature in ("saa", "paper"):
        scenarios = _loads(1).requires_grad_()
        layer = DecisionLayer(program, curvature=curvature)  # type: ignore[arg-type]
        layer(scenarios).sum().backward()
        assert scenarios.grad is not None
        gradients.append(scenarios.grad)
    assert int((gradients[0] > 0.5).sum()) == 3 * 5
    assert torch.allclose(gradients[1], torch.full_like(gradients[1], 1 / 9))


def test_paper_leaves_the_kink_out_of_the_newsvendor_s_curvature() -> None:
    program = Newsvendor()
    scenarios = (2.5 + torch.randn(2, 30, 1, dtype=torch.float64)).requires_grad_()
    decision = DecisionLayer(program, curvature="paper")(scenarios)
    decision.sum().backward()
    z, y = decision.detach().unsqueeze(1), scenarios.detach()
    slope = 2 * torch.where(y > z, program.rb * (y - z), program.rh * (z - y))
    expected = slope / 30 / (program.q0 + slope.mean(1, keepdim=True))
    assert scenarios.grad is not None
    assert torch.allclose(scenarios.grad, expected, rtol=1e-9, atol=1e-12)


def test_smooth_programs_are_the_same_in_all_curvatures() -> None:
    program = MeanVariancePortfolio(4)
    results = []
    for curvature in ("convolved", "saa", "paper"):
        scenarios = (
            0.02 * torch.sin(torch.arange(60.0).double() ** 2).view(1, 15, 4)
        ).requires_grad_()
        decision = DecisionLayer(program, curvature=curvature)(scenarios)  # type: ignore[arg-type]
        decision.square().sum().backward()
        results.append((decision.detach(), scenarios.grad))
    for decision, gradient in results[1:]:
        assert torch.equal(decision, results[0][0]) and torch.equal(gradient, results[0][1])


@pytest.mark.parametrize(
    "options, mend",
    [
        ({"curvature": "exact"}, "convolved, saa, paper"),
        ({"solver": "gurobi"}, "interior_point"),
        ({"on_failure": "ignore"}, "retry, reference, drop, raise"),
        ({"solver": "cvxpy"}, "curvature='saa'"),
        ({"solver": "cvxpylayers"}, "curvature='saa'"),
        ({"on_failure": "reference"}, "on_failure='retry'"),
        ({"solver": "cvxpylayers", "curvature": "paper"}, "solver='auto'"),
        ({"bandwidth_scale": -1.0}, "number >= 0"),
        ({"max_failure_share": 2.0}, r"\[0, 1\]"),
    ],
)
def test_options_that_cannot_work_are_refused_with_the_mend(
    options: dict[str, object], mend: str
) -> None:
    with pytest.raises(ValueError, match=mend):
        DecisionLayer(PowerProgram(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("curvature", ["saa", "paper"])
def test_a_bandwidth_for_the_exact_program_is_refused(curvature: str) -> None:
    layer = DecisionLayer(PowerProgram(num_decisions=5), curvature=curvature)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes no bandwidth"):
        layer(_loads(0), bandwidth=torch.ones(3, 5))


def test_integer_scenarios_are_refused() -> None:
    with pytest.raises(TypeError, match=r"torch.int64; pass floating"):
        DecisionLayer(PowerProgram())(torch.zeros(1, 2, 24, dtype=torch.int64))
