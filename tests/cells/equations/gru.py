"""Variants of the GRU that no library in test_peers.py has."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic, recurrent


def reset_before_gru(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Cho et al. (2014), eqs. 5 to 8, z weighing the old state: r multiplies h before its product."""
    x_r, x_z, x_n = inputs(w, x, 3)
    r_kernel, z_kernel, n_kernel = recurrent(w, 3)
    r, z = logistic(x_r + h @ r_kernel), logistic(x_z + h @ z_kernel)
    return ((1 - z) * np.tanh(x_n + (r * h) @ n_kernel) + z * h,)


EQUATIONS = {"gru_reset_before": reset_before_gru}
