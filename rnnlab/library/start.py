"""Starts a run or a sweep from Python; `rnnlab.library` has the doors."""

import atexit
import contextlib
import inspect
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import load_file
from rnnlab.library.folders import named_folder
from rnnlab.library.loaded_run import LoadedRun, one_line
from rnnlab.library.loaded_sweep import LoadedSweep
from rnnlab.records.run_config import resolve_config, set_fields
from rnnlab.sweeps.runner import run_sweep
from rnnlab.sweeps.spec.space import load_sweep, resolve_sweep
from rnnlab.training.loop import train_and_evaluate


def start_training(
    config: str | Path | Mapping[str, Any],
    workdir: str | Path | None,
    data_dir: str | None,
    overrides: Mapping[str, Any],
    quiet: bool,
) -> LoadedRun:
    """See `rnnlab.run_training`."""
    folder = folder_of(workdir)
    with one_line(), without_lines(quiet):
        section = load_file(str(config)) if isinstance(config, str | Path) else by_names(_section(config, "config"))
        overrides = _by_paths(overrides)
        train_and_evaluate(resolve_config(set_fields(section, by_names(overrides))), folder, data_dir)
    return LoadedRun(folder, data_dir=data_dir)


def start_sweep(
    sweep: str | Path | Mapping[str, Any],
    workdir: str | Path | None,
    data_dir: str | None,
    overrides: Mapping[str, Any],
    replicas: int | None,
    quiet: bool,
) -> LoadedSweep:
    """See `rnnlab.run_sweep`."""
    if type(replicas) not in (int, type(None)):
        raise ConfigError(f"replicas: {replicas!r} is no whole number")
    if replicas is not None and replicas < 1:
        raise ConfigError(f"replicas: {replicas} is below 1")
    folder = folder_of(workdir)
    with one_line(), without_lines(quiet):
        if isinstance(sweep, str | Path):
            section = load_sweep(str(sweep), {})
        else:
            section = resolve_sweep(by_names(_section(sweep, "sweep")), "the sweep")
        section |= {"overrides": {**section["overrides"], **by_names(_by_paths(overrides))}}
        run_sweep(section, folder, data_dir, at_most=replicas)
    return LoadedSweep(folder, data_dir)


def _section(value: Any, name: str) -> Any:
    if isinstance(value, str | bool | int | float | list | tuple | None):
        raise ConfigError(f"{name}: {value!r} is neither a path nor a mapping")
    return value


def _by_paths(overrides: Any) -> Mapping[str, Any]:
    if not isinstance(overrides, Mapping):
        raise ConfigError(f"overrides: {overrides!r} is no mapping, as {{'task.length': 200}}")
    for path in overrides:
        if not isinstance(path, str):
            raise ConfigError(f"overrides: {path!r} is no path of a field, as 'task.length'")
    return overrides


def folder_of(workdir: str | Path | None) -> Path:
    """The folder of this name, ~ standing for home; for None a new one that is removed when Python ends."""
    if workdir is not None:
        return named_folder(workdir)
    folder = tempfile.mkdtemp(prefix="rnnlab-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextlib.contextmanager
def without_lines(quiet: bool) -> Iterator[None]:
    """Nothing is printed in this block, if wanted; warnings and errors are."""
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        yield


def by_names(value: Any) -> Any:
    """A config in which a class or function, as the cell of a notebook, is its name `module:Name`.

    Raises:
        ConfigError: it is not found by that name.
    """
    if isinstance(value, Mapping):
        return {key: by_names(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(by_names, value))
    if not (isinstance(value, type) or inspect.isfunction(value)):
        return value
    module, name = value.__module__, value.__qualname__
    if getattr(sys.modules.get(module), name, None) is not value:
        raise ConfigError(f"{name} cannot be named in a config: define it at the top of {module}, by def or class")
    return f"{module}:{name}"
