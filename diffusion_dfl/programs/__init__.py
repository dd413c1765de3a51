"""The mathematics of each decision problem: cost, derivatives, constraints, kinks."""

from diffusion_dfl.programs.allocation import ProductAllocation
from diffusion_dfl.programs.constraints import Constraints, SmoothConstraints
from diffusion_dfl.programs.general import Hinge, TorchProgram
from diffusion_dfl.programs.instances import Instances
from diffusion_dfl.programs.newsvendor import Newsvendor
from diffusion_dfl.programs.portfolio import MeanVariancePortfolio
from diffusion_dfl.programs.power import PowerProgram
from diffusion_dfl.programs.program import Hinges, Program
from diffusion_dfl.programs.recourse import Recourse
from diffusion_dfl.programs.regularised import Regularised, Regulariser
from diffusion_dfl.programs.risk import conditional_value_at_risk
from diffusion_dfl.programs.smoothing import bandwidth, hinge, hinge_density, hinge_slope
from diffusion_dfl.programs.two_stage import TwoStageProgram

__all__ = [
    "Constraints",
    "Hinge",
    "Hinges",
    "Instances",
    "MeanVariancePortfolio",
    "Newsvendor",
    "PowerProgram",
    "ProductAllocation",
    "Program",
    "Recourse",
    "Regularised",
    "Regulariser",
    "SmoothConstraints",
    "TorchProgram",
    "TwoStageProgram",
    "bandwidth",
    "conditional_value_at_risk",
    "hinge",
    "hinge_density",
    "hinge_slope",
]
