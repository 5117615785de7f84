"""Speech features: log-mel filter banks with Δ and ΔΔ, normalised, computed once into a cache file.

Which recordings, in which order and by whose statistics, is the corpus' part (`timit.py`).
"""

import contextlib
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
from rich.console import Console
from rich.progress import track

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.audio import SAMPLE_RATE, read_samples
from rnnlab.files.cache import cache_root

WINDOW = 400
"""Samples in a frame: 25 ms."""
SHIFT = 160
"""Samples from one frame to the next: 10 ms."""
BINS = 40
FEATURES = 3 * BINS
"""Filter banks, their Δ, their ΔΔ."""
SMALLEST_STD = 1e-3
"""A feature with a smaller standard deviation is divided by this: one that never changes stays zero."""


def frames_in(samples: int) -> int:
    """How many frames a recording has: those that lie in it whole (Kaldi's snip_edges)."""
    return 0 if samples < WINDOW else 1 + (samples - WINDOW) // SHIFT


def frame_centres(frames: int) -> np.ndarray:
    """The sample in the middle of each frame, int64 [frames]."""
    return np.arange(frames) * SHIFT + WINDOW // 2


def need_kaldi() -> ModuleType:
    """The library, which an extra brings.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import kaldi_native_fbank
    except ImportError as error:
        raise ConfigError(f"filter banks need kaldi-native-fbank ({error}): pip install 'rnnlab[speech]'") from None
    return kaldi_native_fbank


def filter_banks(samples: np.ndarray) -> np.ndarray:
    """Logarithms of the power in 40 mel-spaced triangular bands, float32 [T, 40], for int16 samples at 16 kHz.

    Kaldi's defaults: 25 ms Povey windows every 10 ms, each without its mean and with pre-emphasis 0.97; 20 Hz to 8 kHz;
    samples on the scale of 16-bit numbers. Without dither, so that the same audio always gives the same features;
    Kaldi's own are off by the noise it adds, which matters in digital silence only.
    """
    kaldi = need_kaldi()
    options = kaldi.FbankOptions(
        frame_opts=kaldi.FrameExtractionOptions(
            samp_freq=SAMPLE_RATE,
            frame_shift_ms=1000 * SHIFT / SAMPLE_RATE,
            frame_length_ms=1000 * WINDOW / SAMPLE_RATE,
            dither=0.0,
            snip_edges=True,
        ),
        mel_opts=kaldi.MelBanksOptions(num_bins=BINS),
    )
    computer = kaldi.OnlineFbank(options)
    computer.accept_waveform(SAMPLE_RATE, samples.astype(np.float32))
    computer.input_finished()
    banks = np.empty((computer.num_frames_ready, BINS), np.float32)
    for frame in range(len(banks)):
        banks[frame] = computer.get_frame(frame)
    return banks


def with_deltas(banks: np.ndarray) -> np.ndarray:
    """[T, F] -> [T, 3F]: the features, Δ and ΔΔ, by Kaldi's add-deltas with a window of 2.

    Δ_t = Σ_{n=-2..2} n x_{t+n} / 10, and ΔΔ by that filter convolved with itself; beyond the ends, both see the first
    and the last frame repeated.
    """
    kaldi = need_kaldi()
    return kaldi.compute_deltas(kaldi.DeltaOptions(order=2, window=2), banks)


Normalization = Sequence[tuple[slice, slice]]
"""(whose mean and variance, to which rows) in turn, as slices of the table's rows."""


def load_features(
    files: Sequence[Path],
    frames: Sequence[int],
    normalization: Normalization,
    cache_dir: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """The normalised features of recordings one after the other, float32 [sum of frames, 120], mapped, read only.

    They are computed at the first call and kept in CACHE_DIR/features-KEY.npy; the key is a hash of every parameter
    above, the library's version, and each file's name, size and time of change; the
    folder may be emptied at any time. Each mean and variance is that of its
    rows, Δ and ΔΔ included.

    Args:
        files: recordings at 16 kHz.
        frames: of each, as `frames_in` says.
        normalization: see `Normalization`.
        cache_dir: where the table is kept; speech/ in our cache folder (see `files.cache_root`) if None.

    Raises:
        ConfigError: a file cannot be read or holds another number of frames, or the cache cannot be written.
    """
    need_kaldi()
    folder = Path(cache_dir).expanduser() if cache_dir else cache_root() / "speech"
    path = folder / f"features-{_key(files, frames, normalization)}.npy"
    shape = (int(sum(frames)), FEATURES)
    with contextlib.suppress(OSError, EOFError, ValueError):  # Not there or not whole: it is made anew.
        table = np.load(path, mmap_mode="r")
        if table.shape == shape and table.dtype == np.float32:
            return table
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, shape, lambda table: _compute(table, files, frames, normalization))
    except OSError as error:
        raise ConfigError(f"the features cannot be kept in {folder} ({error.strerror or error})") from None
    return np.load(path, mmap_mode="r")


def _key(files: Sequence[Path], frames: Sequence[int], normalization: Normalization) -> str:
    """A hash of all that the table depends on."""
    states = [path.stat() for path in files]
    parts = {
        "format": 1,
        "features": [SAMPLE_RATE, WINDOW, SHIFT, BINS, SMALLEST_STD, metadata.version("kaldi-native-fbank")],
        "files": [
            [*path.parts[-4:], state.st_size, state.st_mtime_ns] for path, state in zip(files, states, strict=True)
        ],
        "frames": list(map(int, frames)),
        "normalization": [[fit.start, fit.stop, rows.start, rows.stop] for fit, rows in normalization],
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def _compute(table: np.ndarray, files: Sequence[Path], frames: Sequence[int], normalization: Normalization) -> None:
    """Fills the table."""
    row = 0
    for path, count in zip(_with_progress(files), frames, strict=True):
        rows_of_file = with_deltas(filter_banks(read_samples(path)))
        if len(rows_of_file) != count:
            raise ConfigError(f"{path}: {len(rows_of_file)} frames could be read; its header says {count}")
        table[row : row + count] = rows_of_file
        row += count
    # All statistics first: the rows that one part is fitted to may be those that another changes.
    fits = [_mean_and_std(np.asarray(table[fit])) for fit, _ in normalization]
    for (mean, std), (_, rows) in zip(fits, normalization, strict=True):
        for start in range(rows.start, rows.stop, 100_000):
            block = slice(start, min(start + 100_000, rows.stop))
            table[block] = (table[block] - mean) / std


def _mean_and_std(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In double precision, the second after the first: a difference of large squares would lose digits."""
    mean = rows.mean(0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for start in range(0, len(rows), 100_000):
        squares += np.square(rows[start : start + 100_000] - mean).sum(0)
    return mean, np.maximum(np.sqrt(squares / len(rows)), SMALLEST_STD)


def _with_progress(files: Sequence[Path]) -> Iterator[Path]:
    """The files under a progress bar, where somebody is there to see it."""
    console = Console(stderr=True)
    yield from track(files, "filter banks", console=console, transient=True, disable=not sys.stderr.isatty())


def _write(path: Path, shape: tuple[int, int], fill: Callable[[np.ndarray], None]) -> None:
    """An array on disk, under its name only when it is whole. NumPy maps a path, so `whole_file` does not serve."""
    part = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part")
    try:
        table = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        fill(table)
        table.flush()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
