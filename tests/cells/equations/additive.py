"""Cells whose state is a weighted sum of inputs."""

import numpy as np

from tests.cells.equations.functions import State, Weights, logistic, recurrent


def ran(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> State:
    """Lee et al. (2017): the content is linear in x."""
    kernel, *kernels = np.split(w["input_kernel"], 3, axis=-1)
    content, (x_i, x_f) = x @ kernel, np.split(x @ np.concatenate(kernels, axis=-1) + w["bias"], 2, axis=-1)
    r_i, r_f = recurrent(w, 2)
    new_c = logistic(x_i + h @ r_i) * content + logistic(x_f + h @ r_f) * c
    return np.tanh(new_c), new_c


def atr(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Zhang et al. (2018): both gates from the same two products."""
    p, q = x @ w["input_kernel"] + w["bias"], h @ w["recurrent_kernel"]
    i, f = logistic(p + q), logistic(p - q)
    return (i * p + f * h,)


EQUATIONS = {"ran": ran, "atr": atr}
