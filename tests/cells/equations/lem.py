"""Long expressive memory."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic, recurrent


def lem(w: Weights, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> State:
    """Rusch et al. (2022), eq. 3."""
    of_dt, of_dt_bar, of_z, of_y = inputs(w, x, 4)
    w_1, w_2, w_z, w_y = recurrent(w, 4)
    dt, dt_bar = w["time_step"] * logistic(of_dt + y @ w_1), w["time_step"] * logistic(of_dt_bar + y @ w_2)
    z = (1 - dt) * z + dt * np.tanh(y @ w_z + of_z)
    return (1 - dt_bar) * y + dt_bar * np.tanh(z @ w_y + of_y), z


EQUATIONS = {"lem": lem}
