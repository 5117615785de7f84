"""Variants of the LSTM that no library in test_peers.py has."""

import numpy as np

from tests.cells.equations.functions import State, Weights, logistic


def peephole_lstm(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> State:
    """Gers and Schmidhuber (2000): i and f look at the old c, o at the new one."""
    i, f, g, o = np.split(x @ w["input_kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4, axis=-1)
    p_i, p_f, p_o = w["peephole_kernel"]
    new_c = logistic(f + p_f * c) * c + logistic(i + p_i * c) * np.tanh(g)
    return logistic(o + p_o * new_c) * np.tanh(new_c), new_c


EQUATIONS = {"lstm_peepholes": peephole_lstm}
