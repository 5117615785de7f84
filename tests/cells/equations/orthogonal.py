"""Networks whose recurrent matrix is orthogonal, or nearly so. The papers write columns, W h; here h R with R = Wᵀ."""

import numpy as np
from scipy.linalg import expm

from tests.cells.equations.functions import State, Weights


def skew(lower: np.ndarray, size: int) -> np.ndarray:
    a = np.zeros((size, size))
    a[np.tril_indices(size, -1)] = lower
    return a - a.T


def modrelu(a: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Arjovsky et al. (2016), eq. 8, for real numbers."""
    return np.sign(a) * np.maximum(np.abs(a) + bias, 0)


def of_matrix(w: Weights, x: np.ndarray, h: np.ndarray, r: np.ndarray) -> State:
    """modReLU of the sum."""
    return (modrelu(x @ w["input_kernel"] + w["bias"] + h @ r, w["activation.bias"]),)


def exprnn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Lezcano-Casado and Martínez-Rubio (2019), section 4: the exponential of a skew-symmetric matrix."""
    size = h.shape[1]
    return of_matrix(w, x, h, w["recurrent_base"][0] @ expm(skew(w["recurrent_kernel"][0], size)))


def scornn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Helfrich et al. (2018), eq. 5: W = (I + A)⁻¹ (I - A) D."""
    size = h.shape[1]
    one, a = np.eye(size), skew(w["recurrent_kernel"][0], size)
    return of_matrix(w, x, h, (np.linalg.inv(one + a) @ (one - a) @ w["recurrent_base"][0].T).T)


def ornn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Mhammedi et al. (2017), eqs. 5 and 6: reflections one by one."""
    size = h.shape[1]
    vectors = np.eye(size)
    vectors[np.tril_indices(size, -1)] = w["recurrent_kernel"][0]
    r = w["recurrent_base"][0]
    for u in vectors.T:
        r = r @ (np.eye(size) - 2 * np.outer(u, u) / (u @ u))
    return (np.tanh(x @ w["input_kernel"] + w["bias"] + h @ r),)


def nnrnn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Kerg et al. (2019), eq. 5: P Θ Pᵀ, Θ of scaled rotations and what is above them."""
    size = h.shape[1]
    theta = np.zeros((size, size))
    theta[np.triu_indices(size, 1)] = w["recurrent_upper_kernel"][0]
    for k, (angle, scale) in enumerate(
        zip(w["recurrent_angles_kernel"][0], w["recurrent_scales_kernel"][0], strict=True)
    ):
        c, s = scale * np.cos(angle), scale * np.sin(angle)
        theta[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] += np.array([[c, -s], [s, c]])
    p = w["recurrent_base"][0] @ expm(skew(w["recurrent_kernel"][0], size))
    return of_matrix(w, x, h, p @ theta @ p.T)


def asrnn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Nguyen-Duy et al. (2023): h = W_f⁻¹ tanh(W_f (W_xh x + W_hh h + b)), W_f = U_f D_f."""
    size = h.shape[1]
    r = w["recurrent_base"][0] @ expm(skew(w["recurrent_kernel"][0], size))
    w_f = expm(skew(w["saturation_axes"], size)) @ np.diag(np.abs(w["saturation"]) + w["epsilon"])
    inner = (x @ w["input_kernel"] + h @ r + w["bias"]).T
    return ((np.linalg.inv(w_f) @ np.tanh(w_f @ inner)).T,)


EQUATIONS = {"exprnn": exprnn, "scornn": scornn, "ornn": ornn, "nnrnn": nnrnn, "asrnn": asrnn}
