"""From config sections to objects: tables, checks and the split of a section into structure and numbers.

A section's fields stand in a frozen dataclass of options; those of a section with a name are the parameters of the
factory that its table has under this name. `resolve` fills a section with its defaults and checks every field against
the annotations, so that a mistake is one line before anything is compiled. `build` calls a factory, `as_options` makes
the dataclass.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

import numpy as np

from rnnlab.config.bounds import NON_EMPTY, TRACED, Bound, NameIn, OneOf, PositiveInt, check_float32
from rnnlab.config.errors import ConfigError, UnknownField, unknown
from rnnlab.config.outside import Table, find_outside, is_outside

GIVEN_BY_CODE = frozenset(
    {"in_features", "out_features", "vocabulary", "readout", "data_dir", "streams", "rngs", "weights", "forward"}
)
"""Parameters of factories that the code supplies; a config cannot set them."""

Options = TypeVar("Options")
"""A frozen dataclass, whose fields are those of a section."""


def check_count(value: Any, where: str) -> int:
    """The value as a whole number from 1 up, which may come as NumPy's or as 4.0.

    Raises:
        ConfigError: it is none.
    """
    return _check(value.item() if isinstance(value, np.integer) else value, PositiveInt, where)


def find(table: Mapping[str, Callable[..., Any]], section: str | Mapping[str, Any], kind: str) -> tuple[Any, dict]:
    """The factory that a section names, and the section's other fields."""
    if isinstance(section, str):
        section = {"name": section}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{kind}: {section!r} is neither a name nor a section; known: {', '.join(sorted(table))}")
    fields = dict(section)
    name = fields.pop("name", None)
    if name is None:
        raise ConfigError(f"{kind}: the field 'name' is missing; known: {', '.join(sorted(table))}")
    return lookup(table, name, kind), fields


def lookup(table: Mapping[str, Any], name: Any, kind: str) -> Any:
    """What a name stands for: an entry of a table, or for `package.module:Name` what lives outside the project.

    Raises:
        ConfigError: nothing.
    """
    if is_outside(name):
        return table.outside(name, kind) if isinstance(table, Table) else find_outside(name, kind)
    if not isinstance(name, str) or name not in table:
        raise ConfigError(unknown(kind, name, table))
    return table[name]


def build(table: Mapping[str, Callable[..., Any]], section: str | Mapping[str, Any], kind: str, **given: Any) -> Any:
    """Calls the factory that a section names with the section's other fields and what the code gives.

    Raises:
        ConfigError: no name, an unknown name, or fields that the factory does not take.
    """
    factory, fields = find(table, section, kind)
    known = fields_of(factory)
    for field in fields:
        if field not in known:
            raise ConfigError(unknown(f"field of {kind} {_name(section)!r}:", field, known))
    if isinstance(table, Table) and is_outside(_name(section)):
        return table.make(_name(section), kind, **fields, **given)
    return factory(**fields, **given)


def as_options(options: type[Options], section: Mapping[str, Any] | Options | None) -> Options:
    """A section as its dataclass, and the sections in it as theirs; fields that it lacks have their defaults.

    Nothing is checked: numbers may be traced.
    """
    if isinstance(section, options):
        return section
    values = _mapping(section)
    for name, field in fields_of(options).items():
        inner = subsection(field.hint)
        if inner is not None and isinstance(values.get(name), Mapping):
            values[name] = as_options(inner, values[name])
    return options(**values)


def resolve(factory: Callable[..., Any], section: Mapping[str, Any], path: str, *common: Callable[..., Any]) -> dict:
    """A section with every field of the factory (and of `common`) present, checked and of its declared type.

    Args:
        factory: a dataclass of options, or a factory whose keyword parameters are the fields; annotations say what they
            admit.
        section: what the user set.
        path: where the section stands in the config, for messages.
        common: further ones whose fields belong to the same section; where one has a field that the factory has too,
            the factory's is taken.

    Raises:
        ConfigError: an unknown field, a wrong type, a value out of bounds, a missing field.
    """
    fields = dict(fields_of(factory))
    for function in common:
        fields |= {key: field for key, field in fields_of(function).items() if key not in fields}
    prefix = f"{path}." if path else ""
    resolved: dict[str, Any] = {}
    further: Any = getattr(factory, "further", None)  # The table of what fields of other names may be.
    for key in section:
        if key not in fields and (further is None or not is_outside(_named(section[key]))):
            raise UnknownField(prefix, str(key), fields)
    for key, (hint, default) in fields.items():
        value = section.get(key, default)
        if isinstance(value, Mapping) and "name" not in value:  # Some fields of a section whose name is the default.
            value = ({"name": default} if isinstance(default, str) else _mapping(default)) | dict(value)
        if value is inspect.Parameter.empty:
            raise ConfigError(f"{prefix}{key}: missing; expected {_describe(hint)}")
        resolved[key] = _check(value, hint, prefix + key)
    more = {key: value for key, value in section.items() if key not in fields}
    return resolved | {key: _check_section(value, further, [], prefix + key) for key, value in more.items()}


def _named(section: Any) -> Any:
    """The name that a section has, if it has one."""
    return section.get("name") if isinstance(section, Mapping) else section


def _mapping(value: Any) -> dict[str, Any]:
    """The fields of a section, be it a mapping or a dataclass; none of anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(value) if isinstance(value, Mapping) else {}


def _name(section: str | Mapping[str, Any]) -> str:
    return section if isinstance(section, str) else section["name"]


class Field(NamedTuple):
    """What a dataclass says of one field, or a factory's signature of one parameter."""

    hint: Any
    default: Any
    """`inspect.Parameter.empty` if there is none."""


@functools.cache  # A sweep resolves a thousand configs: 0.3 ms each instead of 1.4.
def fields_of(function: Callable[..., Any]) -> Mapping[str, Field]:
    """The fields of a dataclass of options, or the parameters of a factory that a config sets."""
    if _is_options(function):
        hints = typing.get_type_hints(function, include_extras=True)
        return {field.name: Field(hints[field.name], _default(field)) for field in dataclasses.fields(function)}
    target = _signed(function)
    hints = typing.get_type_hints(target, include_extras=True)
    preset = function.keywords if isinstance(function, functools.partial) else {}
    declared = {name: field._replace(default=preset.get(name, field.default)) for name, field in _declared(function)}
    return {
        name: Field(hints.get(name, Any), preset.get(name, parameter.default))
        for name, parameter in inspect.signature(target).parameters.items()
        if name not in GIVEN_BY_CODE
        and name != "self"
        and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    } | declared


def subsection(hint: Any) -> type | None:
    """The dataclass whose fields are those of a section with this annotation; None for what is not a section, or one
    whose fields depend on its name."""
    return next((member for member in members_of(hint) if _is_options(member)), None)


def _is_options(target: Any) -> typing.TypeGuard[type]:
    return isinstance(target, type) and dataclasses.is_dataclass(target)


def _default(field: dataclasses.Field) -> Any:
    """`inspect.Parameter.empty` if there is none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def section_fields(hint: Any, section: Mapping[str, Any]) -> dict[str, Field]:
    """The fields of a section with this annotation.

    Raises:
        ConfigError: the fields depend on the section's name, and it has none that is known.
    """
    for member in members_of(hint):
        if _is_options(member):
            further = getattr(member, "further", None)
            others = {} if further is None else dict.fromkeys(section, Field(Annotated[Any, further], None))
            return others | dict(fields_of(member))
        table = table_of(member)
        if table is not None:
            factories = [lookup(table, section.get("name"), "name"), *filter(_is_options, member.__metadata__)]
            return {name: field for each in reversed(factories) for name, field in fields_of(each).items()}
    return {}


def table_of(hint: Any) -> dict[str, Any] | None:
    """The table that values of this annotation are named by."""
    return next((mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, dict)), None)


def is_traced(hint: Any) -> bool:
    """Whether numbers of a field with this annotation enter the compiled program as arrays."""
    return any(TRACED in getattr(member, "__metadata__", ()) for member in members_of(hint))


def members_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of another annotation, itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a factory has a parameter of this name, be it the config's or the code's."""
    return name in inspect.signature(_signed(function)).parameters or name in dict(_declared(function))


def _declared(function: Callable[..., Any]) -> Iterable[tuple[str, Field]]:
    """The fields of a class's `Options` (`declared.py`), where its constructor takes them as `**options`."""
    target = function.func if isinstance(function, functools.partial) else function
    options = getattr(target, "Options", None)
    kinds = {parameter.kind for parameter in inspect.signature(_signed(target)).parameters.values()}
    return fields_of(options).items() if _is_options(options) and inspect.Parameter.VAR_KEYWORD in kinds else ()


def _signed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where a factory's signature stands."""
    target = function.func if isinstance(function, functools.partial) else function
    # Of a class, its constructor: the metaclass of Flax's modules hides the signature.
    return target.__init__ if isinstance(target, type) else target


def _check(value: Any, hint: Any, path: str) -> Any:
    """The value as its annotation wants it, or a ConfigError that names the path."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        inner, *marks = typing.get_args(hint)
        tables = [mark for mark in marks if isinstance(mark, dict)]
        if tables:
            return _check_section(value, tables[0], [mark for mark in marks if _is_options(mark)], path)
        value = _check(value, inner, path)
        for mark in marks:
            if isinstance(mark, Bound) and not mark.admits(value):
                raise ConfigError(f"{path}: {value!r} is out of range; it must be {mark}")
            if isinstance(mark, Bound) and isinstance(value, float) and mark.refuses_rounded(value):
                rounded = float(np.float32(value))
                raise ConfigError(f"{path}: {value!r} is {rounded:g} in float32; there, too, it must be {mark}")
            if isinstance(mark, OneOf) and value not in mark.names:
                raise ConfigError(f"{path}: {unknown(mark.kind, value, mark.names)}")
            if isinstance(mark, NameIn):
                if not is_outside(value) and value not in mark.table:
                    raise ConfigError(f"{path}: {unknown(mark.kind, value, mark.table)}")
                lookup(mark.table, value, path)
            if mark is NON_EMPTY and not value:
                raise ConfigError(f"{path}: empty; expected {_describe(inner)}, and at least one")
        return value
    if origin in (Union, types.UnionType):
        members = typing.get_args(hint)
        if value is None and type(None) in members:
            return None
        failures = {}
        for member in members:
            if member is type(None):
                continue
            try:
                return _check(value, member, path)
            except ConfigError as error:
                failures[typing.get_args(member)[0] if typing.get_origin(member) is Annotated else member] = error
        if len(failures) == 1 or (isinstance(value, float) and float in failures):
            raise failures.get(float) or next(iter(failures.values()))
    elif origin is Literal:
        if value in typing.get_args(hint):
            return value
    elif origin is tuple:
        if isinstance(value, str):  # As on the command line: a,b
            value = [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, list | tuple):
            return tuple(_check(v, typing.get_args(hint)[0], f"{path}[{i}]") for i, v in enumerate(value))
    elif _is_options(hint):
        return resolve(hint, _mapping(value) if isinstance(value, hint) else _check(value, Mapping, path), path)
    elif hint is Any:
        return value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if value != value:
                raise ConfigError(f"{path}: not a number (nan)")
            try:
                return check_float32(float(value), path)
            except OverflowError:
                raise ConfigError(f"{path}: {value!r} does not fit a float") from None
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)  # 1e4 is how people write a number of steps.
    elif hint is str:
        if isinstance(value, str):
            return value
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    raise ConfigError(f"{path}: {value!r} is {_article(type(value).__name__)}; expected {_describe(hint)}")


def _check_section(value: Any, table: dict[str, Any], common: list[Callable[..., Any]], path: str) -> Any:
    if callable(value):
        return value
    if not isinstance(value, str | Mapping):
        raise ConfigError(
            f"{path}: {value!r} is {_article(type(value).__name__)}; expected one of {', '.join(sorted(table))}, "
            "or a section with that name and its fields"
        )
    factory, fields = find(table, value, path)
    return {"name": _name(value)} | resolve(factory, fields, path, *common)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" if noun != "NoneType" else "None"


def _describe(hint: Any) -> str:
    """What an annotation admits, in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        tables = [mark for mark in args[1:] if isinstance(mark, dict)]
        if tables:
            return f"one of {', '.join(sorted(tables[0]))}"
        if names := [mark.table for mark in args[1:] if isinstance(mark, NameIn)]:
            return f"one of {', '.join(names[0])}"
        if names := [mark.names for mark in args[1:] if isinstance(mark, OneOf)]:
            return f"one of {', '.join(names[0])}"
        bounds = [str(mark) for mark in args[1:] if isinstance(mark, Bound)]
        return " ".join([_describe(args[0]), *bounds])
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is tuple:
        return f"a list, each {_describe(args[0])}"
    if hint is type(None):
        return "None"
    if _is_options(hint):
        hint = Mapping
    return _article(getattr(hint, "__name__", str(hint)))
