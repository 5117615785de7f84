"""What the equations of several families share, in NumPy."""

import numpy as np

Weights = dict[str, np.ndarray]
"""A cell's arrays by name: its parameters, and its numbers that a sweep may vary."""
State = tuple[np.ndarray, ...]
"""The carry."""


def logistic(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def relu(a: np.ndarray) -> np.ndarray:
    return np.maximum(a, 0)


def inputs(w: Weights, x: np.ndarray, parts: int) -> list[np.ndarray]:
    """x W + b of each gate."""
    return np.split(x @ w["input_kernel"] + w["bias"], parts, axis=-1)


def recurrent(w: Weights, parts: int) -> list[np.ndarray]:
    """R of each gate."""
    return np.split(w["recurrent_kernel"], parts, axis=-1)
