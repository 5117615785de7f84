"""MNIST (LeCun et al., 1998) and Fashion-MNIST (Xiao et al., 2017), each from its four original idx files."""

import gzip
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.locations import find_file

URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
CONTENTS = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""The sha256 of what is in each: a file that was compressed anew is as good."""
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


class Images(NamedTuple):
    """Images uint8 [N, H, W] of greys, 0 black to 255 white, or [N, H, W, 3] of red, green and blue; and labels
    uint8 [N], 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


def load(data_dir: str | os.PathLike[str] | None = None) -> tuple[Images, Images]:
    """The 60 000 training and 10 000 test images of MNIST.

    Raises:
        ConfigError: a file is missing and cannot be downloaded, or is corrupt.
    """
    return _load("mnist", URL, CHECKSUMS, CONTENTS, data_dir)


def load_fashion(data_dir: str | os.PathLike[str] | None = None) -> tuple[Images, Images]:
    """The 60 000 training and 10 000 test images of Fashion-MNIST.

    Raises:
        ConfigError: a file is missing and cannot be downloaded, or is corrupt.
    """
    return _load("fashion_mnist", FASHION_URL, FASHION_CHECKSUMS, {}, data_dir)


def _load(
    folder: str,
    url: str,
    checksums: Mapping[str, str],
    contents: Mapping[str, str],
    data_dir: str | os.PathLike[str] | None,
) -> tuple[Images, Images]:
    paths = [
        find_file(f"{folder}/{name}", url + name, sha, data_dir, contents.get(name)) for name, sha in checksums.items()
    ]
    arrays = [read_idx(path) for path in paths]
    for images, labels, path in zip(arrays[::2], arrays[1::2], paths[1::2], strict=True):
        if images.shape != (len(labels), 28, 28) or labels.ndim != 1:
            raise ConfigError(f"{path} has labels {labels.shape} for images {images.shape}; expected N and N × 28 × 28")
        if labels.max(initial=0) > 9:
            raise ConfigError(f"{path}: label {labels.max()}; the classes are 0 to 9")
    return Images(arrays[0], arrays[1]), Images(arrays[2], arrays[3])


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in a gzipped idx file.

    The format: two zero bytes, the type (8: unsigned byte), the number of axes, each axis as a big-endian uint32, data.

    Raises:
        ConfigError: not gzip, not idx of unsigned bytes, or fewer or more bytes than the header says.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} is not a whole gzip file: {error}") from None
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ConfigError(
            f"{path} is not an idx file of unsigned bytes: it begins with {content[:4].hex() or 'nothing'}"
        )
    axes = content[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise ConfigError(f"{path} is truncated: its header has {len(content)} of {start} bytes")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != int(np.prod(shape)):
        raise ConfigError(f"{path} is truncated: its header says {shape}, {len(content) - start} bytes follow")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
