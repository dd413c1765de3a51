"""Batches of instances: what they are made of by default, which are valid, and what stands in for the others."""

import math

import torch
from torch import Tensor

from diffusion_dfl.programs import Instances


def drawn() -> Instances:
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    return Instances.of(uniform(6, 3, 2), None, uniform(6, 2), uniform(6, 4))


def test_without_more_than_scenarios_weights_are_uniform_and_kinks_exact() -> None:
    instances = Instances.of([[[1.0, 2.0], [3.0, 4.0]]])
    assert instances.weights.tolist() == [[0.5, 0.5]] and instances.bandwidth.tolist() == [[0, 0]]
    assert instances.context is None and len(instances) == 1


def test_an_instance_with_any_bad_number_is_not_valid_and_is_stood_in_for() -> None:
    instances = drawn()
    instances.scenarios[1, 0, 0], instances.weights[2, 0] = math.nan, -0.1
    instances.bandwidth[3, 1], instances.bandwidth[4, 0] = math.inf, -1.0
    assert instances.context is not None
    instances.context[5, 2] = math.nan
    valid = instances.valid
    assert valid.tolist() == [True, False, False, False, False, False]
    stood = instances.stand_in(valid)
    assert bool(stood.valid.all())
    for found, given in zip(stood.parts, instances.parts, strict=True):
        assert found is not None and given is not None and torch.equal(found[0], given[0])


def test_chosen_instances_keep_all_their_parts() -> None:
    instances = drawn()
    for chosen, given in zip(
        instances.select(torch.tensor([4, 1])).parts, instances.parts, strict=True
    ):
        assert chosen is not None and given is not None and torch.equal(chosen, given[[4, 1]])


def test_widths_below_rounding_become_zero_and_bad_ones_stay_for_the_solver_to_refuse() -> None:
    scenarios = torch.tensor([[[100.0, 1.0]]], dtype=torch.float64).expand(1, 4, 2)
    narrow = Instances.of(scenarios, None, [[0.9e-8, 1.1e-8]]).resolvable()
    assert narrow.bandwidth.tolist() == [[0.0, 1.1e-8]]
    kept = Instances.of(scenarios, None, [[math.nan, -1e-20]]).resolvable().bandwidth
    assert math.isnan(kept[0, 0]) and kept[0, 1] == -1e-20
