"""The user's own problem, stated by torch functions of one scenario."""

from diffusion_dfl.programs.general.hinge_terms import Hinge
from diffusion_dfl.programs.general.program import TorchProgram

__all__ = ["Hinge", "TorchProgram"]
