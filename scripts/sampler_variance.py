"""Variance that an S-step sampler leaves of Gaussian data with a perfect denoiser.

For data N(0, v) the perfect denoiser is linear, ``E[y_0 | y_t] = sqrt(abar) v / (abar v + 1 - abar) y_t``,
so the variance follows a scalar recursion of the sampler's coefficients. The table shows it relative
to v.
"""

import argparse
from dataclasses import replace

from diffusion_dfl.predictors.diffusion import NoiseSchedule, Sampler, Sampling

SAMPLERS = {
    "ddim eta=1": Sampling(),
    "ddim eta=0": Sampling(eta=0.0),
    "ancestral posterior": Sampling(sampler="ancestral"),
    "ancestral beta": Sampling(sampler="ancestral", variance="beta"),
}


def variance_left(sampler: Sampler, schedule: NoiseSchedule, variance: float) -> float:
    """Variance of the samples over the variance of the data."""
    current = 1.0
    steps = sampler.timesteps[::-1]
    for (a, b, c, _), step in zip(sampler.steps, steps, strict=True):
        bar = float(schedule.alpha_bar[step])
        gain = bar**0.5 * variance / (bar * variance + 1.0 - bar)
        current = (a * gain + b) ** 2 * current + c**2
    return current / variance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedule", default="linear", choices=("linear", "cosine"))
    parser.add_argument("--spacing", default="quadratic", choices=("uniform", "quadratic"))
    parser.add_argument("--diffusion-steps", type=int, default=1000)
    arguments = parser.parse_args()
    schedule = NoiseSchedule(arguments.schedule, arguments.diffusion_steps)
    print("| sampler | S | data variance 1 | data variance 0.05 |")
    print("|---|---|---|---|")
    for title, sampling in SAMPLERS.items():
        for count in (10, 20, 50, 100):
            few = replace(sampling, num_sampling_steps=count, spacing=arguments.spacing)
            sampler = Sampler(schedule, few)
            left = [variance_left(sampler, schedule, v) for v in (1.0, 0.05)]
            print(f"| {title} | {count} | {left[0]:.2f} | {left[1]:.2f} |")


if __name__ == "__main__":
    main()
