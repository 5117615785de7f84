"""Cells that are steps of a stable differential equation."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic, recurrent


def skew(w: Weights, size: int) -> np.ndarray:
    """A - Aᵀ - γ I, where what is trained of A is below its diagonal."""
    a = np.zeros((size, size))
    a[np.tril_indices(size, -1)] = w["recurrent_kernel"][0]
    return a - a.T - w["parametrisation.gamma"] * np.eye(size)


def antisymmetric(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Chang et al. (2019), eq. 10."""
    return (h + w["step_size"] * np.tanh(h @ skew(w, h.shape[1]) + x @ w["input_kernel"] + w["bias"]),)


def gated(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Chang et al. (2019), eqs. 12 and 13."""
    of_gate, of_h = inputs(w, x, 2)
    gate = logistic(h @ skew(w, h.shape[1]) + of_gate)
    return (h + w["step_size"] * gate * np.tanh(h @ skew(w, h.shape[1]) + of_h),)


def shifted(m: np.ndarray, beta: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Erichson et al. (2021)."""
    return (1 - beta) * (m + m.T) + beta * (m - m.T) - gamma * np.eye(len(m))


def lipschitz(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Erichson et al. (2021), by Euler's method."""
    m_a, m_w = recurrent(w, 2)
    a = shifted(m_a, w["linear_skewness"], w["linear_damping"])
    inner = shifted(m_w, w["skewness"], w["damping"])
    return (h + w["step_size"] * (h @ a + np.tanh(h @ inner + x @ w["input_kernel"] + w["bias"])),)


EQUATIONS = {"antisymmetric": antisymmetric, "gated_antisymmetric": gated, "lipschitz": lipschitz}
