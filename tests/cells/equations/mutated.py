"""The three mutations of Jozefowicz et al. (2015), with h for their h_t and x projected where it has another width."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic, recurrent


def mut1(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    x_z, x_r = inputs(w, x, 2)
    r_r, r_h = recurrent(w, 2)
    z, r = logistic(x_z), logistic(x_r + h @ r_r)
    candidate = np.tanh((r * h) @ r_h + np.tanh(x @ w["shortcut_kernel"]) + w["recurrent_bias"])
    return (candidate * z + h * (1 - z),)


def mut2(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    x_z, x_h = inputs(w, x, 2)
    r_z, r_r, r_h = recurrent(w, 3)
    z, r = logistic(x_z + h @ r_z), logistic(x @ w["shortcut_kernel"] + h @ r_r + w["recurrent_bias"])
    return (np.tanh((r * h) @ r_h + x_h) * z + h * (1 - z),)


def mut3(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    x_z, x_r, x_h = inputs(w, x, 3)
    r_z, r_r, r_h = recurrent(w, 3)
    z, r = logistic(x_z + np.tanh(h) @ r_z), logistic(x_r + h @ r_r)
    return (np.tanh((r * h) @ r_h + x_h) * z + h * (1 - z),)


EQUATIONS = {"mut1": mut1, "mut2": mut2, "mut3": mut3}
