"""The mathematics of each decision problem: cost, derivatives, constraints, kinks."""

from diffusion_dfl.programs.power import PowerProgram
from diffusion_dfl.programs.smoothing import bandwidth, hinge, hinge_density, hinge_slope

__all__ = ["PowerProgram", "bandwidth", "hinge", "hinge_density", "hinge_slope"]
