"""Placeholder until the solver lands."""
from diffusion_dfl.solvers.solution import Solution


def solve_interior_point(program, scenarios, weights, bandwidth, context=None, start=None) -> Solution:
    raise TypeError
