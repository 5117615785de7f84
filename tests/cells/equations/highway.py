"""Recurrent highway networks."""

import numpy as np

from tests.cells.equations.functions import State, Weights, logistic


def highway(w: Weights, x: np.ndarray, s: np.ndarray) -> State:
    """Zilly et al. (2017) with c = 1 - t: as many layers as R has columns for."""
    width = s.shape[-1]
    for layer in range(w["recurrent_kernel"].shape[1] // (2 * width)):
        r_h, r_t = np.split(w["recurrent_kernel"][:, 2 * width * layer : 2 * width * (layer + 1)], 2, axis=1)
        if layer == 0:
            of_h, of_t = np.split(x @ w["input_kernel"] + w["bias"], 2, axis=-1)
        else:
            of_h, of_t = np.split(w["recurrent_bias"][2 * width * (layer - 1) : 2 * width * layer], 2)
        h, t = np.tanh(of_h + s @ r_h), logistic(of_t + s @ r_t)
        s = h * t + s * (1 - t)
    return (s,)


EQUATIONS = {"rhn": highway, "rhn_depth_1": highway}
