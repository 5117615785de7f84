"""Configs as they are written: read from a file, changed by the command line, made plain, compared.

What the fields of a run are is in `records/run_config.py`.
"""

import contextlib
import copy
import dataclasses
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError
from ml_collections.config_flags import config_path

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.outside import look_in, note_imports

Config = Any
"""A ConfigDict, a dict or a dataclass, with such ones in it."""


def load_file(reference: str) -> ConfigDict:
    """The config that a file's `get_config(preset)` returns, its references as they are: what is set later counts for
    them, too.

    Args:
        reference: "path.py" or "path.py:preset".

    Raises:
        ConfigError: no such file, no such preset, or an error while it runs.
    """
    plain = read_file(reference)
    if "base" in plain and "task" not in plain:
        raise ConfigError(f"{reference}: the file of a sweep, for python -m rnnlab.sweep; this takes a run's")
    try:
        return ConfigDict({"import_from": folder_of(reference)} | plain)
    except Exception as error:
        raise ConfigError(f"{reference}: {type(error).__name__}: {error}") from None


def read_file(reference: str) -> dict[str, Any]:
    """The same as plain dicts, whose keys may be paths such as "model.cell.features", as in a sweep's file.

    What stands behind the first colon is the argument of `get_config`, which decides what it takes; PRESETS, where a
    file has it, says what to name when it refuses.
    """
    path, colon, argument = reference.partition(":")
    arguments = [argument] if colon else []
    file = Path(os.path.expanduser(path))
    look_in(folder_of(reference))
    if not os.path.isfile(file):
        beside = sorted(str(p) for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
        raise ConfigError(unknown("config", path, beside or [str(p) for p in sorted(Path("configs").glob("*.py"))]))
    spec = importlib.util.spec_from_file_location(f"rnnlab_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config: {path} is not a Python file; a config is one, as configs/adding.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # A dataclass looks there for the types of its fields.
    before = set(sys.modules)
    try:
        spec.loader.exec_module(module)
        signature = inspect.signature(module.get_config)
        if argument and not signature.parameters:
            raise ConfigError(_unknown_preset(module, path, argument))
        if not arguments and not _callable_without_arguments(signature):
            presets = getattr(module, "PRESETS", None)
            known = f"; known: {', '.join(sorted(map(str, presets)))}" if presets else ""
            raise ConfigError(f"{path}: names no preset; get_config needs one, as in {path}:NAME{known}")
        try:
            config = module.get_config(*arguments)
        except Exception:
            if arguments and argument not in getattr(module, "PRESETS", [argument]):
                raise ConfigError(_unknown_preset(module, path, argument)) from None
            raise
        if not _is_section(config):
            raise ConfigError(f"{path}: get_config returned {type(config).__name__}; it must return a ConfigDict")
        return _with_references(config)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # Whatever a user's file raises: one line that names the file.
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from None
    finally:
        note_imports(before)


def folder_of(reference: str) -> tuple[str, ...]:
    """Where a config imports its helpers from, and what it names by `package.module:Name`: beside its file."""
    return (os.path.dirname(os.path.abspath(os.path.expanduser(reference.partition(":")[0]))),)


def _unknown_preset(module: Any, path: str, argument: str) -> str:
    return unknown(f"preset of {path}", argument, getattr(module, "PRESETS", None) or ())


def _callable_without_arguments(signature: inspect.Signature) -> bool:
    try:
        signature.bind()
    except TypeError:
        return False
    return True


def set_paths(
    config: Config,
    overrides: Mapping[str, Any],
    kept_by_name: Mapping[str, tuple[str, ...]],
    complete: bool = True,
) -> dict[str, Any]:
    """The config as a plain dict with `{"task.length": 400}` set.

    A field that refers to another (`FieldReference`) changes with it, and the other with it, unless it is computed.
    A name given to a section (`model.cell.name=lstm`, or `model.cell=lstm`) that had another one starts that section
    anew, since its fields belong to the old name.

    Args:
        config: what a file returned.
        overrides: values by path, as `config_path` of ml_collections has them: "a.b", "a['b']", "values[0]".
        kept_by_name: of some sections the fields that mean the same under every name, so that a new name keeps them.
        complete: whether every reference must have a value; else None stands for it.

    Raises:
        ConfigError: a path that leads through something that is not a section, or to no element of a list.
    """
    plain = _with_references(config)
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
            parents, node, last = [*parents, last], node[last], "name"
        if last == "name" and _value(node.get("name")) != value:
            kept = {k: v for k, v in node.items() if k in kept_by_name.get(".".join(parents), ())}
            node.clear()
            node.update(kept)
        if isinstance(node.get(last), FieldReference):
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
        except Exception as error:  # Whatever a computed one meets in what it is computed of.
            if not complete:
                return None
            if isinstance(error, RequiredValueError):
                raise ConfigError(f"{path}: a required placeholder without a value") from None
            raise ConfigError(f"{path}: cannot be computed: {type(error).__name__}: {error}") from None
    if _is_section(value):
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
        isinstance(value, FieldReference) or (_is_section(value) and refers(value)) for _, value in _items(config)
    )


def _with_references(config: Config, copied: dict[int, Any] | None = None) -> dict[str, Any]:
    """Nested plain dicts of its own whose references refer to each other as they did; copied: `deepcopy`'s memory."""
    copied = {} if copied is None else copied
    plain = {}
    for key, value in _items(config):
        if isinstance(value, FieldReference):
            value = copy.deepcopy(value, copied)
        plain[key] = _with_references(value, copied) if _is_section(value) else value
    return plain


def _is_section(value: Any) -> bool:
    """Whether a value has fields: a ConfigDict, a dict, a dataclass that is not itself what a section stands for."""
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
    """What a reference refers to; None where that cannot be computed yet."""
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
    found = []
    for key in [*old, *(k for k in new if k not in old)]:
        where = f"{path}.{key}" if path else key
        a, b = old.get(key, _MISSING), new.get(key, _MISSING)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, where)
        elif a != b:
            found.append(f"{where}: {a} -> {b}")
    return found


class _Missing:
    def __repr__(self) -> str:
        return "(absent)"


_MISSING = _Missing()


def to_json(config: Mapping[str, Any]) -> str:
    """The text of config.json."""
    return json.dumps(config, indent=2) + "\n"
