"""The folder in which everything is kept that can be made again: downloads, what is made of data, compiled code."""

import os
from pathlib import Path

import platformdirs

from rnnlab.files.path_flag import check_path


def cache_root() -> Path:
    """Our cache folder: RNNLAB_CACHE, which the flag --cache_dir sets, else the system's place for a user's caches."""
    return named_cache() or Path(platformdirs.user_cache_dir("rnnlab"))


def named_cache() -> Path | None:
    """The cache folder that the user names, if any."""
    chosen = os.environ.get("RNNLAB_CACHE")
    return named_folder(chosen) if chosen else None


def named_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of a name, ~ standing for home.

    Raises:
        ConfigError: it is an address.
    """
    check_path(path)
    return Path(path).expanduser()
