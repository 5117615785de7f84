"""Whether a number of the config stands in a compiled program as a constant, where it would be that of another run."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from rnnlab.config.errors import ConfigError
from rnnlab.training.structure import Structure

KEEP_NUMBERS = (
    "keep it as an attribute of the cell (self.name = name), of another module as "
    "rnnlab.ops.activations.hyperparameter(name)"
)
"""How to mend one that is a constant."""


def constant_numbers(
    structure: Structure, program: Callable[[Any], ClosedJaxpr], others: Mapping[str, float]
) -> list[str]:
    """The numbers that a program holds as constants: a function or an attribute of a module keeps them as they were
    when it was built.

    Args:
        program: traces the program for a network's graphdef.
        others: other values of the numbers, by their paths.
    """

    def text(numbers: Mapping[str, float]) -> str:
        network = nnx.eval_shape(lambda: structure.initial_network(numbers, jnp.int32(0)))
        closed = program(nnx.graphdef(network))
        check_constants(closed)
        held = b"".join(np.asarray(const).tobytes() for const in closed.consts)
        return re.sub(r" at 0x[0-9a-f]+", "", str(closed)) + held.hex()

    numbers = structure.numbers
    others = {name: value for name, value in others.items() if value != numbers[name]}
    unchanged = text(numbers)
    if not others or text({**numbers, **others}) == unchanged:
        return []
    return [name for name, value in others.items() if text({**numbers, name: value}) != unchanged]


def check_constants(program: ClosedJaxpr) -> None:
    """Refuses a program that holds an array from outside that has no value, since a module keeps it where no program
    looks for it.

    Raises:
        ConfigError: it does.
    """
    if any(isinstance(const, Tracer) for const in program.consts):
        raise ConfigError(
            "model: a module of the network keeps an array in a function's closure or the like, where no program finds "
            f"it; {KEEP_NUMBERS}"
        )
