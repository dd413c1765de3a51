"""The mathematics of each decision problem: cost, derivatives, constraints, kinks."""

from diffusion_dfl.programs.constraints import Constraints, SmoothConstraints
from diffusion_dfl.programs.power import PowerProgram
from diffusion_dfl.programs.program import Hinges, Program
from diffusion_dfl.programs.smoothing import bandwidth, hinge, hinge_density, hinge_slope

__all__ = [
    "Constraints",
    "Hinges",
    "PowerProgram",
    "Program",
    "SmoothConstraints",
    "bandwidth",
    "hinge",
    "hinge_density",
    "hinge_slope",
]
