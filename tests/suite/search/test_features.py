"""The study of the power task's features."""

import dataclasses
import math

import pytest

from diffusion_dfl.suite.search import features


def test_subsets_are_of_the_features_that_the_full_data_have_and_are_decided_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(features, "SETTINGS", dataclasses.replace(features.SETTINGS, epochs=1))
    rng = features.numpy_stream(0, "split")
    data = features.power_dataset("simulated", rng, features="full", num_days=200)
    subsets = features._subsets(data)
    assert subsets["all"].shape == (len(data.outcomes), 53)
    assert [contexts.shape[1] for contexts in subsets.values()] == [53, 30, 39, 31, 40, 36, 45, 35]
    found = features._cost(data, subsets["all"], data.train, data.validation, 0)
    assert found > 0 and math.isfinite(found)
