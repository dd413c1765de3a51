"""The score of the sampled path: what it is made of, what it refuses, and that reparam agrees."""

import math

import pytest
import torch
from torch import Tensor

from diffusion_dfl.estimators import Batch, Reparam, Score, ScorePath, score_weights
from diffusion_dfl.estimators.base import Estimator
from diffusion_dfl.layers import DecisionLayer
from diffusion_dfl.predictors import DiffusionPredictor, GaussianPredictor
from diffusion_dfl.programs import PowerProgram
from tests.configs import by_keys

HOURS = 2
PROGRAM = PowerProgram(num_decisions=HOURS, shortage=5.0, excess=0.5, ramp=100.0)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rows() -> tuple[Tensor, Tensor]:
    x = torch.randn(200, 2, generator=_generator(1))
    y = x @ torch.tensor([[1.0, 0.3], [0.0, 1.0]])
    return x, y + 0.5 * torch.randn(200, HOURS, generator=_generator(2))


def _batch(rows: int = 4) -> Batch:
    x, y = _rows()
    return Batch(x[:rows], y[:rows])


def _predictor(**knobs: object) -> DiffusionPredictor:
    torch.manual_seed(0)
    knobs = {
        "num_diffusion_steps": 50,
        "num_sampling_steps": 4,
        "sampler": "ancestral",
        "variance": "beta",
        "final_noise": True,
        **knobs,
    }
    predictor: DiffusionPredictor = by_keys(
        DiffusionPredictor, 2, HOURS, width=16, layers=1, **knobs
    )
    predictor.fit_scaling(*_rows())
    return predictor.eval()


def _gradient(
    estimator: Estimator,
    predictor: DiffusionPredictor,
    generator: torch.Generator,
    batch: Batch | None = None,
) -> Tensor:
    loss = estimator(predictor, DecisionLayer(PROGRAM, 1.06), batch or _batch(), generator)
    weights = [weight for weight in predictor.parameters() if weight.requires_grad]
    parts = torch.autograd.grad(loss.value, weights)
    return torch.cat([part.flatten() for part in parts]).double()


@pytest.mark.parametrize("fresh", [0, 12])
def test_the_surrogate_is_the_weighted_density_of_the_paths_it_drew(fresh: int) -> None:
    predictor, batch = _predictor(), _batch()
    estimator = ScorePath(30, fit_weight=0.0, num_gradient_scenarios=fresh)
    found = _gradient(estimator, predictor, _generator(3))
    generator = _generator(3)
    path = predictor.sample_path(batch.context, 30, generator)
    other = predictor.sample_path(batch.context, fresh, generator) if fresh else path
    _, weights = score_weights(
        DecisionLayer(PROGRAM, 1.06),
        path.scenarios,
        batch.outcome,
        other.scenarios if fresh else None,
    )
    weights = (weights - weights.mean(1, keepdim=True)) / (weights.shape[1] - 1)
    value = predictor.weighted_path_density(batch.context, other, weights).value
    parts = torch.autograd.grad(value, list(predictor.parameters()))
    expected = torch.cat([part.flatten() for part in parts]).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_scenarios_and_decisions_are_those_of_the_score_of_the_elbo() -> None:
    predictor, layer = _predictor(), DecisionLayer(PROGRAM, 1.06)
    one = ScorePath(30)(predictor, layer, _batch(), _generator(3)).metrics
    two = Score(30)(predictor, layer, _batch(), _generator(3)).metrics
    for name in ("decision_cost", "score_imbalance", "clipped_share"):
        assert float(one[name]) == float(two[name])


def test_the_trust_region_is_counted_and_stops_positive_weights_only() -> None:
    predictor, layer = _predictor(), DecisionLayer(PROGRAM, 1.06)
    loss = ScorePath(50, trust_region=1.0)(predictor, layer, _batch(), _generator())
    # About half of the weights are positive, and of these errors a third exceed their mean.
    assert 0.05 < float(loss.metrics["outside_share"]) < 0.5
    free = ScorePath(50)(predictor, layer, _batch(), _generator())
    assert float(free.metrics["outside_share"]) == 0.0
    assert float(free.value.detach()) != float(loss.value.detach())


@pytest.mark.parametrize(
    "knobs",
    [
        {"final_noise": False},
        {"sampler": "ddim", "eta": 0.0, "final_noise": False},
        {"sampler": "dpm_solver", "final_noise": False},
    ],
)
def test_a_sampler_with_a_step_without_noise_is_refused(knobs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"step without noise.*final_noise=true"):
        ScorePath(5)(_predictor(**knobs), DecisionLayer(PROGRAM), _batch(), _generator())


def test_a_predictor_that_is_no_diffusion_is_refused() -> None:
    predictor = GaussianPredictor(2, HOURS, 8, 1)
    with pytest.raises(TypeError, match="grad=score_path needs model=diffusion, not Gaussian"):
        ScorePath(5)(predictor, DecisionLayer(PROGRAM), _batch(), _generator())


@pytest.mark.parametrize("fresh", [0, 12])
def test_paths_are_drawn_and_judged_without_dropout_in_training_too(fresh: int) -> None:
    """A path drawn with some units has no unbiased score under others."""
    predictor = _predictor(dropout=0.5)
    estimator = ScorePath(30, fit_weight=0.0, num_gradient_scenarios=fresh)
    still = _gradient(estimator, predictor, _generator(3))
    predictor.train()
    assert torch.equal(_gradient(estimator, predictor, _generator(3)), still)
    assert predictor.denoiser.training


def test_the_predictors_own_loss_beside_the_paths_keeps_dropout() -> None:
    predictor, layer = _predictor(dropout=0.5).train(), DecisionLayer(PROGRAM, 1.06)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)  # of the masks
        masks.append(ScorePath(5)(predictor, layer, _batch(), _generator(3)).metrics)
    assert float(masks[0]["fit_loss"]) == float(masks[1]["fit_loss"])
    assert float(masks[0]["fit_loss"]) != float(masks[2]["fit_loss"])
    assert float(masks[0]["decision_cost"]) == float(masks[2]["decision_cost"])


@pytest.mark.parametrize("training", [False, True])
def test_the_denoisers_mode_is_restored_even_where_a_path_cannot_be_drawn(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, layer = _predictor(dropout=0.5).train(training), DecisionLayer(PROGRAM, 1.06)

    def broken(*arguments: object) -> None:
        assert not predictor.denoiser.training
        raise RuntimeError("no memory")

    monkeypatch.setattr(predictor, "sample_path", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        ScorePath(5)(predictor, layer, _batch(), _generator())
    assert predictor.denoiser.training is training


CASES = [
    {"prediction": "x0"},
    {"prediction": "epsilon", "clip": 2.0},
    {"prediction": "v", "outcome_scaling": "residual"},
    {"prediction": "x0", "sampler": "ddim", "eta": 0.7},
]


def _compare(
    knobs: dict[str, object], count: int, replicates: int, fresh: int = 0
) -> tuple[float, float, float]:
    """Cosine of the mean gradients; score over reparam along the latter, with standard error."""
    predictor, generator = _predictor(**knobs), _generator(5)
    path = ScorePath(count, fit_weight=0.0, num_gradient_scenarios=fresh)
    score = torch.stack([_gradient(path, predictor, generator) for _ in range(replicates)])
    exact = torch.stack(
        [_gradient(Reparam(count, fit_weight=0.0), predictor, generator) for _ in range(replicates)]
    ).mean(0)
    along = score @ exact / exact.dot(exact)
    cosine = torch.nn.functional.cosine_similarity(score.mean(0), exact, dim=0)
    return float(cosine), float(along.mean()), float(along.std()) / math.sqrt(replicates)


@pytest.mark.parametrize("knobs", CASES)
def test_score_path_and_reparam_agree_with_the_same_sampler(knobs: dict[str, object]) -> None:
    cosine, along, error = _compare(knobs, 2000, 6)
    assert cosine > 0.95
    assert abs(along - 1) < 4 * error + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [0, 20_000])
@pytest.mark.parametrize("knobs", CASES)
def test_score_path_and_reparam_are_the_same_gradient_at_many_scenarios(
    knobs: dict[str, object], fresh: int
) -> None:
    cosine, along, error = _compare(knobs, 20_000, 10, fresh)
    assert cosine > 0.999
    assert abs(along - 1) < 4 * error < 0.04


def test_the_score_of_the_elbo_is_a_surrogate_that_points_the_same_way() -> None:
    """Far less exact than the path's: 0.97 here, where the path has 1.00."""
    predictor = _predictor(prediction="x0")
    elbo = _gradient(Score(3000, fit_weight=0.0), predictor, _generator(5))
    exact = _gradient(Reparam(3000, fit_weight=0.0), predictor, _generator(6))
    path = _gradient(ScorePath(3000, fit_weight=0.0), predictor, _generator(7))
    assert torch.nn.functional.cosine_similarity(elbo, exact, dim=0) > 0.9
    assert torch.nn.functional.cosine_similarity(path, exact, dim=0) > 0.999
