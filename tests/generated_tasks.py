"""Every task of the table at a size that compiles in seconds, those with files on small ones that are written here."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnlab.config.fields import takes
from rnnlab.datasets import mnist
from rnnlab.tasks import TASKS
from tests.generated_series import write_set
from tests.generated_timit import SPEAKERS, write_corpus

WORDS = ["a", "b", "c", "d", "e", "f", "g"]
SPLITS = {"train": 40, "valid": 12, "test": 12}
IMAGES, HELD_OUT = 24, 12
SIZES = {"validation_size": 8, "test_size": 8}


def _text(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Three splits of sentences of 1 to 6 words."""
    (folder / "text").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        sentences = [" ".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in range(count)]
        (folder / "text" / f"{split}.txt").write_text("".join(f"{each}\n" for each in sentences))
    return {"dataset": "text", "source": str(folder / "text")}


def _images(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """MNIST's four files with random digits, whose checksums are declared the right ones."""
    (folder / "mnist").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in mnist.CHECKSUMS:
        shape = (IMAGES, 28, 28) if "images" in name else (IMAGES,)
        array = rng.integers(0, 256 if "images" in name else 10, shape, np.uint8)
        header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
        content = gzip.compress(header + array.tobytes())
        (folder / "mnist" / name).write_bytes(content)
        patch.setitem(mnist.CHECKSUMS, name, hashlib.sha256(content).hexdigest())
    return {"order": "rows", "validation_size": HELD_OUT}


def _speech(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    corpus = folder / "TIMIT"
    if not corpus.exists():
        write_corpus(corpus, SPEAKERS, ("SX1", "SX2", "SX3"), phones=2)
    return {"folder": str(corpus), "cache_dir": str(folder / "cache"), "bucket": 1}


def _time_series(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_set(folder)
    return {"path": "Ramps"}


_FIELDS: dict[str, Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]] = {
    "adding": lambda folder, patch: {"length": 6} | SIZES,
    "multiplication": lambda folder, patch: {"length": 11} | SIZES,
    "xor": lambda folder, patch: {"length": 11} | SIZES,
    "copying": lambda folder, patch: {"length": 3} | SIZES,
    "denoising": lambda folder, patch: {"length": 3} | SIZES,
    "memorization": lambda folder, patch: {"length": 3} | SIZES,
    "temporal_order": lambda folder, patch: {"length": 12} | SIZES,
    "random_permutation": lambda folder, patch: {"length": 6} | SIZES,
    "parity": lambda folder, patch: {"length": 8} | SIZES,
    "dyck": lambda folder, patch: {"length": 8} | SIZES,
    "language_model": lambda folder, patch: _text(folder, patch) | {"window": 5},
    "sentences": lambda folder, patch: _text(folder, patch) | {"longest": 5},
    "pixels": _images,
    "forecast": lambda folder, patch: {"points": 300, "context": 5},
    "speech": _speech,
    "time_series": _time_series,
}
"""A task that is not here has its defaults."""


SYMBOLS = ("denoising", "memorization", "temporal_order", "random_permutation", "parity", "dyck")
"""Tasks of tokens that are drawn, as `copying` is, which the default tests have."""
FURTHER = (*SYMBOLS, "multiplication", "xor", "forecast", "time_series")
"""These, those of two marks, as `adding` is, and tasks of numbers from files, as `speech` is."""


def tasks_in_tiers(further: pytest.MarkDecorator = pytest.mark.slow) -> list[Any]:
    """A case for each task of the table; those of a kind that another one shows are marked `further`."""
    return [pytest.param(name, marks=further if name in FURTHER else ()) for name in sorted(TASKS)]


def small_task(name: str, folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The section of a task, its files in a folder; skips a task with files for which none are written here."""
    if name not in _FIELDS and takes(TASKS[name], "data_dir"):
        pytest.skip(f"{name} reads files, and tests/generated_tasks.py writes none for it")
    fields = _FIELDS[name](folder, patch) if name in _FIELDS else {}
    return {"name": name, **fields}
