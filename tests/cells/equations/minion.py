"""The minion recurrent units of Zyarah and Kudithipudi (2025)."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic, recurrent


def miru1(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    x_r, x_h = inputs(w, x, 2)
    r_r, r_h = recurrent(w, 2)
    candidate = np.tanh(x_h + (logistic(x_r + h @ r_r) * h) @ r_h)
    return (w["update"] * h + (1 - w["update"]) * candidate,)


def miru2(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    candidate = np.tanh(x @ w["input_kernel"] + (w["reset"] * h) @ w["recurrent_kernel"] + w["bias"])
    return (w["update"] * h + (1 - w["update"]) * candidate,)


EQUATIONS = {"miru1": miru1, "miru2": miru2}
