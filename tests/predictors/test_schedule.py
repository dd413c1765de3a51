"""Noise schedules and the timesteps of shorter samplers: golden numbers."""

import itertools

import pytest
import torch

from diffusion_dfl.predictors.diffusion import NoiseSchedule, sampling_timesteps


def test_linear_schedule_of_ho_et_al() -> None:
    curve = NoiseSchedule("linear", 1000).alpha_bar.double()
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    expected = (1 - beta).cumprod(0)
    assert curve[0] == 1 and len(curve) == 1001
    torch.testing.assert_close(curve[1:], expected, rtol=1e-6, atol=0)
    assert float(curve[1]) == pytest.approx(1 - 1e-4, abs=1e-7)
    assert float(curve[1000]) == pytest.approx(4.0358e-5, rel=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 10, 50, 100, 300, 1000, 4000])
def test_the_last_linear_step_is_noise_for_any_length(steps: int) -> None:
    curve = NoiseSchedule("linear", steps).alpha_bar
    assert float(curve[-1]) == pytest.approx(4.0358e-5, rel=1e-4)
    assert bool((curve.diff() < 0).all())


@pytest.mark.parametrize("steps", [10, 50, 100, 500])
def test_a_shorter_linear_schedule_is_the_long_one_thinned(steps: int) -> None:
    thinned = NoiseSchedule("linear", 1000).alpha_bar[:: 1000 // steps]
    torch.testing.assert_close(NoiseSchedule("linear", steps).alpha_bar, thinned, rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", [10, 50, 100, 300, 1000])
def test_cosine_schedule_of_nichol_and_dhariwal(steps: int) -> None:
    curve = NoiseSchedule("cosine", steps).alpha_bar.double()
    place = torch.arange(steps + 1, dtype=torch.float64) / steps
    function = torch.cos((place + 0.008) / 1.008 * torch.pi / 2) ** 2
    assert bool((curve.diff() < 0).all())
    assert 0 < float(curve[-1]) < 1e-4
    torch.testing.assert_close(curve[:-1], (function / function[0])[:-1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_signal_and_noise_share_the_variance(name: str) -> None:
    schedule = NoiseSchedule(name, 40)  # type: ignore[arg-type]
    steps = torch.arange(41)
    signal, noise = schedule.signal(steps), schedule.noise(steps)
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(41))
    torch.testing.assert_close(signal**2, schedule.alpha_bar)


def test_unknown_or_empty_schedules_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"schedule='sigmoid' is unknown.*cosine.*linear"):
        NoiseSchedule("sigmoid", 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_steps=0"):
        NoiseSchedule("linear", 0)


@pytest.mark.parametrize(
    ("total", "count", "spacing", "expected"),
    [
        (1000, 10, "uniform", [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]),
        (1000, 10, "quadratic", [10, 40, 90, 160, 250, 360, 490, 640, 810, 1000]),
        (1000, 1, "uniform", [1000]),
        (10, 4, "uniform", [2, 5, 8, 10]),
        (10, 5, "quadratic", [1, 2, 4, 6, 10]),
        (5, 5, "quadratic", [1, 2, 3, 4, 5]),
        (4, 4, "uniform", [1, 2, 3, 4]),
    ],
)
def test_timesteps(total: int, count: int, spacing: str, expected: list[int]) -> None:
    assert sampling_timesteps(total, count, spacing) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
@pytest.mark.parametrize("total", [7, 64, 300, 1000])
def test_timesteps_rise_to_the_last_step_for_every_count(total: int, spacing: str) -> None:
    for count in range(1, total + 1, max(1, total // 50)):
        steps = sampling_timesteps(total, count, spacing)  # type: ignore[arg-type]
        assert len(steps) == count
        assert steps[0] >= 1 and steps[-1] == total
        assert all(a < b for a, b in itertools.pairwise(steps))
    assert sampling_timesteps(total, total, spacing) == list(range(1, total + 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(("total", "count"), [(10, 11), (10, 0), (1, 2)])
def test_a_sampler_longer_than_its_schedule_is_refused(total: int, count: int) -> None:
    with pytest.raises(
        ValueError, match=rf"num_sampling_steps={count}.*num_diffusion_steps={total}"
    ):
        sampling_timesteps(total, count, "uniform")


def test_unknown_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match="spacing='log' is unknown"):
        sampling_timesteps(10, 5, "log")  # type: ignore[arg-type]
