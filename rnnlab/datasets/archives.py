"""Archives of data files, tar.gz or zip: their files one by one, and whether they are whole."""

import contextlib
import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO

from rnnlab.config.errors import ConfigError
from rnnlab.files import whole_file

Files = Generator[tuple[str, IO[bytes]], None, None]


@contextlib.contextmanager
def members(archive: Path) -> Iterator[Files]:
    """Name and content of each file in an archive, in its order; a content is read before the next is asked for.

    Raises:
        ConfigError: the archive is cut short or of another make, seen while it is read, too.
    """
    try:
        with contextlib.closing(_zipped(archive) if archive.suffix == ".zip" else _tarred(archive)) as files:
            yield files
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{archive} cannot be unpacked: {error}") from None


def unpack(archive: Path, folder: Path, name_of: Callable[[str], str | None]) -> None:
    """Writes files of an archive to a folder, each whole or not at all.

    name_of: from a name in the archive to one in the folder; None for a file that is not needed.

    Raises:
        ConfigError: the archive is not whole, or nothing can be written.
    """
    with members(archive) as files:
        for name, content in files:
            if (needed := name_of(name)) is not None:
                with whole_file(folder / needed) as file:
                    while block := content.read(1 << 22):
                        file.write(block)


def _tarred(archive: Path) -> Files:
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name.removeprefix("./"), content


def _zipped(archive: Path) -> Files:
    with zipfile.ZipFile(archive) as pack:
        for info in pack.infolist():
            if not info.is_dir():
                yield info.filename, io.BytesIO(pack.read(info))
