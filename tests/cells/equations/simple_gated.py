"""Cells with one gate."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic, recurrent


def hard_logistic(a: np.ndarray) -> np.ndarray:
    return np.clip(a / 6 + 0.5, 0, 1)


def sgu(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Gao and Glowacka (2016)."""
    x_g, x_z = inputs(w, x, 2)
    r_g, r_z = recurrent(w, 2)
    z_g = np.tanh((x_g * h) @ r_g)
    z_out = np.log1p(np.exp(z_g * h))
    z = hard_logistic(x_z + h @ r_z)
    return ((1 - z) * h + z * z_out,)


def dsgu(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Gao and Glowacka (2016): one more product, then a logistic function."""
    x_g, x_z = inputs(w, x, 2)
    r_g, r_o, r_z = recurrent(w, 3)
    z_g = np.tanh((x_g * h) @ r_g)
    z_out = logistic((z_g * h) @ r_o)
    z = hard_logistic(x_z + h @ r_z)
    return ((1 - z) * h + z * z_out,)


def sgrn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Zu and Wei (2020): the gate's input is the candidate."""
    p = x @ w["input_kernel"] + w["bias"]
    f = logistic(p + h @ w["recurrent_kernel"])
    return (np.tanh((1 - f) * p + f * h),)


def lightru(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Ye et al. (2024)."""
    x_h, x_f = np.split(x @ w["input_kernel"], 2, axis=-1)
    f = logistic(x_f + w["bias"] + h @ w["recurrent_kernel"])
    return ((1 - f) * h + f * np.tanh(x_h),)


EQUATIONS = {"sgu": sgu, "dsgu": dsgu, "sgrn": sgrn, "lightru": lightru}
