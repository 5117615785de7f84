"""Configs as they are written: read from a file, changed by the command line, made plain, compared.

What the fields of a run are is in `records/run_config.py`.
"""

import ast
import contextlib
import copy
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.outside import look_in, note_imports


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

    Without a preset `get_config` is called without one. A file that has no PRESETS takes any that `get_config` does.
    """
    path, _, preset = reference.partition(":")
    file = Path(os.path.expanduser(path))
    look_in(folder_of(reference))
    before = set(sys.modules)
    if not os.path.isfile(file):
        beside = sorted(str(p) for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
        raise ConfigError(unknown("config", path, beside or [str(p) for p in sorted(Path("configs").glob("*.py"))]))
    spec = importlib.util.spec_from_file_location(f"rnnlab_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config: {path} is not a Python file; a config is one, as configs/adding.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        presets = getattr(module, "PRESETS", None)
        parameters = list(inspect.signature(module.get_config).parameters.values())
        if preset and (not parameters if presets is None else preset not in presets):
            raise ConfigError(unknown(f"preset of {path}", preset, presets or ()))
        if not preset and parameters and parameters[0].default is inspect.Parameter.empty:
            known = f"; known: {', '.join(sorted(map(str, presets)))}" if presets else ""
            raise ConfigError(f"{path}: names no preset; get_config needs one, as in {path}:NAME{known}")
        config = module.get_config(preset) if preset else module.get_config()
        if not isinstance(config, ConfigDict | dict):
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


def set_paths(
    config: ConfigDict | Mapping[str, Any], overrides: Mapping[str, Any], kept_by_name: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    """The config as a plain dict with `{"task.length": 400}` set.

    A field that refers to another (`FieldReference`) changes with it, and the other with it, unless it is computed.
    A name given to a section (`model.cell.name=lstm`, or `model.cell=lstm`) that had another one starts that section
    anew, since its fields belong to the old name.

    kept_by_name: of some sections the fields that mean the same under every name, so that a new name keeps them.

    Raises:
        ConfigError: a path that leads through something that is no section.
    """
    plain = _with_references(config)
    # A section's name comes before its fields, whatever their order on the command line.
    order = sorted(overrides, key=lambda path: path.removesuffix(".name").count("."))
    for path, value in ((path, overrides[path]) for path in order):
        *parents, last = path.split(".")
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
    return to_dict(plain)


def literal(text: str) -> Any:
    """What a text on the command line stands for."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None, "inf": float("inf")}.get(text.lower(), text)


def to_dict(config: ConfigDict | Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested plain dicts, with the values of references; path: where they stand in the config.

    Raises:
        ConfigError: a required placeholder without a value, or a computed reference that fails.
    """
    plain = {}
    for key, value in _items(config):
        where = f"{path}.{key}" if path else str(key)
        try:
            value = value.get() if isinstance(value, FieldReference) else value
        except RequiredValueError:
            raise ConfigError(f"{where}: a required placeholder without a value") from None
        except Exception as error:  # Whatever a computed one meets in what it is computed of.
            raise ConfigError(f"{where}: cannot be computed: {type(error).__name__}: {error}") from None
        plain[key] = to_dict(value, where) if isinstance(value, ConfigDict | Mapping) else value
    return plain


def refers(config: ConfigDict | Mapping[str, Any]) -> bool:
    """Whether a config has a reference."""
    return any(
        isinstance(value, FieldReference) or (isinstance(value, ConfigDict | Mapping) and refers(value))
        for _, value in _items(config)
    )


def _with_references(config: ConfigDict | Mapping[str, Any], copied: dict[int, Any] | None = None) -> dict[str, Any]:
    """Nested plain dicts of its own whose references refer to each other as they did; copied: `deepcopy`'s memory."""
    copied = {} if copied is None else copied
    plain = {}
    for key, value in _items(config):
        if isinstance(value, FieldReference):
            value = copy.deepcopy(value, copied)
        plain[key] = _with_references(value, copied) if isinstance(value, ConfigDict | Mapping) else value
    return plain


def _items(config: ConfigDict | Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return config.items(preserve_field_references=True) if isinstance(config, ConfigDict) else config.items()


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
