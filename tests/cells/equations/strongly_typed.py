"""The strongly typed cells of Balduzzi and Ghifary (2016); the carry has the earlier x times V in its place."""

import numpy as np

from tests.cells.equations.functions import State, Weights, logistic


def trnn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    z_kernel, f_kernel = np.split(w["input_kernel"], 2, axis=-1)
    z, f = x @ z_kernel, x @ f_kernel + w["bias"]
    return (logistic(f) * h + (1 - logistic(f)) * z,)


def parts(w: Weights, x: np.ndarray, earlier: State) -> tuple[np.ndarray, np.ndarray, np.ndarray, State]:
    """z, f, o, and x V for the next step."""
    kernel, earlier_kernel = np.split(w["input_kernel"], 2, axis=-1)
    z, f, o = np.split(x @ kernel + w["bias"] + np.concatenate(earlier, axis=-1), 3, axis=-1)
    return z, logistic(f), np.tanh(o), tuple(np.split(x @ earlier_kernel, 3, axis=-1))


def tgru(w: Weights, x: np.ndarray, h: np.ndarray, *earlier: np.ndarray) -> State:
    z, f, o, later = parts(w, x, earlier)
    return (f * h + z * o, *later)


def tlstm(w: Weights, x: np.ndarray, _: np.ndarray, c: np.ndarray, *earlier: np.ndarray) -> State:
    z, f, o, later = parts(w, x, earlier)
    c = f * c + (1 - f) * z
    return (c * o, c, *later)


EQUATIONS = {"trnn": trnn, "tgru": tgru, "tlstm": tlstm}
