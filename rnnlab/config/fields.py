"""The fields of a section: read from a frozen dataclass of options, or from the signature of a factory.

`schema.py` checks what they admit.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Union

from rnnlab.config.bounds import TRACED
from rnnlab.config.errors import ConfigError

GIVEN_BY_CODE = frozenset(
    {
        "in_features",
        "out_features",
        "vocabulary",
        "readout",
        "data_dir",
        "streams",
        "rngs",
        "weights",
        "forward",
        "decayed",
    }
)
"""Parameters of factories that the code supplies; a config cannot set them."""


class Field(NamedTuple):
    """One field, as a dataclass declares it or a factory's signature its parameter."""

    hint: Any
    default: Any
    """`inspect.Parameter.empty` if there is none."""


@functools.cache  # A sweep resolves a thousand configs: 0.3 ms each instead of 1.4.
def fields_of(function: Callable[..., Any]) -> Mapping[str, Field]:
    """The fields of a dataclass of options, or the parameters of a factory that a config sets.

    Raises:
        ConfigError: a field is `Traced` that has no fraction.
    """
    fields = _fields_of(function)
    for name, field in fields.items():
        kinds = [member.__origin__ for member in members_of(field.hint) if is_traced(member)]
        if not set(kinds) <= {float, Any}:
            target = function.func if isinstance(function, functools.partial) else function
            raise ConfigError(
                f"{target.__qualname__}: {name} is Traced[{kinds[0].__name__}]; only a float enters compiled programs "
                "as an array"
            )
    return fields


def _fields_of(function: Callable[..., Any]) -> dict[str, Field]:
    if is_options(function):
        hints = typing.get_type_hints(function, include_extras=True)
        return {field.name: Field(hints[field.name], _default(field)) for field in dataclasses.fields(function)}
    target = _signed(function)
    hints = typing.get_type_hints(target, include_extras=True)
    preset = function.keywords if isinstance(function, functools.partial) else {}
    declared = {
        name: field._replace(default=preset.get(name, field.default))
        for name, field in _declared(function)
        if name not in GIVEN_BY_CODE
    }
    return {
        name: Field(hints.get(name, Any), preset.get(name, parameter.default))
        for name, parameter in inspect.signature(target).parameters.items()
        if name not in GIVEN_BY_CODE
        and name != "self"
        and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    } | declared


def _declared(function: Callable[..., Any]) -> Iterable[tuple[str, Field]]:
    """The fields of a class's `Options` (`declared.py`), where its constructor takes them as `**options`."""
    target = function.func if isinstance(function, functools.partial) else function
    options = getattr(target, "Options", None)
    kinds = {parameter.kind for parameter in inspect.signature(_signed(target)).parameters.values()}
    return fields_of(options).items() if is_options(options) and inspect.Parameter.VAR_KEYWORD in kinds else ()


def _signed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where a factory's signature stands."""
    target = function.func if isinstance(function, functools.partial) else function
    # A class has its constructor's: the metaclass of Flax's modules hides the signature.
    return target.__init__ if isinstance(target, type) else target


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a factory has a parameter of this name, be it the config's or the code's."""
    return name in inspect.signature(_signed(function)).parameters or name in dict(_declared(function))


def is_options(target: Any) -> typing.TypeGuard[type]:
    """Whether it is a dataclass, whose fields are those of a section."""
    return isinstance(target, type) and dataclasses.is_dataclass(target)


def _default(field: dataclasses.Field) -> Any:
    """`inspect.Parameter.empty` if there is none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def subsection(hint: Any) -> type | None:
    """The dataclass whose fields are those of a section with this annotation; None for what is not a section, or one
    whose fields depend on its name."""
    return next((member for member in members_of(hint) if is_options(member)), None)


def table_of(hint: Any) -> dict[str, Any] | None:
    """The table that values of this annotation are named by."""
    return next((mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, dict)), None)


def is_traced(hint: Any) -> bool:
    """Whether numbers of a field with this annotation enter the compiled program as arrays."""
    return any(TRACED in getattr(member, "__metadata__", ()) for member in members_of(hint))


def members_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of another annotation, itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
