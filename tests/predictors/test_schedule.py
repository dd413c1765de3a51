"""Noise schedules and the timesteps of shorter samplers: golden numbers."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_dfl.predictors.diffusion import NoiseSchedule, sampling_timesteps
from diffusion_dfl.predictors.diffusion.schedule import ScheduleName, Spacing


def test_linear_schedule_of_ho_et_al() -> None:
    curve = NoiseSchedule("linear", 1000).alpha_bar.double()
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    expected = (1 - beta).cumprod(0)
    assert curve[0] == 1 and len(curve) == 1001
    torch.testing.assert_close(curve[1:], expected, rtol=1e-12, atol=0)
    assert curve.dtype == torch.float64
    assert float(curve[1]) == pytest.approx(0.9999, rel=1e-14)
    assert float(curve[500]) == pytest.approx(0.07858724288177824, rel=1e-12)
    assert float(curve[1000]) == pytest.approx(4.035829765375676e-05, rel=1e-12)


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
    torch.testing.assert_close(curve[:-1], (function / function[0])[:-1], rtol=1e-11, atol=1e-14)
    # beta is capped at 0.999 in the last step, where the curve would reach 0.
    assert float(curve[-1] / curve[-2]) == pytest.approx(1e-3, rel=1e-9)


def test_cosine_golden_numbers() -> None:
    curve = NoiseSchedule("cosine", 1000).alpha_bar
    assert float(curve[1]) == pytest.approx(0.999958715775178, rel=1e-13)
    assert float(curve[500]) == pytest.approx(0.49384359044063775, rel=1e-11)
    assert float(curve[1000]) == pytest.approx(2.428766907034851e-09, rel=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_signal_and_noise_share_the_variance(name: str) -> None:
    schedule = NoiseSchedule(name, 40)  # type: ignore[arg-type]
    steps = torch.arange(41)
    signal, noise = schedule.signal(steps), schedule.noise(steps)
    torch.testing.assert_close(signal**2 + noise**2, torch.ones(41))
    assert signal.dtype == noise.dtype == torch.float32
    torch.testing.assert_close(signal**2, schedule.alpha_bar.float())
    assert schedule.curve == tuple(schedule.alpha_bar.tolist())


def test_the_noise_of_the_first_step_keeps_its_digits_in_single_precision() -> None:
    """1 - abar_1 = 1e-4 taken after rounding to float32 would be off by 1e-4 of itself."""
    schedule = NoiseSchedule("linear", 1000)
    assert float(schedule.noise(torch.tensor(1))) == pytest.approx(0.01, rel=2e-7)


def test_unknown_or_empty_schedules_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"schedule='sigmoid' is unknown.*cosine.*linear"):
        NoiseSchedule("sigmoid", 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_steps=0"):
        NoiseSchedule("linear", 0)


@pytest.mark.parametrize(
    ("total", "count", "spacing", "expected"),
    [
        (1000, 10, "uniform", [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]),
        (300, 7, "uniform", [43, 86, 129, 171, 214, 257, 300]),
        (1000, 10, "quadratic", [10, 40, 90, 160, 250, 360, 490, 640, 810, 1000]),
        (1000, 5, "quadratic", [40, 160, 360, 640, 1000]),
        (1000, 10, "log_snr", [1, 6, 23, 74, 203, 411, 604, 758, 887, 1000]),
        (50, 7, "log_snr", [1, 4, 13, 25, 35, 43, 50]),
        (1000, 1, "uniform", [1000]),
        (1000, 1, "quadratic", [1000]),
        (1000, 1, "log_snr", [1000]),
        (1000, 2, "log_snr", [1, 1000]),
        (10, 4, "uniform", [2, 5, 8, 10]),
        (10, 5, "quadratic", [1, 2, 4, 6, 10]),
        (5, 5, "quadratic", [1, 2, 3, 4, 5]),
        (4, 4, "uniform", [1, 2, 3, 4]),
        (1, 1, "log_snr", [1]),
    ],
)
def test_timesteps(total: int, count: int, spacing: Spacing, expected: list[int]) -> None:
    assert sampling_timesteps(NoiseSchedule("linear", total), count, spacing) == expected


def test_log_snr_timesteps_of_the_cosine_schedule() -> None:
    """Its log-ratio falls steeply at both ends; there neighbours are moved apart."""
    schedule = NoiseSchedule("cosine", 1000)
    steps = sampling_timesteps(schedule, 10, "log_snr")
    assert steps == [1, 15, 106, 477, 873, 976, 995, 998, 999, 1000]


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("count", [3, 6])
def test_log_snr_timesteps_are_nearest_to_even_parts(name: ScheduleName, count: int) -> None:
    schedule = NoiseSchedule(name, 1000)
    bar = schedule.alpha_bar[1:]
    ratio = torch.log(bar / (1 - bar))
    for i, step in enumerate(sampling_timesteps(schedule, count, "log_snr")):
        wanted = ratio[0] + (ratio[-1] - ratio[0]) * i / (count - 1)
        assert float((ratio[step - 1] - wanted).abs()) == float((ratio - wanted).abs().amin())


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "log_snr"])
@pytest.mark.parametrize("name", ["linear", "cosine"])
@settings(max_examples=40, derandomize=True, deadline=None)
@given(data=st.data())
def test_timesteps_rise_to_the_last_step_for_every_count(
    name: ScheduleName, spacing: Spacing, data: st.DataObject
) -> None:
    total = data.draw(st.integers(1, 400))
    schedule = NoiseSchedule(name, total)
    count = data.draw(st.integers(1, total))
    steps = sampling_timesteps(schedule, count, spacing)
    assert len(steps) == count
    assert steps[0] >= 1 and steps[-1] == total
    assert all(a < b for a, b in itertools.pairwise(steps))
    assert sampling_timesteps(schedule, total, spacing) == list(range(1, total + 1))


@pytest.mark.parametrize(("total", "count"), [(10, 11), (10, 0), (1, 2)])
def test_a_sampler_longer_than_its_schedule_is_refused(total: int, count: int) -> None:
    with pytest.raises(
        ValueError, match=rf"num_sampling_steps={count}.*num_diffusion_steps={total}"
    ):
        sampling_timesteps(NoiseSchedule("linear", total), count, "uniform")


def test_unknown_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"spacing='log' is unknown.*log_snr.*quadratic.*uniform"):
        sampling_timesteps(NoiseSchedule("linear", 10), 5, "log")  # type: ignore[arg-type]
