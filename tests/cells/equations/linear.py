"""Cells that are linear in their state, and the simple recurrent unit."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic


def min_gru(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Feng et al. (2024), section 3.1."""
    z, candidate = inputs(w, x, 2)
    z = logistic(z)
    return ((1 - z) * h + z * candidate,)


def min_lstm(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Feng et al. (2024), section 3.2: the gates are divided by their sum."""
    f, i, candidate = inputs(w, x, 3)
    f, i = logistic(f), logistic(i)
    return (f / (f + i) * h + i / (f + i) * candidate,)


def positive(a: np.ndarray) -> np.ndarray:
    """Feng et al. (2024), appendix B: g."""
    return np.where(a >= 0, a + 0.5, logistic(a))


def positive_min_gru(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    z, candidate = inputs(w, x, 2)
    return ((1 - logistic(z)) * h + logistic(z) * positive(candidate),)


def positive_min_lstm(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    f, i, candidate = inputs(w, x, 3)
    f, i = logistic(f), logistic(i)
    return ((f * h + i * positive(candidate)) / (f + i),)


def lru(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Orvieto et al. (2023), section 3, in complex numbers."""
    eigenvalue = np.exp(-np.exp(w["decay"]) + 1j * np.exp(w["angle"]))
    units = len(eigenvalue)
    drive = x @ (w["input_kernel"][:, :units] + 1j * w["input_kernel"][:, units:])
    drive = drive + w["bias"][:units] + 1j * w["bias"][units:]
    state = eigenvalue * (h[:, :units] + 1j * h[:, units:]) + np.exp(w["scale"]) * drive
    return (np.concatenate([state.real, state.imag], axis=1),)


def qrnn(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray, before: np.ndarray) -> State:
    """Bradbury et al. (2017), eqs. 1 and 4: a window of two inputs; `before`: what the last input's kernel makes."""
    n, f, o = np.split(x @ w["input_kernel"] + w["bias"] + before, 3, axis=-1)
    c = logistic(f) * c + (1 - logistic(f)) * np.tanh(n)
    return logistic(o) * c, c, x @ w["earlier_kernel"][0]


def sru(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> State:
    """Lei et al. (2018), eqs. 1 to 4, for inputs of another width than the state."""
    candidate, f, r = np.split(x @ w["input_kernel"], 3, axis=1)
    b_f, b_r = np.split(w["bias"], 2)
    v_f, v_r = w["peephole_kernel"]
    f, r = logistic(f + v_f * c + b_f), logistic(r + v_r * c + b_r)
    c = f * c + (1 - f) * candidate
    return r * c + (1 - r) * w["skip_scale"] * (x @ w["shortcut_kernel"]), c


EQUATIONS = {
    "mingru": min_gru,
    "mingru_positive": positive_min_gru,
    "minlstm": min_lstm,
    "minlstm_positive": positive_min_lstm,
    "lru": lru,
    "qrnn": qrnn,
    "sru": sru,
}
