"""Configs as nested dicts: changed by paths, with references that follow, made plain, compared.

Files are read in `reading.py`; the fields of a run stand in `records/run_config.py`. ConfigDict's own
`update_from_flattened_dict` and `to_dict` cannot take the place of this: they know no section by its name, no field
that the file leaves out, no dataclass, and what they raise does not name the path.
"""

import contextlib
import copy
import dataclasses
import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError
from ml_collections.config_flags import config_path

from rnnlab.config.errors import ConfigError

Config = Any
"""A ConfigDict, a dict or a dataclass, with such ones in it."""


def set_paths(
    config: Config,
    overrides: Mapping[str, Any],
    kept_by_name: Mapping[str, tuple[str, ...]],
    complete: bool = True,
) -> dict[str, Any]:
    """The config as a plain dict with `{"task.length": 400}` set.

    A field that refers to another (`FieldReference`) changes with it, and the other with it, unless it is computed.
    A section that gets another name (`model.cell.name=lstm`, or `model.cell=lstm`) starts anew, since its fields belong
    to the old name.

    Args:
        config: what a file returned.
        overrides: values by path, as `config_path` of ml_collections has them: "a.b", "a['b']", "values[0]".
        kept_by_name: {section: fields}, the fields that mean the same under every name, so that a new name keeps them.
        complete: whether every reference must have a value; else None stands for it.

    Raises:
        ConfigError: a path leads through something that is not a section, or to an element that a list does not have.
    """
    plain = copied(config)
    # A section's name comes before its fields, whatever their order on the command line.
    order = sorted(overrides, key=lambda path: path.removesuffix(".name").count("."))
    for path, value in ((path, overrides[path]) for path in order):
        *parents, last = _parts(path)
        if isinstance(last, int):
            value = _with_element(plain, parents, last, value, path)
            *parents, last = parents
        node: dict[str, Any] = plain
        for depth, part in enumerate(parents):
            child: Any = _value(node.get(part))
            if child is None:
                child = {}
            elif isinstance(child, str):
                child = {"name": child}
            elif not isinstance(child, dict):
                raise ConfigError(f"{'.'.join(parents[: depth + 1])}: {child!r} is not a section; cannot set {path}")
            node[part] = child
            node = child
        if isinstance(value, str) and isinstance(node.get(last), dict):
            node[last] = dict(node[last])  # Where it stands elsewhere, too, it stays there.
            parents, node, last = [*parents, last], node[last], "name"
        if last == "name" and _value(node.get("name")) != value:
            kept = {k: v for k, v in node.items() if k in kept_by_name.get(".".join(parents), ())}
            node.clear()
            node.update(kept)
        if value == "build" and (optional := _optional_of(node.get(last))) is not None:
            node[last] = _built(optional, path)
        elif isinstance(node.get(last), FieldReference):
            node[last].set(value, type_safe=False)  # `resolve_config` checks types, and says where.
        else:
            node[last] = to_dict(value) if isinstance(value, Mapping) else value
    return to_dict(plain, complete=complete)


def _parts(path: str) -> list[Any]:
    """["a", "b", 0] for "a.b[0]" and "a['b'][0]"."""
    if "[" not in path:
        return path.split(".")
    with contextlib.suppress(ValueError):
        parts = config_path.split(path)
        if all(isinstance(part, str) for part in parts[:-1]) and isinstance(parts[-1], str | int):
            return list(parts)
    raise ConfigError(f"{path}: not the path of a field; as in task.length or curriculum.values[0]")


def _with_element(plain: dict[str, Any], parents: Sequence[str], index: int, value: Any, path: str) -> tuple[Any, ...]:
    """The list or tuple at the path of its parents with one element changed."""
    whole: Any = plain
    for part in parents:
        whole = _value(whole.get(part)) if isinstance(whole, dict) else None
    if not isinstance(whole, list | tuple):
        raise ConfigError(f"{path}: {'.'.join(parents)} is {whole!r}, not a list")
    if not -len(whole) <= index < len(whole):
        raise ConfigError(f"{path}: out of range; {'.'.join(parents)} has {len(whole)} elements, counted from 0")
    changed = list(whole)
    changed[index] = value
    return tuple(changed)


def to_dict(config: Config, path: str = "", complete: bool = True) -> dict[str, Any]:
    """Nested plain dicts of plain values: references, dataclasses, arrays and ranges are resolved.

    Args:
        config: what a file returned.
        path: where it stands in the whole config.
        complete: whether every reference must have a value; else None stands for it.

    Raises:
        ConfigError: a required placeholder without a value, or a computed reference that fails.
    """
    return {k: _plain(v, f"{path}.{k}" if path else str(k), complete) for k, v in _items(config)}


def _plain(value: Any, path: str, complete: bool) -> Any:
    if isinstance(value, FieldReference):
        try:
            value = value.get()
        except Exception as error:  # A computed reference raises whatever its operands raise.
            if not complete:
                return None
            if isinstance(error, RequiredValueError):
                raise ConfigError(f"{path}: a required placeholder without a value") from None
            raise ConfigError(f"{path}: cannot be computed: {type(error).__name__}: {error}") from None
    if is_section(value):
        return to_dict(value, path, complete)
    if isinstance(value, list | tuple | range):
        elements = [_plain(element, f"{path}[{i}]", complete) for i, element in enumerate(value)]
        return tuple(elements) if isinstance(value, tuple) else elements
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def refers(config: Config) -> bool:
    """Whether a config has a reference."""
    return any(
        (isinstance(value, FieldReference) and _optional_of(value) is None) or (is_section(value) and refers(value))
        for _, value in _items(config)
    )


def copied(config: Config, memo: dict[Any, Any] | None = None) -> dict[str, Any]:
    """A copy as nested plain dicts. References refer to each other as before, and a section that stands in two places,
    or is referred to, stays one section; memo: `deepcopy`'s."""
    memo = {} if memo is None else memo
    if ("section", id(config)) in memo:
        return memo["section", id(config)]
    plain = memo["section", id(config)] = {}
    optional = _optional_fields(type(config))
    for key, value in _items(config):
        if value is None and key in optional:
            value = FieldReference(None, field_type=optional[key])
        plain[key] = _copied_value(value, memo)
    return plain


def _optional_fields(cls: type) -> dict[str, type]:
    """The fields of a dataclass that may be another one or None, with that other one: --config.field=build makes it."""
    if not _is_dataclass(cls):
        return {}
    try:
        hints = typing.get_type_hints(cls)
    except NameError:  # An annotation of a user's file that Python never looks at.
        return {}
    members = {name: typing.get_args(hint) for name, hint in hints.items() if type(None) in typing.get_args(hint)}
    return {name: each for name, types in members.items() for each in types if _is_dataclass(each)}


def _is_dataclass(cls: Any) -> typing.TypeGuard[type]:
    return isinstance(cls, type) and dataclasses.is_dataclass(cls)


def _built(cls: type, path: str) -> dict[str, Any]:
    try:
        return copied(cls())
    except Exception as error:  # A user's class may raise anything.
        raise ConfigError(f"{path}: {cls.__name__} cannot be built: {type(error).__name__}: {error}") from None


def _optional_of(value: Any) -> type | None:
    """The dataclass that a reference of `_optional_fields` may be."""
    cls = value.get_type() if isinstance(value, FieldReference) else None
    return cls if _is_dataclass(cls) else None


def _copied_value(value: Any, memo: dict[Any, Any]) -> Any:
    if isinstance(value, FieldReference):
        section = _value(value)
        return copied(section, memo) if is_section(section) else copy.deepcopy(value, memo)
    if is_section(value):
        return copied(value, memo)
    if isinstance(value, list):
        return [_copied_value(element, memo) for element in value]
    return tuple(_copied_value(element, memo) for element in value) if type(value) is tuple else value


def is_section(value: Any) -> bool:
    """Whether a value has fields: a ConfigDict, a dict, or a dataclass that cannot be called, as an initialiser can."""
    if isinstance(value, ConfigDict | Mapping):
        return True
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and not callable(value)


def _items(config: Config) -> Iterable[tuple[str, Any]]:
    if isinstance(config, ConfigDict):
        return config.items(preserve_field_references=True)
    if isinstance(config, Mapping):
        return config.items()
    return [(field.name, getattr(config, field.name)) for field in dataclasses.fields(config)]


def _value(value: Any) -> Any:
    """The value of a reference, None where it cannot be computed yet; any other value itself."""
    with contextlib.suppress(Exception):
        return value.get() if isinstance(value, FieldReference) else value


def field_paths(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The paths of a config's fields and sections: ["task", "task.name", …]."""
    paths = []
    for name, value in config.items():
        paths.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            paths += field_paths(value, f"{prefix}{name}.")
    return paths


def fields_named(name: str, paths: Iterable[str]) -> list[str]:
    """Up to three of the paths that end in a name, or in several with dots between them; the shortest first."""
    ending = [path for path in paths if f".{path}".endswith(f".{name}")]
    return sorted(ending, key=lambda path: (path.count("."), path))[:3]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """One entry "path: old -> new" for every field in which two resolved configs differ."""
    lines = []
    for key in [*old, *(k for k in new if k not in old)]:
        where = f"{path}.{key}" if path else key
        a, b = old.get(key, _MISSING), new.get(key, _MISSING)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, where)
        elif a != b:
            lines.append(f"{where}: {a} -> {b}")
    return lines


class _Missing:
    def __repr__(self) -> str:
        return "(absent)"


_MISSING = _Missing()


def to_json(config: Mapping[str, Any]) -> str:
    """The text of config.json."""
    return json.dumps(config, indent=2) + "\n"
