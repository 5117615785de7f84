"""The files of a figure: its PNG, and beside it the formats that --format (RNNLAB_FORMAT) asks for."""

import os
from collections.abc import Sequence
from pathlib import Path

from rnnlab.config.errors import ConfigError, unknown

FORMATS = ("png", "pdf", "svg")
VARIABLE = "RNNLAB_FORMAT"
"""The environment's variable that says which; the flag --format sets it, for processes that a command starts, too."""


def asked_formats() -> list[str]:
    """The formats that every figure is written in, png the first.

    Raises:
        ConfigError: the variable names another.
    """
    names = map(str.strip, os.environ.get(VARIABLE, "").split(","))
    return checked_formats(VARIABLE, [name for name in names if name])


def checked_formats(where: str, names: Sequence[str]) -> list[str]:
    """The formats of these names, png the first, each once; where: the flag or variable that names them.

    Raises:
        ConfigError: there is another.
    """
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"{where}: {unknown('format of figures', name, FORMATS)}")
    return list(dict.fromkeys(["png", *names]))


def figure_files(path: Path) -> list[Path]:
    """The files that a figure is written to: the path itself, and beside it those of the other formats asked for, of
    which png is none unless the path is one.

    Raises:
        ConfigError: the path is no figure's.
    """
    if path.suffix and path.suffix[1:] not in FORMATS:
        raise ConfigError(f"{path}: {unknown('format of figures', path.suffix[1:], FORMATS)}")
    return [path, *(path.with_suffix(f".{name}") for name in asked_formats()[1:] if f".{name}" != path.suffix)]
