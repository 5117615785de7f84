"""The vanilla network's presets; the cell itself is in test_peers.py."""

import numpy as np

from tests.cells.equations.functions import State, Weights, relu


def irnn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Le et al. (2015), section 3: rectified linear units."""
    return (relu(x @ w["input_kernel"] + h @ w["recurrent_kernel"] + w["bias"]),)


EQUATIONS = {"irnn": irnn}
