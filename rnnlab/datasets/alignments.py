"""From labels in time to one class a frame: TIMIT's .PHN files, and frame alignments in Kaldi's text archives."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.audio import SAMPLE_RATE
from rnnlab.datasets.phones import PHONES

NEAR = SAMPLE_RATE // 100
"""Samples that labels may leave out of a recording without a word: 10 ms, one frame's shift."""
FAR = SAMPLE_RATE
"""Samples from which on they belong to another recording: 1 s."""

INDEX = {phone: index for index, phone in enumerate(PHONES[61])}


class Segments(NamedTuple):
    """The phones of a recording in time: each one's begin and end in samples, int64 [S], and its number among the 61,
    int32 [S]."""

    begins: np.ndarray
    ends: np.ndarray
    phones: np.ndarray


def read_segments(path: Path) -> Segments:
    """The labels of a .PHN file, lines of "begin end phone".

    Raises:
        ConfigError: it cannot be read, is empty, has a line of another form, a phone that is not one of the 61, or
            segments that do not follow each other.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    begins, ends, phones = [], [], []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not (fields[0].isdecimal() and fields[1].isdecimal()):
            raise ConfigError(f"{path}, line {number}: {line.strip()[:60]!r}; expected 'begin end phone', in samples")
        begin, end, phone = int(fields[0]), int(fields[1]), fields[2].lower()
        if phone not in INDEX:
            raise ConfigError(f"{path}, line {number}: unknown phone {fields[2]!r}; expected one of TIMIT's 61")
        if end < begin or (begins and begin < begins[-1]):
            before = f" after {begins[-1]} to {ends[-1]}" if begins else ""
            raise ConfigError(f"{path}, line {number}: {begin} to {end}{before}; expected times in order")
        begins.append(begin)
        ends.append(end)
        phones.append(INDEX[phone])
    if not begins:
        raise ConfigError(f"{path}: holds no labels")
    return Segments(np.array(begins), np.array(ends), np.array(phones, np.int32))


def uncovered(segments: Segments, samples: int) -> int:
    """By how many samples labels and recording disagree at the ends: positive where audio has no label, negative where
    labels go on after the audio."""
    missing = int(segments.begins[0]) + samples - int(segments.ends[-1])
    return missing if samples >= segments.ends[-1] else samples - int(segments.ends[-1])


def frame_phones(segments: Segments, centres: np.ndarray) -> np.ndarray:
    """The phone of each frame, int32 [T]: the last one that has begun by the frame's centre.

    So frames before the first label have the first, frames in a gap or behind the last label have the one before, and
    labels behind the last frame go unused.
    """
    return segments.phones[_segment(segments, centres)]


def frame_states(segments: Segments, centres: np.ndarray) -> np.ndarray:
    """3 · phone + state of each frame, int32 [T], for phones as in `frame_phones`: state 0, 1 or 2 is the third of the
    phone's time in which the frame's centre lies."""
    index = _segment(segments, centres)
    begins, ends = segments.begins[index], segments.ends[index]
    thirds = 3 * (centres - begins) // np.maximum(ends - begins, 1)
    return 3 * segments.phones[index] + np.clip(thirds, 0, 2).astype(np.int32)


def _segment(segments: Segments, centres: np.ndarray) -> np.ndarray:
    return np.maximum(np.searchsorted(segments.begins, centres, side="right") - 1, 0)


def read_alignments(path: Path) -> dict[str, np.ndarray]:
    """Utterance, in capitals -> class of each frame, int32 [T], from Kaldi's text archives of pdf or phone ids.

    A line is "utterance id id id …", as `ali-to-pdf final.mdl ark:… ark,t:…` and `ali-to-phones --per-frame` write it.

    Args:
        path: an archive, its gzip, or a folder of such files and nothing else.

    Raises:
        ConfigError: a line of another form, an utterance twice, or none at all.
    """
    ids_of: dict[str, np.ndarray] = {}
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        for number, line in _lines(file):
            name, *ids = line.split()
            wrong = next((text for text in ids if not text.isdecimal() or len(text) > 9), None if ids else "nothing")
            if wrong is not None:
                raise ConfigError(
                    f"{file}, line {number}: {wrong[:20]!a} after the utterance; expected a text archive of "
                    "whole numbers from 0, as ali-to-pdf writes with ark,t:"
                )
            if name.upper() in ids_of:
                raise ConfigError(f"{file}, line {number}: {name} is there twice")
            ids_of[name.upper()] = np.array(ids, np.int32)
    if not ids_of:
        raise ConfigError(f"{path} holds no alignment")
    return ids_of


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of all that are not blank."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
                if text.strip():
                    yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
