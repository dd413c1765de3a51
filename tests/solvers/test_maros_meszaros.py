"""The small problems of Maros and Meszaros (Optim. Methods Softw. 11, 1999) as programs of one scenario.

``min x'Px/2 + q'x + r  s.t.  l <= Ax <= u``, files of the collection ``maros_meszaros_qpbenchmark``. They
run where DIFFUSION_DFL_DATA names a folder that has them.
"""

import os
import warnings
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.io import loadmat

from diffusion_dfl.programs import TorchProgram
from diffusion_dfl.solvers import Status, solve

FOLDER = Path(os.environ.get("DIFFUSION_DFL_DATA", "nowhere")) / "maros_meszaros"
NAMES = sorted(path.stem for path in FOLDER.glob("*.mat")) or ["none"]
#: Its P has an eigenvalue below 0 by more than rounding to float32 leaves.
CONCAVE = "VALUES"
INFINITE = 1e19

pytestmark = pytest.mark.skipif(
    NAMES == ["none"], reason="DIFFUSION_DFL_DATA names no folder with maros_meszaros/"
)


def _program(name: str) -> tuple[TorchProgram, dict[str, np.ndarray]]:
    raw = loadmat(FOLDER / f"{name}.mat")
    data = {
        "P": raw["P"].toarray() if hasattr(raw["P"], "toarray") else raw["P"],
        "A": raw["A"].toarray() if hasattr(raw["A"], "toarray") else raw["A"],
        **{key: np.asarray(raw[key], dtype=float).reshape(-1) for key in ("q", "l", "u")},
    }
    size = len(data["q"])
    low, high = data["l"], data["u"]
    low = np.where(low < -INFINITE, -np.inf, low)
    high = np.where(high > INFINITE, np.inf, high)
    data["l"], data["u"] = low, high
    # The rows of the bounds come last, an identity.
    rows = len(low) - size
    bounds = np.allclose(data["A"][rows:], np.eye(size))
    matrix = data["A"][:rows] if bounds else data["A"]
    lower, upper = (low[rows:], high[rows:]) if bounds else (None, None)
    low, high = (low[:rows], high[:rows]) if bounds else (low, high)
    equal = low == high
    above, below = ~equal & np.isfinite(high), ~equal & np.isfinite(low)
    square, linear = torch.as_tensor(data["P"]), torch.as_tensor(data["q"])
    parts = {}
    if (above | below).any():
        parts["matrix"] = np.r_[matrix[above], -matrix[below]]
        parts["limit"] = np.r_[high[above], -low[below]]
    if equal.any():
        parts["equality_matrix"], parts["equality_value"] = matrix[equal], low[equal]
    program = TorchProgram(
        size,
        1,
        smooth=lambda y, z: 0.5 * z @ (square @ z) + linear @ z,
        lower=lower,
        upper=upper,
        **parts,
    )
    return program, data


def _reference(data: dict[str, np.ndarray]) -> float:
    z = cp.Variable(len(data["q"]))
    square = cp.psd_wrap((data["P"] + data["P"].T) / 2)
    low, high = np.isfinite(data["l"]), np.isfinite(data["u"])
    limits = [data["A"][high] @ z <= data["u"][high], data["A"][low] @ z >= data["l"][low]]
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(z, square) + data["q"] @ z), limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Inaccurate beyond 1e-9, which is enough here.
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return float(problem.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_problem_of_the_collection_is_solved(name: str) -> None:
    program, data = _program(name)
    solution = solve(program, torch.zeros(1, 1, 1, dtype=torch.float64))
    if name == CONCAVE:
        assert np.linalg.eigvalsh(data["P"])[0] < -1e-6 * np.abs(data["P"]).max()
        assert solution.status.tolist() == [Status.NON_CONVEX]
        return
    assert bool(solution.solved.all()), solution.report()
    z = solution.decision[0].numpy()
    value = 0.5 * z @ data["P"] @ z + data["q"] @ z
    best = _reference(data)
    assert value - best <= 1e-6 * max(1.0, abs(best))
    outside = np.maximum(data["A"] @ z - data["u"], data["l"] - data["A"] @ z).max()
    assert outside <= 1e-7 * max(1.0, np.abs(z).max())
