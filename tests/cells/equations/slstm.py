"""The scalar LSTM, as the paper has it before its stabiliser: our carry holds C / N and log N of its C and N."""

import numpy as np

from tests.cells.equations.functions import State, Weights, logistic


def forward(i: np.ndarray, f: np.ndarray, g: np.ndarray, o: np.ndarray, c: np.ndarray, m: np.ndarray) -> State:
    """Beck et al. (2024), eqs. 8 to 14: i and f are the gates after their functions."""
    cell, normalizer = c * np.exp(m), np.exp(m)
    cell, normalizer = f * cell + i * np.tanh(g), f * normalizer + i
    return logistic(o) * cell / normalizer, cell / normalizer, np.log(normalizer)


def slstm(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray, m: np.ndarray) -> State:
    i, f, g, o = np.split(x @ w["input_kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4, axis=-1)
    return forward(np.exp(i), logistic(f), g, o, c, m)


def exponential(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray, m: np.ndarray) -> State:
    """With the exponential forget gate."""
    i, f, g, o = np.split(x @ w["input_kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4, axis=-1)
    return forward(np.exp(i), np.exp(f), g, o, c, m)


def heads(w: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray, m: np.ndarray) -> State:
    """Each head's part of h meets its block of R, which has that head's columns of i, f, g, o side by side."""
    of_heads = [
        np.split(part @ block, 4, axis=-1)
        for part, block in zip(np.split(h, len(w["recurrent_kernel"]), axis=-1), w["recurrent_kernel"], strict=True)
    ]
    u = np.concatenate([np.concatenate(parts, -1) for parts in zip(*of_heads, strict=True)], -1)
    i, f, g, o = np.split(x @ w["input_kernel"] + u + w["bias"], 4, axis=-1)
    return forward(np.exp(i), logistic(f), g, o, c, m)


EQUATIONS = {"slstm": slstm, "slstm_exp": exponential, "slstm_heads": heads}
