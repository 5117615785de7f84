"""The LSTM of Kim et al. (2017)."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic, recurrent


def residual_lstm(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> State:
    """The output gate weighs the projected cell and the way around it; x is projected where it has another width."""
    *kernels, projection = recurrent(w, 5)
    i, f, g, o = (z + h @ r for z, r in zip(inputs(w, x, 4), kernels, strict=True))
    p_i, p_f, p_o = w["peephole_kernel"]
    new_c = logistic(f + p_f * c) * c + logistic(i + p_i * c) * np.tanh(g)
    m = np.tanh(new_c) @ projection
    return logistic(o + p_o * new_c) * (m + x @ w["shortcut_kernel"]), new_c


EQUATIONS = {"residual_lstm": residual_lstm}
