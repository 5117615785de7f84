"""The bistable cells of Vecoven et al. (2021)."""

import numpy as np

from tests.cells.equations.functions import State, Weights, logistic, recurrent


def brc(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """A unit sees itself alone."""
    x_a, x_c, x_h = np.split(x @ w["input_kernel"], 3, axis=-1)
    b_a, b_c = np.split(w["bias"], 2)
    w_a, w_c = np.split(w["diagonal_kernel"], 2)
    a, c = 1 + np.tanh(x_a + b_a + w_a * h), logistic(x_c + b_c + w_c * h)
    return (c * h + (1 - c) * np.tanh(x_h + a * h),)


def nbrc(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """A unit's two gates see all units."""
    x_a, x_c, x_h = np.split(x @ w["input_kernel"], 3, axis=-1)
    b_a, b_c = np.split(w["bias"], 2)
    r_a, r_c = recurrent(w, 2)
    a, c = 1 + np.tanh(x_a + b_a + h @ r_a), logistic(x_c + b_c + h @ r_c)
    return (c * h + (1 - c) * np.tanh(x_h + a * h),)


EQUATIONS = {"brc": brc, "nbrc": nbrc}
