"""LSTMs whose input and state multiply each other."""

import numpy as np

from tests.cells.equations.functions import State, Weights, logistic


def lstm(gates: np.ndarray, c: np.ndarray) -> State:
    i, f, g, o = np.split(gates, 4, axis=-1)
    c = logistic(f) * c + logistic(i) * np.tanh(g)
    return logistic(o) * np.tanh(c), c


def multiplicative(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> State:
    """Krause et al. (2017)."""
    ends = 4 * h.shape[-1]
    of_gates, of_m = w["input_kernel"][:, :ends], w["input_kernel"][:, ends:]
    m = (x @ of_m) * (h @ w["recurrent_kernel"][:, ends:])
    return lstm(x @ of_gates + m @ w["recurrent_kernel"][:, :ends] + w["bias"], c)


def mogrifier(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> State:
    """Melis et al. (2020), eqs. 1 and 2, in five rounds, before an LSTM."""
    state, inputs = list(w["state_mogrifier_kernel"]), list(w["input_mogrifier_kernel"])
    if "state_mogrifier_out_kernel" in w:  # Of low rank.
        state = [a @ b for a, b in zip(state, w["state_mogrifier_out_kernel"], strict=True)]
        inputs = [a @ b for a, b in zip(inputs, w["input_mogrifier_out_kernel"], strict=True)]
    for turn in range(1, len(state) + len(inputs) + 1):
        if turn % 2:
            x = 2 * logistic(h @ state[turn // 2]) * x
        else:
            h = 2 * logistic(x @ inputs[turn // 2 - 1]) * h
    return lstm(x @ w["input_kernel"] + h @ w["recurrent_kernel"] + w["bias"], c)


EQUATIONS = {"mlstm": multiplicative, "mogrifier": mogrifier, "mogrifier_low_rank": mogrifier}
