"""Cells whose units see nothing of each other's state."""

import numpy as np

from tests.cells.equations.functions import State, Weights, relu


def indrnn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Li et al. (2018), eq. 2."""
    return (relu(x @ w["input_kernel"] + w["diagonal_kernel"] * h + w["bias"]),)


EQUATIONS = {"indrnn": indrnn}
