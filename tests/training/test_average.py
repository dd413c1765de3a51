"""The mean of weights is torch's, and only what is trained moves."""

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from diffusion_dfl.predictors import GaussianPredictor
from diffusion_dfl.training.average import WeightAverage


def predictor() -> GaussianPredictor:
    torch.manual_seed(0)
    made = GaussianPredictor(3, 2, width=8, outcome_scaling="residual")
    for parameter in made.base.parameters():  # type: ignore[union-attr]
        parameter.requires_grad_(False)
    return made


def test_it_is_that_of_torch_and_goes_on_where_it_was() -> None:
    made = predictor()
    reference = AveragedModel(made, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average = WeightAverage(made, 0.9)
    for seed in range(5):
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * seed + 1.0)
            made.outcomes.mean.add_(1.0)
        reference.update_parameters(made)
        average.update()
        if seed == 2:  # As a checkpoint would.
            state = average.state()
            average = WeightAverage(made, 0.9)
            average.restore(state)
        found, expected = average.module.state_dict(), reference.module.state_dict()
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    assert average.state().keys() == reference.state_dict().keys()
