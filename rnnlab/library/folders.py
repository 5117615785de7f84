"""The folder that a user names in Python."""

import os
from pathlib import Path

from rnnlab.config.errors import ConfigError


def existing_folder(path: str | Path) -> Path:
    """The folder of this name, ~ standing for home.

    Raises:
        ConfigError: it is not one.
    """
    folder = Path(os.path.expanduser(path))
    if not folder.exists():
        raise ConfigError(f"{folder} is missing; name the folder of a run or a sweep, as runs/adding")
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; name that of a run or a sweep, as runs/adding")
    return folder
