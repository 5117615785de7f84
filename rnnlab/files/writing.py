"""Files written whole or not at all, and removed, with one line where that cannot be.

The libraries for this (atomicwrites) are no longer maintained.
"""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.files.reading import as_typed


class Unwritable(ConfigError):
    """A file cannot be written: the disk is full or read-only, or the folder is another user's."""


def write_arrays(path: Path, arrays: Mapping[str, Any], compressed: bool = False) -> None:
    """Writes a NumPy archive whole or not at all.

    Raises:
        Unwritable: it cannot be written.
    """
    content = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(content, **arrays)
    write_bytes(path, content.getvalue())


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
    """Writes a safetensors file whole or not at all; texts: for its header.

    Raises:
        Unwritable: it cannot be written.
    """
    from safetensors.numpy import save

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # The library copies memory as it is.
    write_bytes(path, save(whole, metadata=dict(texts)))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, and the folders above it. It does not wait for the disk, as a sweep writes
    thousands of small ones.

    Raises:
        Unwritable: it cannot be written; nothing is left behind.
    """
    with whole_file(path, waits=False) as file:
        file.write(content)


@contextlib.contextmanager
def whole_file(path: Path, waits: bool = True) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name only once it is whole, in folders that are made.

    Args:
        waits: until all of it is on the disk, so that a machine that stops leaves no name without its content.

    Raises:
        Unwritable: it cannot be written; nothing is left behind.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            if waits:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8.

    Raises:
        Unwritable: it cannot be written.
    """
    write_bytes(path, as_typed(text).encode())


def remove(path: Path) -> None:
    """Removes a file of an earlier result, if there is one.

    Raises:
        Unwritable: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:
        pass  # Then no such file exists.
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> Unwritable:
    """The line about a file that the system does not take."""
    if isinstance(error, FileExistsError):  # mkdir raises it for a file: it takes a folder that is there.
        return Unwritable(f"cannot write {path}: {path.parent} is not a folder")
    return Unwritable(f"cannot write {path}: {error.strerror or error}")
