"""The axis legend and the array aliases that every shape in this project is written in.

Axes, always in this order where they occur together:
    T  time            B  batch            D  input features
    H  hidden units    M  gate width (H times the number of gates)
    N  replicas of one run
Sequences are time-major: [T, B, D].
"""

import os
import sys

if __name__ == "typing":  # Found in the place of the standard library's, by `python rnnlab/train.py`.
    command = os.path.basename(sys.argv[0]).removesuffix(".py")
    print(f"error: {sys.argv[0]} is a part of a package; run it as: python -m rnnlab.{command}", file=sys.stderr)
    sys.exit(2)

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray, Shaped, UInt8

PyTree = Any
Carry = tuple[jax.Array, ...]
"""The arrays that a cell hands from step to step; element 0 is the hidden state h [B, H]."""

Parts = list[jax.Array]
"""A gate's part [..., H] each, in the cell's order of gates."""

Initializer = Callable[..., jax.Array]
"""(key, shape, dtype) -> array."""

Axes = str | tuple[str, ...]
"""One axis of devices, or several as one."""

Activation = Callable[[jax.Array], jax.Array]

__all__ = [
    "Activation",
    "Array",
    "Axes",
    "Bool",
    "Carry",
    "Float",
    "Initializer",
    "Int",
    "Num",
    "PRNGKeyArray",
    "Parts",
    "PyTree",
    "Shaped",
    "UInt8",
]
