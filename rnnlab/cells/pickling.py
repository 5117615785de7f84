"""Functions that pickle does not take, such as `jnp.tanh`, by the names under which modules have them."""

import importlib
import operator
import types
from typing import Any, NamedTuple

from flax import nnx


class Named(NamedTuple):
    """A function, by where it stands."""

    module: str
    name: str

    def __call__(self) -> Any:
        return operator.attrgetter(self.name)(importlib.import_module(self.module))


def by_name(value: Any) -> Any:
    """A compiled function of a module as `Named`, anything else as it is."""
    if isinstance(value, nnx.Module | types.FunctionType) or not callable(value):
        return value
    named = Named(getattr(value, "__module__", None) or "", getattr(value, "__qualname__", ""))
    try:
        return named if named() is value else value
    except (ImportError, AttributeError, ValueError):
        return value
