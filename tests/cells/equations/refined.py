"""LSTM and GRU with refine gates."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic, recurrent


def refined(f: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Gu et al. (2020)."""
    return r * (1 - (1 - f) ** 2) + (1 - r) * f**2


def ur_lstm(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> State:
    """Gu et al. (2020)."""
    f, r, u, o = [a + h @ kernel for a, kernel in zip(inputs(w, x, 4), recurrent(w, 4), strict=True)]
    g = refined(logistic(f), logistic(r))
    c = g * c + (1 - g) * np.tanh(u)
    return logistic(o) * np.tanh(c), c


def ur_gru(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """The GRU of PyTorch's documentation with a refined update gate."""
    x_r, x_z, x_n, x_f = inputs(w, x, 4)
    h_r, h_z, h_n, h_f = [h @ kernel for kernel in recurrent(w, 4)]
    n = np.tanh(x_n + logistic(x_r + h_r) * (h_n + w["recurrent_bias"]))
    g = refined(logistic(x_z + h_z), logistic(x_f + h_f))
    return ((1 - g) * n + g * h,)


EQUATIONS = {"ur_lstm": ur_lstm, "ur_gru": ur_gru}
