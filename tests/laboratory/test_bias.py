"""The bias laboratory: its truths, its statistics, and that it measures the estimators themselves."""

import json
import math
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from laboratory import bias, bias_closed_form, bias_diffusion, bias_report
from laboratory.bias_closed_form import CASES, NONE, Case, Rule

from diffusion_dfl.estimators import Batch, Score
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DiffusionPredictor, Sampling
from diffusion_dfl.programs import PowerProgram

CASE = Case("two hours", (0.0, 6.0))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("surprise", [0.0, 6.0])
def test_the_truth_is_the_central_difference_of_the_cost_of_the_closed_form(
    surprise: float,
) -> None:
    """mu and log sigma moved by hand: z solves (z - mu) + gamma_e = Gamma Phi((mu - z)/tau)."""
    case, count, step = Case("one", (surprise,)), 100, 1e-5
    program = case.program
    normal = torch.distributions.Normal(0.0, 1.0)

    def cost(mean: float, log_sigma: float) -> float:
        tau = math.exp(log_sigma) * math.sqrt(1 + (case.bandwidth_scale * count**-0.2) ** 2)
        low, high = -60.0, 60.0
        for _ in range(200):
            z = 0.5 * (low + high)
            tail = float(normal.cdf(torch.tensor((mean - z) / tau, dtype=torch.float64)))
            low, high = (
                (z, high) if (z - mean) + program.excess < program.hinge_slope * tail else (low, z)
            )
        decision = torch.tensor([[z]], dtype=torch.float64)
        return float(program.cost(case.outcome(1).double(), decision))

    start = math.log(case.sigma)
    found = [
        case.sigma * (cost(step, start) - cost(-step, start)) / (2 * step),
        (cost(0.0, start + step) - cost(0.0, start - step)) / (2 * step),
    ]
    assert case.truth(count)[0].tolist() == pytest.approx(found, rel=1e-5)


def test_the_forecast_is_the_gaussian_of_the_case() -> None:
    mean, log_variance = CASE.predictor(3).moments(torch.eye(3))
    torch.testing.assert_close(mean, torch.zeros(3, 2))
    torch.testing.assert_close(log_variance, torch.zeros(3, 2), atol=1e-5, rtol=0)


def test_draws_are_those_of_the_estimator() -> None:
    count, rule = 30, Rule(2.0, region=1.5)
    found, _ = bias_closed_form.gradients(CASE, count, (rule,), 5, seed=3)
    predictor = CASE.predictor(5)
    estimator = Score(count, fit_weight=0.0, weight_clip=2.0, trust_region=1.5)
    batch = Batch(torch.eye(5), CASE.outcome(5))
    layer = DecisionLayer(CASE.program, CASE.bandwidth_scale)
    loss = estimator(predictor, layer, batch, _generator(3)).value
    expected = bias_closed_form._by_hour(predictor, 5 * loss, 2)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-6)


def test_the_unbounded_score_and_the_pathwise_gradient_are_the_truth_at_many_scenarios() -> None:
    found, pathwise = bias_closed_form.gradients(CASE, 20_000, (NONE,), 24, seed=0)
    truth = CASE.truth(20_000)
    for draws in (found[0], pathwise):
        row = bias_closed_form.summary(draws, truth)
        for name in ("mu", "sigma"):
            assert row[name] == pytest.approx(1.0, abs=4 * row[f"{name}_se"] + 0.005)
            assert row[f"{name}_se"] < 0.02


@pytest.mark.parametrize("case", [CASES[0], CASES[1]])
def test_the_bias_of_a_fixed_clip_grows_with_m_and_that_of_a_growing_one_vanishes(
    case: Case,
) -> None:
    rules = (NONE, Rule(2.0), Rule(5.0), Rule(2.0, "fourth root"))
    lost: dict[int, list[float]] = {}
    for count in (50, 1600):
        rows = bias_closed_form.rows_of(case, count, rules, 300)
        lost[count] = [1 - row["sigma"] / rows[0]["sigma"] for row in rows[1:4]]
    assert lost[1600][0] > lost[50][0] > 0.4
    assert lost[1600][1] > lost[50][1] + 0.1
    assert lost[1600][2] < 0.01 < lost[50][2]


def test_a_trust_region_by_chi_square_leaves_out_at_most_one_own_scenario() -> None:
    for hours in (1, 24):
        for count in (50, 400):
            limit = bias_closed_form.chi_square_region(count, hours) * hours
            errors = torch.randn(2000, count, hours, generator=_generator()).square().sum(-1)
            assert float((errors > limit).double().sum(1).mean()) < 1.0


def test_quantile_rules_bound_the_largest_weights_by_the_next() -> None:
    weights = torch.tensor([[-9.0, 1.0, 2.0, 3.0, 3.0]])
    found = Rule(1.0, "quantile").clipped(weights)
    expected = torch.tensor([[-3.0, 1.0, 2.0, 3.0, 3.0]])
    torch.testing.assert_close(found, expected - expected.mean())
    torch.testing.assert_close(Rule(0.2, "quantile").clipped(weights), found)


# The diffusion


def _draws(mean: Tensor, noise: float, count: int, seed: int) -> Tensor:
    return mean + noise * torch.randn(count, len(mean), generator=_generator(seed))


def test_noise_turns_and_lengthens_neither_cosine_nor_length() -> None:
    """Draws 5 times as long as their mean: the plain cosine of means is .8 here."""
    truth = torch.zeros(400)
    truth[0] = 1.0
    found = torch.zeros(400)
    found[:2] = torch.tensor([0.4, 0.3])
    noisy = _draws(found, 0.125, 60, 1)
    row = bias_diffusion.compare(noisy, _draws(truth, 0.05, 60, 2))
    assert row["cosine"] == pytest.approx(0.8, abs=4 * row["cosine_se"])
    assert row["length"] == pytest.approx(0.5, abs=4 * row["length_se"])
    assert row["along"] == pytest.approx(0.4, abs=4 * row["along_se"])
    assert row["noise"] == pytest.approx(5.0, rel=0.3)
    assert max(row["cosine_se"], row["length_se"], row["along_se"]) < 0.12


def test_the_jackknife_is_the_spread_over_repetitions() -> None:
    mean = torch.ones(20)
    rows = [
        bias_diffusion.compare(_draws(mean, 1.0, 24, 2 * i), _draws(mean, 1.0, 24, 2 * i + 1))
        for i in range(150)
    ]
    found = torch.tensor([row["along"] for row in rows]).std()
    claimed = torch.tensor([row["along_se"] for row in rows]).mean()
    assert float(claimed) == pytest.approx(float(found), rel=0.25)


def _bench() -> bias_diffusion.Bench:
    torch.manual_seed(0)
    predictor = DiffusionPredictor(
        2, 24, 8, 1, num_diffusion_steps=20,
        sampling=Sampling(4, sampler="ancestral", variance="beta", final_noise=True),
    ).eval()  # fmt: skip
    batch = Batch(torch.randn(2, 2), torch.randn(2, 24))
    return bias_diffusion.Bench(predictor, batch, 12, 1.5)


@pytest.mark.parametrize(
    "setting", [bias_diffusion.SHIPPED, replace(bias_diffusion.PATH, clip=2.0, region=1.5)]
)
def test_settings_are_densities_and_weights_of_their_estimators(
    setting: bias_diffusion.Setting,
) -> None:
    bench = _bench()
    bench.predictor.elbo = bench.elbo(setting)
    estimator = setting.estimator_of(bench.scenarios)
    layer = DecisionLayer(PowerProgram(), 1.5)
    loss = estimator(bench.predictor, layer, bench.batch, _generator(4))
    generator = _generator(4)
    path = bench.predictor.sample_path(bench.batch.context, bench.scenarios, generator)
    _, weights = bias_diffusion.score_weights(layer, path.scenarios, bench.batch.outcome)
    density, clipped = setting.density(
        bench.predictor, bench.batch.context, path, weights / (bench.scenarios - 1), generator
    )
    assert float(density.value.detach()) == pytest.approx(float(loss.value.detach()), rel=1e-5)
    assert float(clipped) == float(loss.metrics["clipped_share"])
    assert float(density.outside) == float(loss.metrics["outside_share"])


@pytest.mark.slow
def test_every_setting_of_the_table_has_draws_and_seconds() -> None:
    bench = _bench()
    picked = [s for s in bias_diffusion.SETTINGS if s.count <= 4 and s.clip in (0.0, 2.0)]
    rows = bias_diffusion.rows_of(bench, tuple(picked), 3, 3)
    assert len(rows) == len(picked) + 1
    assert all(row["seconds"] > 0 for row in rows)
    assert all((row["clipped_share"] > 0) == (row["clip"] > 0) for row in rows[1:])


# The report


def test_a_shortfall_is_paired_and_the_worst_of_all_cases() -> None:
    def row(case: str, rule: str, size: int, mu: float, sigma: float) -> dict[str, object]:
        return {"case": case, "rule": rule, "M": size, "mu": mu, "sigma": sigma}

    rows = [
        row("a", "none", 50, 0.5, 0.8),
        row("a", "clip 2", 50, 0.4, 0.4),
        row("b", "none", 50, 1.0, 1.0),
        row("b", "clip 2", 50, 1.0, 0.9),
    ]
    assert bias_report.shortfalls(rows) == {"clip 2": {50: pytest.approx(0.5)}}


def test_a_bound_vanishes_only_if_nothing_is_left_and_it_did_not_grow() -> None:
    assert bias_report.vanishes({50: 0.2, 1600: 0.002})
    assert not bias_report.vanishes({50: 0.2, 1600: 0.05})
    assert not bias_report.vanishes({50: 0.0, 1600: 0.008})


@pytest.mark.slow
def test_the_command_writes_data_text_and_figures_of_the_closed_form(tmp_path: Path) -> None:
    arguments = Namespace(
        results=tmp_path, rows=10, sizes=[10, 20], draws=3, days=1, scenarios=5, parts=["closed"]
    )
    assert bias.run(arguments) == 0
    folder = tmp_path / "gradient_lab"
    record = json.loads((folder / "bias.json").read_text())
    assert len(record["closed"]) == len(CASES) * 2 * (len(bias_closed_form.RULES) + 1)
    text = (folder / "bias.md").read_text()
    assert "python scripts/gradient_lab.py bias" in text
    assert "| gone |" in text
    assert (folder / "bias.png").read_bytes().startswith(b"\x89PNG")
