"""The network of Mikolov et al. (2015)."""

import numpy as np

from tests.cells.equations.functions import State, Weights, logistic


def scrn(w: Weights, x: np.ndarray, both: np.ndarray) -> State:
    """The output has the fast units first, then the slow ones."""
    fast = w["recurrent_kernel"].shape[1]
    h, s = both[:, :fast], both[:, fast:]
    x_h, x_s = np.split(x @ w["input_kernel"] + w["bias"], [fast], axis=-1)
    own, from_slow = w["recurrent_kernel"][:fast], w["recurrent_kernel"][fast:]
    s = (1 - w["decay"]) * x_s + w["decay"] * s
    return (np.concatenate([logistic(x_h + h @ own + s @ from_slow), s], axis=-1),)


EQUATIONS = {"scrn": scrn}
