"""The numbers of a section that a sweep may vary, inside a network."""

from typing import Any

from flax import nnx

from rnnlab.ops.random_streams import number
from rnnlab.typing import Array, Float


class Rates(nnx.Module):
    """The numbers of a section that are set, as variables: none of them is a constant of the program."""

    def __init__(self, **values: Any):
        self.values = nnx.Dict({k: nnx.Variable(number(v)) for k, v in values.items() if v is not None})

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __getitem__(self, name: str) -> Float[Array, ""]:
        return self.values[name][...]
