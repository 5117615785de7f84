"""Cells with memories of time: Legendre polynomials and clocks."""

import numpy as np
import scipy.linalg

from tests.cells.equations.functions import State, Weights, logistic

WINDOW = 100.0
"""The default θ."""


def legendre_memory_unit(w: Weights, x: np.ndarray, h: np.ndarray, m: np.ndarray) -> State:
    """Voelker et al. (2019), eqs. 1, 2 and 5 to 7; the memory is held over a step of 1 / θ."""
    order = m.shape[1]
    a = np.array(
        [[(2 * i + 1) * (-1.0 if i < j else (-1.0) ** (i - j + 1)) for j in range(order)] for i in range(order)]
    )
    b = np.array([(2 * i + 1) * (-1.0) ** i for i in range(order)])
    kept = scipy.linalg.expm(a / WINDOW)
    written = np.linalg.solve(a, (kept - np.eye(order)) @ b)
    u = x @ w["encoder_kernel"] + h @ w["state_encoder_kernel"] + m @ w["memory_encoder_kernel"]
    m = m @ kept.T + u * written
    return np.tanh(x @ w["input_kernel"] + w["bias"] + h @ w["recurrent_kernel"] + m @ w["memory_kernel"]), m


def scaled_legendre(w: Weights, x: np.ndarray, h: np.ndarray, m: np.ndarray, steps: np.ndarray) -> State:
    """Gu et al. (2020), theorem 2 by the bilinear rule, and section 4."""
    order = m.shape[1]
    root = np.sqrt(2 * np.arange(order) + 1)
    a = np.tril(np.outer(root, root), -1) + np.diag(np.arange(order) + 1.0)
    u = x @ w["encoder_kernel"] + w["encoder_bias"] + h @ w["state_encoder_kernel"]
    new = np.zeros_like(m)
    for row, k in enumerate(steps[:, 0]):
        if k <= 0:
            new[row, 0] = u[row, 0]
        else:
            k = max(k, 1)
            right = (np.eye(order) - a / (2 * k)) @ m[row] + root * u[row] / k
            new[row] = np.linalg.solve(np.eye(order) + a / (2 * k), right)
    z = x @ w["input_kernel"] + w["bias"] + new @ w["memory_kernel"]
    candidate, g = np.split(z, 2, axis=1)
    g = logistic(g)
    return (1 - g) * h + g * np.tanh(candidate), new, steps + 1


def clockwork(w: Weights, x: np.ndarray, h: np.ndarray, steps: np.ndarray) -> State:
    """Koutník et al. (2014), eqs. 1 to 5: modules of one unit each; each sees itself and the slower ones."""
    seen = np.tril(w["recurrent_kernel"])  # Of rows, the units that are seen: the same one or a slower one.
    moved = np.tanh(x @ w["input_kernel"] + w["bias"] + h @ seen)
    return np.where(np.mod(steps, 2.0 ** np.arange(h.shape[1])) == 0, moved, h), steps + 1


EQUATIONS = {"lmu": legendre_memory_unit, "hippo_legs": scaled_legendre, "clockwork": clockwork}
