"""A small corpus in TIMIT's own layout, SPHERE files included; every phone has its own tone, so it can be learned."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rnnlab.datasets.phones import PHONES

RATE = 16000
SPEAKERS = {
    "TRAIN": ("FCJF0", "MCPM0", "FVMH0"),
    "TEST": ("MGWT0", "FADG0", "MDAB0", "FELC0", "FDRD1"),  # Development twice, core test twice, neither.
}
SENTENCES = ("SA1", "SI648", "SX37")
INVENTORY = ("sh", "iy", "hv", "ae", "dcl", "d", "q", "ix", "kcl", "k", "s", "ao")


def sphere(samples: np.ndarray, *, rate: int = RATE, coding: str = "pcm", order: str = "01") -> bytes:
    """A NIST SPHERE file of int16 [samples] or [samples, channels]; order "01" is little-endian, as TIMIT's."""
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    fields = [
        "NIST_1A",
        "   1024",
        "database_id -s5 TIMIT",
        f"channel_count -i {channels}",
        f"sample_count -i {len(samples)}",
        f"sample_rate -i {rate}",
        "sample_n_bytes -i 2",
        f"sample_byte_format -s2 {order}",
        "sample_sig_bits -i 16",
        f"sample_coding -s{len(coding)} {coding}",
        "end_head",
    ]
    header = "\n".join(fields).encode() + b"\n"
    return header.ljust(1024) + samples.astype("<i2" if order == "01" else ">i2").tobytes()


def utterance(phones: Sequence[str], rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, int, str]]]:
    """Samples, int16, and (begin, end, phone) of each phone: 50 to 90 ms of a tone of its own in noise."""
    lengths = rng.integers(800, 1440, len(phones))
    ends = np.cumsum(lengths)
    parts = []
    for phone, length in zip(phones, lengths, strict=True):
        tone = 100 * 1.07 ** PHONES[61].index(phone) * np.arange(length) / RATE
        parts.append(3000 * np.sin(2 * np.pi * tone) + 100 * rng.standard_normal(length))
    begins = ends - lengths
    return np.concatenate(parts).astype(np.int16), list(zip(begins.tolist(), ends.tolist(), phones, strict=True))


def labels(segments: Sequence[tuple[int, int, str]]) -> str:
    return "".join(f"{begin} {end} {phone}\n" for begin, end, phone in segments)


def write_corpus(
    root: Path,
    speakers: Mapping[str, Sequence[str]] = SPEAKERS,
    sentences: Sequence[str] = SENTENCES,
    phones: int = 6,
    lower: bool = False,
) -> Path:
    """ROOT/TRAIN/DR1/FCJF0/SX37.WAV, .PHN and so on, or all in small letters; returns ROOT."""
    rng = np.random.default_rng(0)
    for usage, names in speakers.items():
        for speaker in names:
            folder = Path(usage, "DR1", speaker)
            folder = root / (str(folder).lower() if lower else folder)
            folder.mkdir(parents=True)
            for sentence in sentences:
                samples, segments = utterance(["h#", *rng.choice(INVENTORY, phones), "h#"], rng)
                for name, content in ((f"{sentence}.WAV", sphere(samples)), (f"{sentence}.PHN", labels(segments))):
                    path = folder / (name.lower() if lower else name)
                    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root
