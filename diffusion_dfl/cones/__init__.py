"""Cone programs in batches, solved and differentiated: a solver for cvxpylayers, which no task of ours uses."""
