"""TIMIT (LDC93S1, Garofolo et al., 1993) and NLTK's sample of it: features and a class for every frame, by split.

The splits are in `timit_splits.py`, the features in `features.py`, how labels become classes in `alignments.py`;
batches are made in `tasks/`.
"""

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.datasets import alignments, audio, features
from rnnlab.datasets.alignments import FAR, NEAR, Segments
from rnnlab.datasets.locations import data_root, find_given
from rnnlab.datasets.phones import PHONES, folding
from rnnlab.datasets.timit_splits import Recording, find_recordings

PHONE_TARGETS = {"phones61": 61, "phones48": 48, "phones39": 39}
STATES = 3
"""Into which each of the 61 phones is cut by the target "states": 183 classes."""
SHOWN = 40
"""How many files a message names."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Utterances:
    """The N utterances of a split one after the other, without padding, sorted by speaker and id.

    Attributes:
        features: float32 [F, 120], F the frames of all of them; memory-mapped, read only.
        offsets: int64 [N + 1]; utterance i is rows offsets[i] to offsets[i + 1].
        targets: int32 [F], the class of each frame; -1 where it has none (the glottal stop among 48 and 39 phones):
            neither to be trained on nor to be scored.
        ids: N names like "FCJF0_SX37", as in Kaldi's recipe.
        speakers: N names like "FCJF0".
        transcripts: N arrays int32, the phones in the order spoken, as numbers among the 61.
    """

    features: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray
    ids: tuple[str, ...]
    speakers: tuple[str, ...]
    transcripts: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each utterance, int64 [N]."""
        return np.diff(self.offsets)

    def rows(self, index: int) -> slice:
        """Where utterance `index` lies in features and targets."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """The splits and what their classes mean.

    Attributes:
        splits: "train", "validation" and "test".
        names: of the classes: "aa", for states "aa.0", for a Kaldi id "17".
        folded: int32 [classes], the number of each class among the 39 phones of scoring, -1 for the glottal stop; None
            for a Kaldi alignment, whose ids name no phones here.
        notes: what is not as it should be, a line each; logged as warnings too.
    """

    splits: dict[str, Utterances]
    names: tuple[str, ...]
    folded: np.ndarray | None
    notes: tuple[str, ...]

    @property
    def classes(self) -> int:
        return len(self.names)


class _Read(NamedTuple):
    """A recording whose files are sound."""

    recording: Recording
    wav: Path
    segments: Segments
    frames: int
    targets: np.ndarray


def load(
    data_dir: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] = "timit",
    *,
    targets: str | os.PathLike[str] = "phones61",
    normalize: Literal["speaker", "training"] = "speaker",
    skip_bad: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Corpus:
    """TIMIT's three splits: train, validation (the development set) and test (the core test set).

    A frame is 25 ms of audio, every 10 ms, none reaching over the ends. Its class is that of the label at its centre.
    Labels that leave up to a second of the audio uncovered are continued to its ends, those that go up to a second
    beyond it are cut, either with a note where it is more than 10 ms; further off, the file is bad.

    Args:
        data_dir: as in `files.data_root`.
        folder: of the corpus, below the data folder, or a path of its own.
        targets: "phones61", "phones48" or "phones39"; "states", each of the 61 phones in three equal parts of time; or
            a file or folder of Kaldi's text archives with an id for each frame, beside or below the data folder.
        normalize: each of the 120 features to mean 0 and variance 1 over the utterances of each "speaker", or by the
            statistics of the "training" set.
        skip_bad: go on without the recordings that cannot be used.
        cache_dir: as in `features.load_features`.

    Raises:
        ConfigError: what `find_recordings` raises; an unknown target or normalisation; a missing library; or bad files,
            all of them in one message.
    """
    if normalize not in ("speaker", "training"):
        raise ConfigError(f"normalize is {normalize!r}; allowed: 'speaker', 'training'")
    audio.need_soundfile()
    features.need_kaldi()
    aligned = None
    if targets not in (*PHONE_TARGETS, "states"):
        aligned = _alignments(targets, data_dir)
    root = data_root(data_dir) / Path(folder).expanduser()
    recordings, notes = find_recordings(root)
    if aligned is not None and not any(r.id in aligned for r in recordings):
        example = next(iter(aligned))
        raise ConfigError(f"{targets} holds none of {root}'s utterances: it has {example}; expected {recordings[0].id}")

    good, bad, gaps = [], [], []
    for recording in recordings:
        try:
            read, gap = _read(recording, str(targets), aligned)
        except ConfigError as error:
            bad.append(str(error))
        else:
            good.append(read)
            gaps += [gap] if gap else []
    if bad and not skip_bad:
        raise ConfigError(f"{len(bad)} of {len(recordings)} recordings are bad: {_some(bad)}; skip_bad leaves them out")
    if bad:
        notes.append(f"{len(bad)} of {len(recordings)} recordings left out: {_some(bad)}")
    if gaps:
        notes.append(f"labels that do not cover their audio, continued or cut: {_some(gaps)}")
    for split in dict.fromkeys(r.split for r in recordings):
        if not any(read.recording.split == split for read in good):
            raise ConfigError(f"no good recording is left in the {split} split: {_some(bad)}")
    for note in notes:
        logger.warning(note)

    table = features.load_features(
        [read.wav for read in good], [read.frames for read in good], _normalization(good, normalize), cache_dir
    )
    names, folded = _classes(str(targets), aligned)
    return Corpus(_splits(good, table), names, folded, tuple(notes))


def _alignments(targets: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None) -> dict[str, np.ndarray]:
    try:
        path = find_given("alignments", targets, data_dir)
    except ConfigError as error:
        names = ", ".join([*PHONE_TARGETS, "states"])
        raise ConfigError(f"targets is {str(targets)!r}; allowed: {names}, or Kaldi's text archives; {error}") from None
    return alignments.read_alignments(path)


def _read(recording: Recording, targets: str, aligned: dict[str, np.ndarray] | None) -> tuple[_Read, str]:
    """A recording's frames and classes, and what there is to say of its labels.

    Raises:
        ConfigError: one of its files is missing or bad.
    """
    wav, phn = recording.wav, recording.phn
    if wav is None:
        raise ConfigError(f"{phn}: labels without a recording; expected a .wav beside them")
    if phn is None:
        raise ConfigError(f"{wav}: a recording without labels; expected a .phn beside it")
    samples = audio.samples_in(wav)
    frames = features.frames_in(samples)
    if frames == 0:
        raise ConfigError(f"{wav}: {samples} samples; expected one window of {features.WINDOW} at least")
    segments = alignments.read_segments(phn)
    gap = alignments.uncovered(segments, samples)
    if abs(gap) > FAR:
        raise ConfigError(f"{phn}: {_gap(gap)} ({samples} samples); expected labels that cover it to within a second")
    if aligned is not None:
        classes = aligned.get(recording.id)
        if classes is None:
            raise ConfigError(f"{wav}: no alignment named {recording.id}")
        if len(classes) != frames:
            raise ConfigError(f"{wav}: the alignment of {recording.id} has {len(classes)} frames; expected {frames}")
    elif targets == "states":
        classes = alignments.frame_states(segments, features.frame_centres(frames))
    else:
        classes = folding(PHONE_TARGETS[targets])[alignments.frame_phones(segments, features.frame_centres(frames))]
    note = f"{phn}: {_gap(gap)}" if abs(gap) > NEAR else ""
    return _Read(recording, wav, segments, frames, classes), note


def _gap(samples: int) -> str:
    seconds = f"{abs(samples) / audio.SAMPLE_RATE:.2f} s"
    return f"{seconds} of the audio without a label" if samples > 0 else f"labels end {seconds} after the audio"


def _some(texts: Sequence[str]) -> str:
    """The first of many, and how many more there are."""
    more = f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


def _normalization(good: Sequence[_Read], normalize: str) -> features.Normalization:
    ends = np.cumsum([read.frames for read in good]).tolist()
    if normalize == "training":
        training = sum(read.frames for read in good if read.recording.split == "train")
        return [(slice(0, training), slice(0, ends[-1]))]
    # Recordings are sorted by split and speaker, so each speaker's rows are one slice.
    spans: dict[tuple[str, str], slice] = {}
    for read, end in zip(good, ends, strict=True):
        key = read.recording.split, read.recording.speaker
        spans[key] = slice(spans[key].start if key in spans else end - read.frames, end)
    return [(span, span) for span in spans.values()]


def _classes(targets: str, aligned: dict[str, np.ndarray] | None) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Names of the classes, and each one's number among the 39 phones."""
    if aligned is not None:
        return tuple(map(str, range(1 + max(int(ids.max()) for ids in aligned.values())))), None
    if targets == "states":
        names = tuple(f"{phone}.{state}" for phone in PHONES[61] for state in range(STATES))
        return names, np.repeat(folding(39), STATES)
    size = PHONE_TARGETS[targets]
    folded = np.full(size, -1, np.int32)
    for number, phone in zip(folding(size), folding(39), strict=True):
        if number >= 0:
            folded[number] = phone
    return PHONES[size], folded


def _splits(good: Sequence[_Read], table: np.ndarray) -> dict[str, Utterances]:
    """The good recordings, which are sorted by split, as slices of the table."""
    splits, start = {}, 0
    for split in dict.fromkeys(read.recording.split for read in good):
        reads = [read for read in good if read.recording.split == split]
        offsets = np.cumsum([0, *(read.frames for read in reads)])
        splits[split] = Utterances(
            features=table[start : start + int(offsets[-1])],
            offsets=offsets,
            targets=np.concatenate([read.targets for read in reads]),
            ids=tuple(read.recording.id for read in reads),
            speakers=tuple(read.recording.speaker for read in reads),
            transcripts=tuple(read.segments.phones for read in reads),
        )
        start += int(offsets[-1])
    return splits
