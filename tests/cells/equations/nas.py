"""The cell of Zoph and Le (2017), fig. 8."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic, recurrent, relu


def nas(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> State:
    pairs = [(z, h @ r) for z, r in zip(inputs(w, x, 8), recurrent(w, 8), strict=True)]
    first = [logistic, relu, logistic, relu, np.tanh, logistic, np.tanh, logistic]
    leaves = [f(z * u if k == 3 else z + u) for k, (f, (z, u)) in enumerate(zip(first, pairs, strict=True))]
    a = np.tanh(np.tanh(leaves[0] * leaves[1]) + c)
    new_c = a * np.tanh(leaves[2] + leaves[3])
    b = np.tanh(np.tanh(leaves[4] * leaves[5]) + logistic(leaves[6] + leaves[7]))
    return np.tanh(new_c * b), new_c


EQUATIONS = {"nas": nas}
