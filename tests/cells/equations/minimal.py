"""Cells with a gate or two."""

import numpy as np

from tests.cells.equations.functions import State, Weights, inputs, logistic, recurrent, relu


def mgu(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Zhou et al. (2016)."""
    (x_f, x_h), (r_f, r_h) = inputs(w, x, 2), recurrent(w, 2)
    f = logistic(x_f + h @ r_f)
    return ((1 - f) * h + f * np.tanh(x_h + (f * h) @ r_h),)


def janet(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """van der Westhuizen and Lasenby (2018)."""
    (x_f, x_c), (r_f, r_c) = inputs(w, x, 2), recurrent(w, 2)
    s = x_f + h @ r_f
    return (logistic(s) * h + (1 - logistic(s - w["writing"])) * np.tanh(x_c + h @ r_c),)


def ligru(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Ravanelli et al. (2018), with a bias in the place of batch normalisation."""
    (x_z, x_h), (r_z, r_h) = inputs(w, x, 2), recurrent(w, 2)
    z = logistic(x_z + h @ r_z)
    return (z * h + (1 - z) * relu(x_h + h @ r_h),)


def minimal_rnn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Chen (2017)."""
    b_z, b_u = np.split(w["bias"], 2)
    z = np.tanh(x @ w["input_kernel"] + b_z)
    u = logistic(h @ w["recurrent_kernel"] + z @ w["latent_kernel"] + b_u)
    return (u * h + (1 - u) * z,)


def cfn(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Laurent and von Brecht (2017)."""
    x_theta, x_eta, x_h = np.split(x @ w["input_kernel"], 3, axis=-1)
    b_theta, b_eta = np.split(w["bias"], 2)
    u_theta, u_eta = recurrent(w, 2)
    theta, eta = logistic(h @ u_theta + x_theta + b_theta), logistic(h @ u_eta + x_eta + b_eta)
    return (theta * np.tanh(h) + eta * np.tanh(x_h),)


def star(w: Weights, x: np.ndarray, h: np.ndarray) -> State:
    """Turkoglu et al. (2021)."""
    x_z, x_k = inputs(w, x, 2)
    k = logistic(x_k + h @ w["recurrent_kernel"])
    return (np.tanh((1 - k) * h + k * np.tanh(x_z)),)


EQUATIONS = {"mgu": mgu, "janet": janet, "ligru": ligru, "minimal_rnn": minimal_rnn, "cfn": cfn, "star": star}
