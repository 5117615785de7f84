"""Where data files are found: the folder that the user names, else RNNLAB_DATA, else our cache, else the net; and where
what is made of them is kept."""

import gzip
import hashlib
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from rnnlab.config.errors import ConfigError
from rnnlab.files.cache import cache_root, named_folder

with warnings.catch_warnings():
    # In a notebook without ipywidgets; pooch imports a progress bar that is not used here.
    warnings.filterwarnings("ignore", "IProgress not found")
    import pooch


def data_root(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The data folder: data_dir, else the environment's RNNLAB_DATA, else our cache folder."""
    chosen = data_dir or os.environ.get("RNNLAB_DATA")
    return named_folder(chosen) if chosen else cache_root()


def cached(folder: Path) -> Path:
    """The folder of our cache that stands for a data folder into which nothing is to be written."""
    where = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:8]
    return cache_root() / f"{folder.name}-{where}"


def writable(folder: Path) -> bool:
    """Whether files can be made in a folder that may not exist yet. A read-only mode counts for root too."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files below a folder, sorted; links are followed, hidden files and folders left out.

    Args:
        above: the folders that it is reached through, without links.

    Raises:
        ConfigError: a link leads nowhere, or back to a folder that it is in; a folder cannot be read.
    """
    above = (*above, folder.resolve())
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror or error}") from None
    for path in entries:
        check_link(path)
        if not path.is_dir():
            yield path
        elif path.is_symlink() and path.resolve() in above:
            raise ConfigError(f"{path}: a link to {os.readlink(path)}, a folder that it is in")
        else:
            yield from files_below(path, above)


def check_link(path: Path) -> None:
    """Raises ConfigError if a path is a link that leads nowhere."""
    if path.is_symlink() and not path.exists():
        raise ConfigError(f"{path}: a link to {os.readlink(path)}, which is not there")


def find_file(
    name: str, url: str, checksum: str, data_dir: str | os.PathLike[str] | None = None, content: str | None = None
) -> Path:
    """The path of a data file, downloaded if it is not there, its checksum verified.

    Args:
        name: path below the data folder, as "mnist/train-images-idx3-ubyte.gz".
        url: where it is downloaded from.
        checksum: its sha256, 64 hexadecimal digits, or "md5:" and 32.
        content: of a gzip file, the checksum of what is in it, which may have been compressed anew.
        data_dir: as in `data_root`.

    Raises:
        ConfigError: a wrong checksum (the file is left as it is), a link to nowhere, or neither file nor network.
    """
    root = data_root(data_dir)
    path = root / name
    check_link(path)
    if path.exists():
        check_file(path, checksum, url, content)
        return path
    try:
        pooch.retrieve(url, ":".join(_kind_and_digits(checksum)), fname=path.name, path=path.parent, progressbar=False)
    except Exception as error:  # Whatever the network, the server or the disk did, the user's way out is the same.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{path} is missing and could not be downloaded from {url} ({reason[:200]}); "
            f"put the file there by hand, or name its folder with --data_dir or RNNLAB_DATA"
        ) from None
    return path


def check_file(path: Path, checksum: str, source: str, content: str | None = None) -> None:
    """Raises ConfigError if a file has another checksum. source: where it is to be had; the rest as of `find_file`."""
    kind, digits = _kind_and_digits(checksum)
    hash_of_file = pooch.file_hash(str(path), kind)
    if hash_of_file != digits and (content is None or _content_hash(path) != content):
        raise ConfigError(
            f"{path} is truncated or corrupt: expected {kind} {digits}, found {hash_of_file}; "
            f"delete it to download it again, or replace it by {source}"
        )


def _kind_and_digits(checksum: str) -> tuple[str, str]:
    kind, _, digits = checksum.rpartition(":")
    return kind or "sha256", digits


def _content_hash(path: Path) -> str | None:
    """The sha256 of what is in a gzip file; None where it is not one, or not whole."""
    content = hashlib.sha256()
    try:
        with gzip.open(path, "rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
    except (OSError, EOFError, zlib.error):
        return None
    return content.hexdigest()


def find_given(
    what: str,
    name: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    accepts: Callable[[Path], bool] = Path.exists,
) -> Path:
    """The path that the user named: as it stands, else one below the data folder (see `data_root`).

    what: for the message, such as "alignments".

    Raises:
        ConfigError: it is in neither place, or a link that leads nowhere is.
    """
    paths = [Path(name).expanduser(), data_root(data_dir) / name]
    for path in paths:
        check_link(path)
        if accepts(path):
            return path
    looked = " and ".join(dict.fromkeys(str(path.absolute()) for path in paths))
    raise ConfigError(f"{what} {str(name)!r} not found; looked for {looked}")
