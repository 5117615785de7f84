"""Cells of one gate for each direction in which information flows."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic, recurrent, relu


def ugrnn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Collins et al. (2017)."""
    x_c, x_g = inputs(w, x, 2)
    r_c, r_g = recurrent(w, 2)
    c, g = np.tanh(x_c + h @ r_c), logistic(x_g + h @ r_g)
    return (g * h + (1 - g) * c,)


def intersection_rnn(w: Weights, x: np.ndarray, y: np.ndarray, h: np.ndarray) -> State:
    """Collins et al. (2017): gates in time and in depth; x is projected where it has another width."""
    a_y, a_h, a_gy, a_gh = (z + h @ r for z, r in zip(inputs(w, x, 4), recurrent(w, 4), strict=True))
    y_in, h_in = relu(a_y), np.tanh(a_h)
    g_y, g_h = logistic(a_gy), logistic(a_gh)
    return g_y * (x @ w["shortcut_kernel"]) + (1 - g_y) * y_in, g_h * h + (1 - g_h) * h_in


EQUATIONS = {"ugrnn": ugrnn, "intersection_rnn": intersection_rnn}
