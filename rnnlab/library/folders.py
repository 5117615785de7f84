"""The folder that a user names in Python."""

import os
from pathlib import Path

from rnnlab.config.errors import ConfigError
from rnnlab.files.path_flag import check_path


def named_folder(path: str | Path) -> Path:
    """The folder of this name, ~ standing for home.

    Raises:
        ConfigError: it is an address, as gs://bucket/run.
    """
    check_path(path)
    return Path(os.path.expanduser(path))


def existing_folder(path: str | Path) -> Path:
    """`named_folder` of one that is there.

    Raises:
        ConfigError: it is not one.
    """
    folder = named_folder(path)
    if not folder.exists():
        raise ConfigError(f"{folder} is missing; name the folder of a run or a sweep, as runs/adding")
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; name that of a run or a sweep, as runs/adding")
    return folder
