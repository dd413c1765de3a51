"""Solves and their gradients stay on the device of their input, in float64.

First that the fake device catches what would be mistakes on CUDA; then every program on it.
"""
