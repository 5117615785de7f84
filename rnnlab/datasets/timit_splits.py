"""Where TIMIT's recordings lie, in the corpus' own layout or that of NLTK's sample, and which split each belongs to."""

import re
from pathlib import Path
from typing import NamedTuple

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.locations import files_below

# The core test set: two men and one woman from each dialect region, from the corpus' own testset.doc.
CORE_TEST = frozenset(
    """FDHC0 FELC0 FJLM0 FMGD0 FMLD0 FNLP0 FPAS0 FPKT0 MBPM0 MCMJ0 MDAB0 MGRT0 MJDH0 MJLN0 MJMP0 MKLT0 MLLL0
    MLNT0 MNJM0 MPAM0 MTAS1 MTLS0 MWBT0 MWEW0""".split()  # noqa: SIM905
)
# The development set of Halberstadt, "Heterogeneous acoustic measurements and multiple classifiers for speech
# recognition", PhD thesis, MIT, 1998: other speakers of the complete test set; Kaldi's recipe has the same.
DEVELOPMENT = frozenset(
    """FADG0 FAKS0 FCAL1 FCMH0 FDAC1 FDMS0 FDRW0 FEDW0 FGJD0 FJEM0 FJMG0 FJSJ0 FKMS0 FMAH0 FMML0 FNMR0 FREW0
    FSEM0 MAJC0 MBDG0 MBNS0 MBWM0 MCSH0 MDLF0 MDLS0 MDVC0 MERS0 MGJF0 MGLB0 MGWT0 MJAR0 MJFC0 MJSW0 MMDB1
    MMDM2 MMJR0 MMWH0 MPDF0 MRCS0 MREB0 MRJM4 MRJR0 MROA0 MRTK0 MRWS1 MTAA0 MTDT0 MTEB0 MTHC0 MWJG0""".split()  # noqa: SIM905
)
# A woman and a man for each, of the sample's sixteen speakers, from four dialects whose other speaker is in training,
# which has all 61 phones. No sentence but the two SA ones is spoken twice in the sample.
SAMPLE_DEVELOPMENT = frozenset({"FALK0", "MBGT0"})
SAMPLE_TEST = frozenset({"FBLV0", "MAEB0"})

SPEAKERS = {"train": 462, "validation": 50, "test": 24}
"""The full corpus's, with eight sentences each: 3696, 400 and 192 utterances."""
SAMPLE_SPEAKERS = {"train": 12, "validation": 2, "test": 2}
"""The sample's: 96, 16 and 16 utterances."""

FULL_LAYOUT = re.compile(
    r"(?P<usage>TRAIN|TEST)/DR[1-8]/(?P<speaker>[FM][A-Z]{3}\d)/(?P<sentence>S[AIX]\d+)\.(WAV|PHN)"
)
SAMPLE_LAYOUT = re.compile(r"DR[1-8]-(?P<speaker>[FM][A-Z]{3}\d)/(?P<sentence>S[AIX]\d+)\.(WAV|PHN)")


class Recording(NamedTuple):
    """One utterance's files; either may be missing (None)."""

    split: str
    speaker: str
    id: str
    """"FCJF0_SX37", as Kaldi's recipe names it."""
    wav: Path | None
    phn: Path | None


def find_recordings(root: Path) -> tuple[list[Recording], list[str]]:
    """The recordings below a folder, sorted by split (train, validation, test), speaker and id; and notes.

    Layouts, in any letter case, and at any depth: `TRAIN/DR1/FCJF0/SX37.WAV` with `SX37.PHN` (the full corpus) and
    `dr1-fvmh0/sx116.wav` (NLTK's sample). The SA sentences, which every speaker reads, are left out, and so are those
    speakers of the complete test set that are in neither standard list. A note says when a split has not as many
    speakers as it should.

    Raises:
        ConfigError: no such folder, no recordings in either layout, both layouts, a split without any, or a recording
            that is there twice.
    """
    if not root.is_dir():
        raise ConfigError(
            f"TIMIT not found: {root} is not a folder; it must hold the corpus LDC93S1 (TRAIN/DR1/FCJF0/SX37.WAV …) or "
            "NLTK's sample, nltk_data packages/corpora/timit.zip (dr1-fvmh0/sx116.wav …)"
        )
    root = root.absolute()
    above = root.parent  # The folder itself may be TRAIN.
    layouts: set[str] = set()
    files: dict[tuple[str, str, str], dict[str, Path]] = {}
    for path in files_below(root):
        name = path.relative_to(above).as_posix().upper()
        full = re.search(rf"(^|/){FULL_LAYOUT.pattern}$", name)
        match = full or re.search(rf"(^|/){SAMPLE_LAYOUT.pattern}$", name)
        if match is None:
            continue
        layouts.add("full" if full else "sample")
        split = _full_split(full["speaker"], full["usage"]) if full else _sample_split(match["speaker"])
        if split is None or match["sentence"].startswith("SA"):
            continue
        kinds = files.setdefault((split, match["speaker"], match["sentence"]), {})
        kind = path.suffix.upper()
        if kind in kinds:
            raise ConfigError(f"{root}: one recording is there twice: {kinds[kind]} and {path}")
        kinds[kind] = path
    if len(layouts) == 2:
        raise ConfigError(
            f"{root} holds TIMIT in both layouts, the full corpus and the sample; name one of the folders"
        )
    expected = SAMPLE_SPEAKERS if layouts == {"sample"} else SPEAKERS
    if not layouts:
        raise ConfigError(
            f"{root} holds no recordings of TIMIT; expected TRAIN/DR1/FCJF0/SX37.WAV … or dr1-fvmh0/sx116.wav …"
        )
    order = {split: number for number, split in enumerate(expected)}
    recordings = [
        Recording(split, speaker, f"{speaker}_{sentence}", kinds.get(".WAV"), kinds.get(".PHN"))
        for (split, speaker, sentence), kinds in sorted(files.items(), key=lambda item: (order[item[0][0]], item[0]))
    ]
    speakers = {split: len({r.speaker for r in recordings if r.split == split}) for split in expected}
    for split, count in speakers.items():
        if count == 0:
            raise ConfigError(f"{root} holds no recordings of the {split} split, which has {expected[split]} speakers")
    counts = ", ".join(f"{split} {count} of {expected[split]}" for split, count in speakers.items())
    return recordings, [] if speakers == expected else [f"{root} is not all of TIMIT: speakers in {counts}"]


def _full_split(speaker: str, usage: str) -> str | None:
    """The lists decide, so that no speaker of theirs can be trained on."""
    if speaker in CORE_TEST:
        return "test"
    if speaker in DEVELOPMENT:
        return "validation"
    return "train" if usage == "TRAIN" else None


def _sample_split(speaker: str) -> str:
    if speaker in SAMPLE_TEST:
        return "test"
    return "validation" if speaker in SAMPLE_DEVELOPMENT else "train"
