"""Reads a config's file: runs it and takes what its `get_config` returns."""

import importlib.util
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.outside import look_in, note_imports
from rnnlab.config.overrides import copied, is_section
from rnnlab.config.references import READY, read_reference, ready_configs


def load_file(reference: str) -> ConfigDict:
    """The config that a file's `get_config` returns. Its references stay references, which follow what is set later.

    Args:
        reference: "path.py", or "path.py:argument" for `get_config("argument")`; or "rnnlab:name" in place of a path.

    Raises:
        ConfigError: no such file, an argument that `get_config` refuses, or an error while the file runs.
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

    `get_config` decides which arguments it takes. When it refuses one that the file's PRESETS do not list, the message
    names those that they list.
    """
    path, file, argument = read_reference(reference)
    arguments = [] if argument is None else [argument]
    look_in(folder_of(reference))
    if not os.path.isfile(file):
        raise ConfigError(unknown("config", path, _others(file)))
    spec = importlib.util.spec_from_file_location(f"rnnlab_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--config: {path} is not a Python file; a config is one, as configs/adding.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # A dataclass looks there for the types of its fields.
    before, writes = set(sys.modules), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # Else a file changed twice in a second is read as it was, and its folder gets one.
    try:
        spec.loader.exec_module(module)
        signature = inspect.signature(module.get_config)
        if argument and not signature.parameters:
            raise ConfigError(_unknown_preset(module, path, argument))
        if not arguments and not _callable_without_arguments(signature):
            presets = getattr(module, "PRESETS", None)
            listed = f"; known: {', '.join(sorted(map(str, presets)))}" if presets else ""
            raise ConfigError(f"{path}: names no preset; get_config needs one, as in {path}:NAME{listed}")
        try:
            config = module.get_config(*arguments)
        except Exception:
            if argument is not None and argument not in getattr(module, "PRESETS", [argument]):
                raise ConfigError(_unknown_preset(module, path, argument)) from None
            raise
        if not is_section(config):
            raise ConfigError(f"{path}: get_config returned {type(config).__name__}; it must return a ConfigDict")
        return copied(config)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # A user's file may raise anything; the message is one line all the same.
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from None
    finally:
        sys.dont_write_bytecode = writes
        note_imports(before)


def folder_of(reference: str) -> tuple[str, ...]:
    """`Reference.folder` of a reference, as the field `import_from` has it."""
    return (read_reference(reference).folder,)


def _others(file: Path) -> list[str]:
    """The configs that may have been meant by a path that is none: those beside it, else those of the project."""
    beside = sorted(file.parent.glob("*.py")) if file.parent.is_dir() else []
    files = beside or sorted(Path("configs").glob("*.py"))
    return [str(each) for each in files] or [READY + name for name in ready_configs()]


def _unknown_preset(module: Any, path: str, argument: str) -> str:
    return unknown(f"preset of {path}", argument, getattr(module, "PRESETS", None) or ())


def _callable_without_arguments(signature: inspect.Signature) -> bool:
    try:
        signature.bind()
    except TypeError:
        return False
    return True
