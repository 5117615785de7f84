"""Where data files are found: the folder that the user names, else RNNLAB_DATA, else the user's cache, else the net."""

import os
from collections.abc import Callable
from pathlib import Path

import pooch

from rnnlab.build import ConfigError


def data_root(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The data folder: data_dir, else the environment's RNNLAB_DATA, else the user's cache folder."""
    chosen = data_dir or os.environ.get("RNNLAB_DATA")
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache("rnnlab"))


def find_file(name: str, url: str, sha256: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The path of a data file, downloaded if it is not there, its checksum verified.

    Args:
        name: path below the data folder, as "mnist/train-images-idx3-ubyte.gz".
        url: where it is downloaded from.
        sha256: its checksum, 64 hexadecimal digits.
        data_dir: as in `data_root`.

    Raises:
        ConfigError: a wrong checksum (the file is left as it is), or neither file nor network.
    """
    root = data_root(data_dir)
    path = root / name
    if path.exists():
        found = pooch.file_hash(str(path))
        if found != sha256:
            raise ConfigError(
                f"{path} is truncated or corrupt: expected sha256 {sha256}, found {found}; "
                f"delete it to download it again, or replace it by {url}"
            )
        return path
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=path.parent, progressbar=False)
    except Exception as error:  # Whatever the network, the server or the disk did, the user's way out is the same.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{path} is missing and could not be downloaded from {url} ({reason[:200]}); "
            f"put the file there by hand, or name its folder with --data_dir or RNNLAB_DATA"
        ) from None
    return path


def find_given(
    what: str,
    name: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    accepts: Callable[[Path], bool] = Path.exists,
) -> Path:
    """What the user named: a path as it stands, else one below the data folder (see `data_root`).

    what: for the message, such as "alignments".

    Raises:
        ConfigError: it is in neither place.
    """
    places = [Path(name).expanduser(), data_root(data_dir) / name]
    for place in places:
        if accepts(place):
            return place
    looked = " and ".join(dict.fromkeys(str(place.absolute()) for place in places))
    raise ConfigError(f"{what} {str(name)!r} not found; looked for {looked}")
