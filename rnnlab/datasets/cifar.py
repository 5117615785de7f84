"""CIFAR-10 (Krizhevsky, 2009) from the archive of its binary version."""

import os
from pathlib import Path

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.archives import members
from rnnlab.datasets.locations import find_file
from rnnlab.datasets.mnist import Images

URL = "https://www.cs.toronto.edu/~kriz/"
CHECKSUMS = {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}
TRAIN = tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6))
TEST = "cifar-10-batches-bin/test_batch.bin"
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
"""Bytes of an image: its label, then red, green and blue, each row by row."""


def load(data_dir: str | os.PathLike[str] | None = None) -> tuple[Images, Images]:
    """The 50 000 training and 10 000 test images, uint8 [N, 32, 32, 3].

    Raises:
        ConfigError: the archive is missing and cannot be downloaded, or is corrupt.
    """
    ((name, checksum),) = CHECKSUMS.items()
    path = find_file(f"cifar10/{name}", URL + name, checksum, data_dir)
    files = _files(path)
    return read_batches(path, {name: files[name] for name in TRAIN}), read_batches(path, {TEST: files[TEST]})


def _files(path: Path) -> dict[str, bytes]:
    """The bytes of the six files in the archive."""
    with members(path) as contents:
        files = {name: content.read() for name, content in contents if name in (*TRAIN, TEST)}
    missing = [name for name in (*TRAIN, TEST) if name not in files]
    if missing:
        raise ConfigError(f"{path} has no {missing[0]}; the binary version of CIFAR-10 has six files")
    return files


def read_batches(path: Path, files: dict[str, bytes]) -> Images:
    """The images of files of the binary version, one behind the other.

    path: the archive that they are in.

    Raises:
        ConfigError: a file is empty, ends within an image, or has a label above 9.
    """
    for name, content in files.items():
        if len(content) % RECORD or not content:
            raise ConfigError(f"{path}: {name} has {len(content)} bytes; expected {RECORD} for each image")
    records = np.concatenate([np.frombuffer(content, np.uint8) for content in files.values()]).reshape(-1, RECORD)
    labels = records[:, 0].copy()
    if labels.max() > 9:
        raise ConfigError(f"{path}: label {labels.max()} of image {int(labels.argmax())}; the classes are 0 to 9")
    return Images(np.ascontiguousarray(records[:, 1:].reshape(-1, *SHAPE).transpose(0, 2, 3, 1)), labels)
