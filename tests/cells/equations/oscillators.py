"""Networks of oscillators."""

import numpy as np

from tests.cells.equations.functions import State, Weights


def cornn(w: Weights, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> State:
    """Rusch and Mishra (2021a), eq. 3, y before z: R has the rows of y above those of z."""
    of_y, of_z = np.split(w["recurrent_kernel"], 2)
    force = np.tanh(y @ of_y + z @ of_z + x @ w["input_kernel"] + w["bias"])
    z = z + w["time_step"] * (force - w["frequency"] * y - w["damping"] * z)
    return y + w["time_step"] * z, z


def unicornn(w: Weights, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> State:
    """Rusch and Mishra (2021b), eq. 3."""
    pace = w["time_step"] * (0.5 + 0.5 * np.tanh(w["pace"] / 2))
    force = np.tanh(w["diagonal_kernel"] * y + x @ w["input_kernel"] + w["bias"])
    z = z - pace * (force + w["frequency"] * y)
    return y + pace * z, z


EQUATIONS = {"cornn": cornn, "unicornn": unicornn}
