"""Recordings in RIFF and NIST SPHERE files, read by soundfile; what is wrong with a file is said with its name."""

from pathlib import Path
from types import ModuleType

import numpy as np

from rnnlab.config.errors import ConfigError

SAMPLE_RATE = 16000
"""Hz, of every recording that is used here."""


def need_soundfile() -> ModuleType:
    """The library, which an extra brings.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package without its C library.
        raise ConfigError(f"reading audio needs soundfile ({error}): pip install 'rnnlab[speech]'") from None
    return soundfile


def samples_in(path: Path) -> int:
    """How many samples a file holds, its header checked.

    Raises:
        ConfigError: compressed with shorten, truncated, no audio, more than one channel or not at 16 kHz.
    """
    soundfile = need_soundfile()
    header = _sphere_header(path)
    if "shorten" in header.get("sample_coding", ""):
        raise ConfigError(
            f"{path}: compressed with shorten ({header['sample_coding']}), which soundfile cannot read; expand it, "
            "as by sph2pipe -p -f wav"
        )
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError) as error:
        raise ConfigError(f"{path}: not readable as audio ({_reason(error)}); expected RIFF or NIST SPHERE") from None
    if info.samplerate != SAMPLE_RATE:
        raise ConfigError(f"{path}: sampled at {info.samplerate} Hz; expected {SAMPLE_RATE}")
    if info.channels != 1:
        raise ConfigError(f"{path}: {info.channels} channels; expected one")
    announced = header.get("sample_count", "")
    if announced.isdigit() and int(announced) > info.frames:
        raise ConfigError(f"{path}: truncated: its header says {announced} samples, {info.frames} follow")
    return int(info.frames)


def read_samples(path: Path) -> np.ndarray:
    """The samples of a recording, int16 [samples].

    Raises:
        ConfigError: it cannot be read.
    """
    soundfile = need_soundfile()
    try:
        return soundfile.read(str(path), dtype="int16")[0]
    except (soundfile.LibsndfileError, OSError) as error:
        raise ConfigError(f"{path}: not readable as audio ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """Its text in one line, without the file's name, which the caller gives."""
    return " ".join(str(error).split()).rpartition("': ")[2].rstrip(".") or type(error).__name__


def _sphere_header(path: Path) -> dict[str, str]:
    """The fields of a NIST SPHERE header, lines of "name -type value"; {} if the file has none."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
            if start[:7] != b"NIST_1A":
                return {}
            size = int(start[8:]) if start[8:].strip().isdigit() else 1024
            lines = file.read(max(size - 16, 0)).decode("ascii", "replace").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    fields = (line.split(maxsplit=2) for line in lines)
    return {field[0]: field[2] for field in fields if len(field) == 3}
