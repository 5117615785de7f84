"""FastRNN and FastGRNN."""

import numpy as np

from tests.cells.equations.functions import State, Weights, logistic


def fastrnn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Kusupati et al. (2018), with the logistic function of both numbers."""
    new = np.tanh(x @ w["input_kernel"] + h @ w["recurrent_kernel"] + w["bias"])
    return (logistic(w["alpha"]) * new + logistic(w["beta"]) * h,)


def fastgrnn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Kusupati et al. (2018), with the logistic function of ζ and ν."""
    b_z, b_h = np.split(w["bias"], 2)
    both = x @ w["input_kernel"] + h @ w["recurrent_kernel"]
    z = logistic(both + b_z)
    return ((logistic(w["gate_scale"]) * (1 - z) + logistic(w["gate_shift"])) * np.tanh(both + b_h) + z * h,)


EQUATIONS = {"fastrnn": fastrnn, "fastgrnn": fastgrnn}
