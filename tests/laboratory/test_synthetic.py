"""Figure 2's laboratory: its measure on gradients of known angle, its pairs, its files."""

import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def scripts() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield


def small_bench(dimension: int) -> Any:
    from laboratory.synthetic import Bench, Effort

    return Bench(dimension, Effort(train_rows=500, fit_steps=300, width=16, sampling_steps=5))


def test_equal_draws_agree_fully_and_opposite_ones_not_at_all() -> None:
    from laboratory.common import agreement

    draws = torch.randn(10, 30, generator=torch.Generator().manual_seed(0)) + 1.0
    same, opposite = agreement(draws, 3.0 * draws), agreement(draws, -draws)
    assert (same["one"], same["mean"]) == pytest.approx((1.0, 1.0))
    assert (opposite["one"], opposite["mean"]) == pytest.approx((-1.0, -1.0))
    assert same["one_sd"] == pytest.approx(0.0, abs=1e-7)
    assert same["zeros"] == 0.0


def test_noise_lowers_the_cosine_of_a_draw_as_its_length_predicts_and_that_of_the_mean_less() -> (
    None
):
    from laboratory.common import agreement

    generator = torch.Generator().manual_seed(1)
    size, count, level = 2000, 64, 3.0
    direction = torch.nn.functional.normalize(torch.randn(size, generator=generator), dim=0)
    noise = torch.randn(count, size, generator=generator) * level / math.sqrt(size)
    found = agreement(direction + noise, direction.expand(count, size))
    assert found["one"] == pytest.approx(1 / math.sqrt(1 + level**2), abs=0.01)
    assert found["mean"] == pytest.approx(1 / math.sqrt(1 + level**2 / count), abs=0.01)


def test_the_jackknife_gives_the_spread_of_the_cosine_of_means() -> None:
    from laboratory.common import agreement

    generator = torch.Generator().manual_seed(2)
    direction = torch.ones(20)
    other = (torch.arange(20) < 10).float().expand(64, 20)
    repeats = [
        agreement(direction + 2.0 * torch.randn(64, 20, generator=generator), other)
        for _ in range(200)
    ]
    observed = torch.tensor([repeat["mean"] for repeat in repeats]).std()
    claimed = torch.tensor([repeat["mean_sd"] for repeat in repeats]).mean()
    assert float(claimed) == pytest.approx(float(observed), rel=0.25)


def test_a_gradient_of_exactly_0_has_no_angle_and_is_counted_apart() -> None:
    from laboratory.common import agreement

    draws = torch.eye(4)
    draws[0] = 0.0
    found = agreement(draws, draws)
    assert found["zeros"] == 0.25
    assert found["one"] == pytest.approx(1.0)
    nothing = agreement(torch.zeros(3, 5), torch.ones(3, 5))
    assert nothing["zeros"] == 1.0
    assert math.isnan(nothing["one"])


def test_a_pair_of_draws_shares_its_scenarios() -> None:
    bench = small_bench(3)
    context = bench.contexts[:1]

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    plain = bench.predictor.sample(context, 20, seeded())
    pathwise = bench.predictor.sample(context, 20, seeded(), differentiable=True)
    path = bench.predictor.sample_path(context, 20, seeded()).scenarios
    torch.testing.assert_close(plain, pathwise.detach())
    torch.testing.assert_close(plain, path)


def test_the_path_score_is_the_gradient_that_reparam_finds_at_large_m() -> None:
    from laboratory.common import agreement

    from diffusion_dfl.estimators import Reparam, ScorePath

    bench = small_bench(2)
    seeds = range(12)
    true = bench.gradients(Reparam(4000), seeds)
    found = agreement(bench.gradients(ScorePath(4000), seeds), true)
    assert found["mean"] > 0.95


def test_more_scenarios_bring_the_path_score_nearer_to_reparam() -> None:
    from laboratory.common import agreement

    from diffusion_dfl.estimators import Reparam, ScorePath

    bench = small_bench(2)
    cosines = []
    for scenarios in (5, 500):
        seeds = range(12)
        true = bench.gradients(Reparam(scenarios), seeds)
        cosines.append(agreement(bench.gradients(ScorePath(scenarios), seeds), true)["one"])
    assert cosines[1] > cosines[0] + 0.2


@pytest.mark.slow
def test_the_command_writes_every_cell_as_data_text_and_figures(tmp_path: Path) -> None:
    from laboratory import synthetic

    assert synthetic.run(Namespace(quick=True, results=tmp_path)) == 0
    folder = tmp_path / "gradient_lab" / "quick"
    record = json.loads((folder / "synthetic.json").read_text())
    quick = synthetic.QUICK
    cells = {(row["epoch"], row["M"], row["k"]) for row in record["epochs"]}
    counts = [scenarios for scenarios, _ in quick.followed_draws]
    assert cells == {
        (epoch, m, k)
        for epoch in range(quick.epochs)
        for m in counts
        for k in (*quick.timesteps, None)
    }
    swept = {(row["d"], row["M"], row["estimator"]) for row in record["dimensions"]}
    assert len(swept) == len(quick.dimensions) * len(quick.draws) * 3
    compared = [*synthetic.SURROGATES, "score_path"]
    assert [(row["fit_steps"], row["surrogate"]) for row in record["surrogates"]] == [
        (steps, name) for steps in (quick.fit_steps, quick.rough_fit_steps) for name in compared
    ]
    assert all(1.0 <= row["effective"] <= row["M"] for row in record["dimensions"])
    for row in (*record["epochs"], *record["dimensions"], *record["surrogates"]):
        for name in ("one", "mean"):
            assert row[name] is None or -1.0 <= row[name] <= 1.0 + 1e-6
    text = (folder / "synthetic.md").read_text()
    assert "python scripts/gradient_lab.py synthetic --quick" in text
    assert "±" in text
    for kind, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        assert (folder / f"synthetic.{kind}").read_bytes().startswith(magic)


@pytest.mark.parametrize("name", ["variance", "power", "linear", "bias"])
def test_a_committed_record_still_draws_its_figure(name: str) -> None:
    from laboratory import bias_report, linear_report, power, variance

    module = {
        "variance": variance,
        "power": power,
        "linear": linear_report,
        "bias": bias_report,
    }[name]
    path = ROOT / "results" / "gradient_lab" / f"{name}.json"
    figure = module.figure(json.loads(path.read_text()))
    labelled = [axis for axis in figure.axes if axis.get_xlabel()]
    assert labelled
    assert figure.axes[0].get_ylabel() or len(figure.axes[0].get_yticklabels()) > 3
