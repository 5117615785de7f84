"""From config sections to objects.

A section's fields stand in a frozen dataclass of options; those of a section with a name are the parameters of the
factory that its table has under this name (`fields.py`). `resolve` fills a section with its defaults and checks every
field against the annotations, so that a mistake is one line before anything is compiled. `build` calls a factory,
`as_options` makes the dataclass.
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

import numpy as np

from rnnlab.config.bounds import NON_EMPTY, Bound, NameIn, OneOf, PositiveInt, check_float32
from rnnlab.config.errors import ConfigError, UnknownField, unknown
from rnnlab.config.fields import Field, fields_of, is_options, members_of, subsection, table_of
from rnnlab.config.outside import Table, find_outside, is_outside

Options = TypeVar("Options")
"""A frozen dataclass, whose fields are those of a section."""


def check_count(value: Any, where: str) -> int:
    """The value as a whole number from 1 up, which may come as NumPy's or as 4.0.

    Raises:
        ConfigError: it is not one.
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
    """The entry that a name stands for: one of a table, or for `package.module:Name` one from outside the project.

    Raises:
        ConfigError: nothing.
    """
    if is_outside(name):
        return table.outside(name, kind) if isinstance(table, Table) else find_outside(name, kind)
    if not isinstance(name, str) or name not in table:
        raise ConfigError(unknown(kind, name, table))
    return table[name]


def build(
    table: Mapping[str, Callable[..., Any]], section: str | Mapping[str, Any], kind: str, **arguments: Any
) -> Any:
    """Calls the factory that a section names with the section's other fields and what the code gives.

    Raises:
        ConfigError: no name, an unknown name, or fields that the factory does not take.
    """
    factory, fields = find(table, section, kind)
    taken = fields_of(factory)
    for field in fields:
        if field not in taken:
            raise ConfigError(unknown(f"field of {kind} {_name(section)!r}:", field, taken))
    if isinstance(table, Table) and is_outside(_name(section)):
        return table.make(_name(section), kind, **fields, **arguments)
    return factory(**fields, **arguments)


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
            raise ConfigError(f"{prefix}{key}: missing; expected {describe(hint)}")
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


def section_fields(hint: Any, section: Mapping[str, Any]) -> dict[str, Field]:
    """The fields of a section with this annotation.

    Raises:
        ConfigError: the fields depend on the section's name, and it has none that is known.
    """
    factories = section_factories(hint, section)
    further = getattr(factories[0], "further", None) if factories else None
    others = {} if further is None else dict.fromkeys(section, Field(Annotated[Any, further], None))
    return others | {name: field for each in reversed(factories) for name, field in fields_of(each).items()}


def section_factories(hint: Any, section: Mapping[str, Any]) -> list[Callable[..., Any]]:
    """Those whose fields a section with this annotation has; of two fields with one name, the first one's counts.

    Raises:
        ConfigError: as of `section_fields`.
    """
    for member in members_of(hint):
        if is_options(member):
            return [member]
        table = table_of(member)
        if table is not None:
            return [lookup(table, section.get("name"), "name"), *filter(is_options, member.__metadata__)]
    return []


def _check(value: Any, hint: Any, path: str) -> Any:
    """The value as its annotation wants it, or a ConfigError that names the path."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        inner, *marks = typing.get_args(hint)
        tables = [mark for mark in marks if isinstance(mark, dict)]
        if tables:
            return _check_section(value, tables[0], [mark for mark in marks if is_options(mark)], path)
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
                raise ConfigError(f"{path}: empty; expected {describe(inner)}, and at least one")
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
    elif is_options(hint):
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
    raise ConfigError(f"{path}: {value!r} is {_article(type(value).__name__)}; expected {describe(hint)}")


def _check_section(value: Any, table: dict[str, Any], common: list[Callable[..., Any]], path: str) -> Any:
    if callable(value):
        return value
    if not isinstance(value, str | Mapping):
        raise ConfigError(
            f"{path}: {value!r} is {_article(type(value).__name__)}; expected one of {', '.join(sorted(table))}, "
            "or a section with that name and its fields"
        )
    factory, fields = find(table, value, path)
    try:
        return {"name": _name(value)} | resolve(factory, fields, path, *common)
    except UnknownField as error:
        having = [name for name, each in table.items() if error.name in fields_of(each)]
        if error.path != f"{path}.":  # That of a section within this one.
            raise
        raise UnknownField(error.path, error.name, error.names, having) from None


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" if noun != "NoneType" else "None"


def describe(hint: Any) -> str:
    """The values that an annotation admits, in words."""
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
        return " ".join([describe(args[0]), *bounds])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is tuple:
        return f"a list, each {describe(args[0])}"
    if hint is type(None):
        return "None"
    if is_options(hint):
        hint = Mapping
    return _article(getattr(hint, "__name__", str(hint)))
