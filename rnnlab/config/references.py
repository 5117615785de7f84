"""What --config and a sweep's `base` name: the file of a config, or rnnlab:NAME, a config that comes with rnnlab.

Running such a file is in `reading.py`.
"""

import os
from pathlib import Path
from typing import NamedTuple

from rnnlab.config.errors import ConfigError, unknown

READY = "rnnlab:"
"""Stands before the name of a config that comes with rnnlab."""


class Reference(NamedTuple):
    """A config's file and the argument of its `get_config`."""

    name: str
    """As it is written, without the argument: "configs/adding.py" or "rnnlab:adding"."""
    file: Path
    argument: str | None

    @property
    def folder(self) -> str:
        """Where the config imports its helpers from, and what it names by `package.module:Name`: beside its file."""
        return os.path.dirname(os.path.abspath(self.file))


def read_reference(text: str) -> Reference:
    """The parts of "path.py", "path.py:argument", "rnnlab:name" or "rnnlab:name:argument".

    Raises:
        ConfigError: no config of this name comes with rnnlab, or it is an address, as gs://bucket/adding.py. Whether
            there is a file is not asked.
    """
    ready = text.startswith(READY)
    name, colon, argument = text.removeprefix(READY).partition(":") if ready else text.partition(":")
    if argument.startswith("//"):
        raise ConfigError(f"{text!r} is an address, and configs are read from files alone; copy it, and name the copy")
    if not ready:
        return Reference(name, Path(os.path.expanduser(name)), argument if colon else None)
    files = ready_configs()
    if name not in files:
        raise ConfigError(unknown("config", name, files, READY))
    return Reference(READY + name, files[name], argument if colon else None)


def ready_configs() -> dict[str, Path]:
    """The configs that come with rnnlab, {"adding": its file, "sweeps/cell_by_length": …}, in the order of names.

    A wheel has them in the package; a clone beside it, where they may be edited.
    """
    package = Path(os.path.abspath(__file__)).parents[1]
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in folder.rglob("*.py")}
    return dict(sorted(files.items()))
