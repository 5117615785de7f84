"""TIMIT's files, splits and classes, on a corpus generated in its layout; bad files; NLTK's sample if at hand."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rnnlab.config.errors import ConfigError
from rnnlab.datasets import timit
from rnnlab.datasets.alignments import Segments, frame_phones, frame_states, read_alignments, read_segments
from rnnlab.datasets.audio import read_samples, samples_in
from rnnlab.datasets.features import filter_banks, frame_centres, with_deltas
from rnnlab.datasets.phones import FOLDING, PHONES, folding
from rnnlab.datasets.timit_splits import CORE_TEST, DEVELOPMENT, SAMPLE_DEVELOPMENT, SAMPLE_TEST, find_recordings
from tests.generated_timit import INVENTORY, labels, sphere, utterance, write_corpus


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that no test changes."""
    return write_corpus(tmp_path_factory.mktemp("data") / "TIMIT")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus to spoil."""
    return write_corpus(tmp_path / "TIMIT")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def segments(*rows: tuple[int, int, str]) -> Segments:
    begins, ends, phones = zip(*rows, strict=True)
    return Segments(np.array(begins), np.array(ends), np.array([PHONES[61].index(p) for p in phones], np.int32))


# Phones


def test_sets_have_their_sizes_and_fold_into_each_other():
    assert {size: len(names) for size, names in PHONES.items()} == {61: 61, 48: 48, 39: 39}
    pairs = {pair for pair in FOLDING.values() if pair}
    assert len(pairs) == 48  # So that each of the 48 belongs to one of the 39.


@pytest.mark.parametrize(
    ("phone", "in_48", "in_39"),
    [
        ("ix", "ix", "ih"),
        ("ao", "ao", "aa"),
        ("zh", "zh", "sh"),
        ("eng", "ng", "ng"),
        ("el", "el", "l"),
        ("h#", "sil", "sil"),
        ("bcl", "vcl", "sil"),
        ("tcl", "cl", "sil"),
        ("epi", "epi", "sil"),
        ("q", None, None),
    ],
)
def test_phones_are_folded_as_lee_and_hon_do(phone, in_48, in_39):
    for size, expected in ((48, in_48), (39, in_39)):
        number = folding(size)[PHONES[61].index(phone)]
        assert (PHONES[size][number] if number >= 0 else None) == expected


# Audio


@pytest.mark.parametrize("order", ["01", "10"])
def test_sphere_files_read_back_sample_for_sample(tmp_path, order):
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    path = tmp_path / "SX37.WAV"
    path.write_bytes(sphere(samples, order=order))
    assert samples_in(path) == 5000
    np.testing.assert_array_equal(read_samples(path), samples)


def test_riff_files_read_back_sample_for_sample(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    soundfile.write(tmp_path / "sx37.wav", samples, 16000)
    assert samples_in(tmp_path / "sx37.wav") == 5000
    np.testing.assert_array_equal(read_samples(tmp_path / "sx37.wav"), samples)


# Classes


def test_a_frame_has_the_label_at_its_centre():
    rows = segments((0, 200, "h#"), (200, 520, "aa"), (520, 521, "q"), (521, 900, "s"))
    names = [PHONES[61][phone] for phone in frame_phones(rows, np.array([199, 200, 360, 519, 520, 521, 680]))]
    assert names == ["h#", "aa", "aa", "aa", "q", "s", "s"]


def test_frames_beyond_the_labels_continue_them():
    rows = segments((300, 400, "aa"), (500, 600, "s"))  # Nothing before 300, from 400 to 500 and from 600 on.
    names = [PHONES[61][phone] for phone in frame_phones(rows, np.array([200, 450, 599, 5000]))]
    assert names == ["aa", "aa", "s", "s"]


def test_states_are_the_thirds_of_a_phone():
    rows = segments((0, 300, "h#"), (300, 900, "aa"))
    h, a = PHONES[61].index("h#"), PHONES[61].index("aa")
    found = frame_states(rows, np.array([0, 99, 100, 200, 299, 300, 499, 500, 700, 899, 2000]))
    expected = [(h, 0), (h, 0), (h, 1), (h, 2), (h, 2), (a, 0), (a, 0), (a, 1), (a, 2), (a, 2), (a, 2)]
    np.testing.assert_array_equal(found, [3 * phone + state for phone, state in expected])


# The corpus


def test_standard_lists_are_the_published_ones():
    assert (len(CORE_TEST), len(DEVELOPMENT)) == (24, 50)
    assert sum(name.startswith("F") for name in CORE_TEST) == 8
    assert not CORE_TEST & DEVELOPMENT
    assert not SAMPLE_TEST & SAMPLE_DEVELOPMENT


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("above", [False, True])
def test_the_full_layout_splits_by_the_standard_lists(tmp_path, lower, above):
    write_corpus(tmp_path / "somewhere" / "TIMIT", lower=lower)
    recordings, notes = find_recordings(tmp_path if above else tmp_path / "somewhere" / "TIMIT")
    found: dict[str, list[str]] = {}
    for recording in recordings:
        found.setdefault(recording.split, []).append(recording.id)
    assert found == {
        "train": ["FCJF0_SI648", "FCJF0_SX37", "FVMH0_SI648", "FVMH0_SX37", "MCPM0_SI648", "MCPM0_SX37"],
        "validation": ["FADG0_SI648", "FADG0_SX37", "MGWT0_SI648", "MGWT0_SX37"],
        "test": ["FELC0_SI648", "FELC0_SX37", "MDAB0_SI648", "MDAB0_SX37"],
    }
    assert notes[0].endswith("not all of TIMIT: speakers in train 3 of 462, validation 2 of 50, test 2 of 24")


def test_the_samples_layout_splits_by_speaker(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("dr1-fvmh0", "dr3-falk0", "dr5-mbgt0", "dr7-fblv0", "dr4-maeb0"):
        (tmp_path / name).mkdir()
        for sentence in ("sa1", "sx116"):
            samples, rows = utterance(["h#", "aa", "h#"], rng)
            soundfile.write(tmp_path / name / f"{sentence}.wav", samples, 16000)
            (tmp_path / name / f"{sentence}.phn").write_text(labels(rows))
    recordings, _ = find_recordings(tmp_path)
    assert [(r.split, r.id) for r in recordings] == [
        ("train", "FVMH0_SX116"),
        ("validation", "FALK0_SX116"),
        ("validation", "MBGT0_SX116"),
        ("test", "FBLV0_SX116"),
        ("test", "MAEB0_SX116"),
    ]


def test_recordings_behind_links_are_found(tmp_path):
    speakers = {"TRAIN": ("FCJF0", "MDAC0"), "TEST": ("FELC0", "FADG0")}
    expected = [recording.id for recording in find_recordings(write_corpus(tmp_path / "a" / "TIMIT", speakers))[0]]
    (tmp_path / "TIMIT").mkdir()
    (tmp_path / "TIMIT" / "TRAIN").symlink_to(tmp_path / "a" / "TIMIT" / "TRAIN")
    test = next(path for path in (tmp_path / "a" / "TIMIT").iterdir() if path.name == "TEST")
    (tmp_path / "TIMIT" / "TEST").mkdir()
    for folder in test.iterdir():
        (tmp_path / "TIMIT" / "TEST" / folder.name).symlink_to(folder)
    assert [recording.id for recording in find_recordings(tmp_path / "TIMIT")[0]] == expected
    (tmp_path / "TIMIT" / "TEST" / "DR8").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="DR8: a link to nowhere, which is not there"):
        find_recordings(tmp_path / "TIMIT")


def test_a_listed_speaker_is_never_trained_on(tmp_path):
    speakers = {"TRAIN": ("FCJF0", "MDAB0", "FADG0"), "TEST": ("FELC0",)}
    recordings, _ = find_recordings(write_corpus(tmp_path / "TIMIT", speakers))
    assert {r.speaker for r in recordings if r.split == "train"} == {"FCJF0"}


@pytest.mark.parametrize("normalize", ["speaker", "training"])
def test_utterances_are_their_files_features_and_labels(generated, cache, normalize):
    found = timit.load(folder=generated, normalize=normalize, cache_dir=cache)
    raw: dict[tuple[str, str], np.ndarray] = {}
    for recording in find_recordings(generated)[0]:
        raw[recording.split, recording.id] = with_deltas(filter_banks(read_samples(recording.wav)))
        rows = read_segments(recording.phn)
        split = found.splits[recording.split]
        place = split.ids.index(recording.id)
        frames = len(raw[recording.split, recording.id])
        assert split.lengths[place] == frames
        assert split.speakers[place] == recording.speaker
        np.testing.assert_array_equal(split.transcripts[place], rows.phones)
        expected = [rows.phones[np.flatnonzero(rows.begins <= centre)[-1]] for centre in frame_centres(frames)]
        np.testing.assert_array_equal(split.targets[split.rows(place)], expected)
    for (name, utterance_id), features in raw.items():
        speaker = utterance_id.split("_")[0]
        fit = [
            part
            for (other, other_id), part in raw.items()
            if (other == "train" if normalize == "training" else other_id.startswith(speaker))
        ]
        fit = np.concatenate(fit).astype(float)
        split = found.splits[name]
        rows = split.features[split.rows(split.ids.index(utterance_id))]
        np.testing.assert_allclose(rows, (features - fit.mean(0)) / fit.std(0), rtol=0, atol=1e-4)
    for split in found.splits.values():
        assert split.features.shape == (split.offsets[-1], 120)
        assert split.features.dtype == np.float32
        assert split.targets.shape == (split.offsets[-1],)
        assert len(split) == len(split.ids) == len(split.transcripts)


def test_targets_fold_the_same_labels(generated, cache):
    loaded = {
        name: timit.load(folder=generated, targets=name, cache_dir=cache)
        for name in ("phones61", "phones48", "phones39", "states")
    }
    assert {name: c.classes for name, c in loaded.items()} == {
        "phones61": 61,
        "phones48": 48,
        "phones39": 39,
        "states": 183,
    }
    for split in ("train", "validation", "test"):
        of = {name: c.splits[split].targets for name, c in loaded.items()}
        np.testing.assert_array_equal(of["phones48"], folding(48)[of["phones61"]])
        np.testing.assert_array_equal(of["states"] // 3, of["phones61"])
        for name, targets in of.items():
            folded = np.where(targets < 0, -1, loaded[name].folded[targets])
            np.testing.assert_array_equal(folded, of["phones39"])
    names = loaded["states"].names
    assert (names[0], names[-1]) == (f"{PHONES[61][0]}.0", f"{PHONES[61][-1]}.2")
    assert loaded["phones39"].splits["train"].targets.min() == -1  # A glottal stop.


def test_features_do_not_depend_on_the_targets(generated, tmp_path):
    for targets in ("phones61", "phones39", "states"):
        timit.load(folder=generated, targets=targets, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


# Kaldi's alignments


def archive(corpus: Path) -> dict[str, list[int]]:
    """Some id for each frame of each utterance."""
    rng = np.random.default_rng(0)
    frames = {r.id: 1 + (samples_in(r.wav) - 400) // 160 for r in find_recordings(corpus)[0]}
    return {name: rng.integers(0, 1900, count).tolist() for name, count in frames.items()}


def text(ids: dict[str, list[int]]) -> bytes:
    return "".join(f"{name} {' '.join(map(str, row))}\n" for name, row in ids.items()).encode()


def test_alignments_are_the_targets(generated, cache, tmp_path):
    ids = archive(generated)
    half = dict(list(ids.items())[:5])
    rest = {name.lower(): row for name, row in ids.items() if name not in half}
    (tmp_path / "ali").mkdir()
    (tmp_path / "ali" / "ali.1.txt").write_bytes(text(half))
    (tmp_path / "ali" / "ali.2.gz").write_bytes(gzip.compress(text(rest)))
    found = timit.load(tmp_path, generated, targets="ali", cache_dir=cache)
    assert found.classes == 1 + max(map(max, ids.values()))
    assert found.folded is None
    for split in found.splits.values():
        for place, name in enumerate(split.ids):
            np.testing.assert_array_equal(split.targets[split.rows(place)], ids[name])


def test_alignments_of_another_length_or_missing_are_named(generated, cache, tmp_path):
    ids = archive(generated)
    count = len(ids["FCJF0_SX37"])
    ids["FCJF0_SX37"].pop()
    ids["FVMH0_SX37"].append(0)
    del ids["MDAB0_SI648"]
    (tmp_path / "ali.txt").write_bytes(text(ids))
    with pytest.raises(ConfigError, match=r"3 of 14 recordings are bad") as caught:
        timit.load(tmp_path, generated, targets="ali.txt", cache_dir=cache)
    assert f"the alignment of FCJF0_SX37 has {count - 1} frames; expected {count}" in str(caught.value)
    assert f"FVMH0_SX37 has {len(ids['FVMH0_SX37'])} frames; expected" in str(caught.value)
    assert "SI648.WAV: no alignment named MDAB0_SI648" in str(caught.value)
    left = timit.load(tmp_path, generated, targets="ali.txt", cache_dir=cache, skip_bad=True)
    assert {name: len(split) for name, split in left.splits.items()} == {"train": 4, "validation": 4, "test": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"FCJF0_SX37 1 2 x\n", r"ali, line 1: 'x' after the utterance; expected a text archive"),
        (b"FCJF0_SX37 1 2\nFCJF0_SX38\n", r"ali, line 2: 'nothing' after the utterance"),
        (b"FCJF0_SX37 1 -2\n", r"ali, line 1: '-2' after"),
        (b"FCJF0_SX37 1 99999999999\n", r"ali, line 1: .* expected a text archive of whole numbers"),
        (b"FCJF0_SX37 \x00B\x04\x00\x00\x01\n", r"ali, line 1: .*expected a text archive"),
        (b"FCJF0_SX37 1\nFCJF0_SX37 1\n", r"ali, line 2: FCJF0_SX37 is there twice"),
        (b"\n", r"ali holds no alignment"),
        (gzip.compress(b"FCJF0_SX37 1 2\n", mtime=0)[:-9], r"ali is not a whole gzip file"),
    ],
)
def test_archives_of_another_form_are_refused(tmp_path, content, message):
    (tmp_path / "ali").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_alignments(tmp_path / "ali")


def test_alignments_of_another_corpus_are_refused(generated, cache, tmp_path):
    (tmp_path / "ali").write_bytes(b"spk1-utt1 1 2 3\n")
    with pytest.raises(ConfigError, match=r"none of .*TIMIT's utterances: it has SPK1-UTT1; expected FCJF0_SI648"):
        timit.load(tmp_path, generated, targets="ali", cache_dir=cache)


# Bad input


def header(samples: int, coding: str = "pcm") -> bytes:
    return sphere(np.zeros(samples, np.int16), coding=coding)


SPOILED = {
    "shorten": ("WAV", header(8000, "pcm,embedded-shorten-v2.00"), r"compressed with shorten .*sph2pipe"),
    "rate": ("WAV", sphere(np.zeros(8000, np.int16), rate=8000), r"sampled at 8000 Hz; expected 16000"),
    "channels": ("WAV", sphere(np.zeros((8000, 2), np.int16)), r"2 channels; expected one"),
    "truncated": ("WAV", header(8000)[:-2000], r"truncated: its header says 8000 samples, 7000 follow"),
    "no_audio": ("WAV", b"not audio", r"not readable as audio \(Format not recogni[sz]ed\); expected RIFF or NIST"),
    "empty_audio": ("WAV", b"", r"not readable as audio"),
    "short": ("WAV", header(399), r"399 samples; expected one window of 400 at least"),
    "no_labels": ("WAV", None, r"labels without a recording; expected a \.wav"),
    "no_recording": ("PHN", None, r"a recording without labels; expected a \.phn"),
    "unknown_phone": ("PHN", b"0 8000 h#\n8000 9000 zz\n", r"line 2: unknown phone 'zz'; expected one of TIMIT's 61"),
    "form": ("PHN", b"0 8000\n", r"line 1: '0 8000'; expected 'begin end phone'"),
    "disorder": (
        "PHN",
        b"0 800 h#\n900 950 aa\n800 900 s\n",
        r"line 3: 800 to 900 after 900 to 950; expected times in",
    ),
    "backwards": ("PHN", b"800 0 h#\n", r"line 1: 800 to 0; expected times in order"),
    "empty_labels": ("PHN", b"\n", r"holds no labels"),
    "other_labels": ("PHN", b"0 99000 h#\n", r"labels end 5\.\d\d s after the audio .*cover it to within a second"),
}


def spoil(corpus: Path, name: str, kind: str) -> Path:
    suffix, content, _ = SPOILED[kind]
    path = corpus / "TRAIN" / "DR1" / name / f"SX37.{suffix}"
    path.unlink() if content is None else path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", SPOILED)
def test_a_bad_file_is_named_with_what_was_expected(corpus, cache, kind):
    spoil(corpus, "FCJF0", kind)
    with pytest.raises(ConfigError, match=SPOILED[kind][2]) as caught:
        timit.load(folder=corpus, cache_dir=cache)
    assert str(caught.value).startswith("1 of 14 recordings are bad: ")
    assert str(corpus / "TRAIN" / "DR1" / "FCJF0" / "SX37.") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_bad_files_are_reported_at_once_and_left_out_when_told(corpus, cache, caplog):
    paths = [spoil(corpus, "FCJF0", "rate"), spoil(corpus, "MCPM0", "unknown_phone"), spoil(corpus, "FVMH0", "short")]
    with pytest.raises(ConfigError, match=r"^3 of 14 recordings are bad: .* skip_bad leaves them out$") as caught:
        timit.load(folder=corpus, cache_dir=cache)
    assert all(str(path) in str(caught.value) for path in paths)
    found = timit.load(folder=corpus, cache_dir=cache, skip_bad=True)
    assert found.splits["train"].ids == ("FCJF0_SI648", "FVMH0_SI648", "MCPM0_SI648")
    [note] = [note for note in found.notes if "left out" in note]
    assert all(str(path) in note for path in paths)
    assert note in caplog.messages


def test_many_bad_files_are_counted(corpus, cache, monkeypatch):
    monkeypatch.setattr(timit, "SHOWN", 1)
    for name in ("FCJF0", "MCPM0", "FVMH0"):
        spoil(corpus, name, "rate")
    with pytest.raises(ConfigError, match=r"^3 of 14 .* expected 16000; and 2 more; skip_bad"):
        timit.load(folder=corpus, cache_dir=cache)


def test_a_split_with_bad_files_only_is_refused(tmp_path, cache):
    corpus = write_corpus(tmp_path / "TIMIT", sentences=["SX37"])
    for name in ("FCJF0", "MCPM0", "FVMH0"):
        spoil(corpus, name, "rate")
    with pytest.raises(ConfigError, match=r"no good recording is left in the train split: .*8000 Hz"):
        timit.load(folder=corpus, cache_dir=cache, skip_bad=True)


@pytest.mark.parametrize(
    ("shift", "note"), [(-2802, "0.18 s of the audio without a label"), (2802, "labels end 0.18 s after the audio")]
)
def test_labels_that_do_not_cover_their_audio_are_continued_or_cut(corpus, cache, shift, note):
    path = corpus / "TRAIN" / "DR1" / "FCJF0" / "SX37.PHN"
    samples, _ = utterance(["h#", *INVENTORY, "h#"], np.random.default_rng(3))
    path.with_suffix(".WAV").write_bytes(sphere(samples))
    end = len(samples) + shift
    path.write_text(labels([(0, 3000, "h#"), (3000, 6000, "s"), (6000, end, "iy")]))
    found = timit.load(folder=corpus, cache_dir=cache)
    assert any(f"{path}: {note}" in line for line in found.notes)
    train = found.splits["train"]
    targets = train.targets[train.rows(train.ids.index("FCJF0_SX37"))]
    assert len(targets) == 1 + (len(samples) - 400) // 160
    np.testing.assert_array_equal(targets[37:], PHONES[61].index("iy"))  # The first centre behind 6000 is 200 + 37·160.
    assert targets[36] == PHONES[61].index("s")


def test_labels_short_by_less_than_a_frame_need_no_note(corpus, cache):
    path = corpus / "TRAIN" / "DR1" / "FCJF0" / "SX37.PHN"
    samples = samples_in(path.with_suffix(".WAV"))
    path.write_text(labels([(0, samples - 160, "h#")]))
    assert not any("cover" in line for line in timit.load(folder=corpus, cache_dir=cache).notes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"TIMIT not found: .*TIMIT is not a folder; it must hold the corpus LDC93S1"),
        (lambda root: root.mkdir(), r"TIMIT holds no recordings of TIMIT; expected TRAIN/DR1/FCJF0/SX37\.WAV"),
        (
            lambda root: write_corpus(root, {"TRAIN": ("FCJF0",), "TEST": ("MDAB0",)}),
            r"holds no recordings of the validation split, which has 50 speakers",
        ),
    ],
)
def test_a_folder_without_the_corpus_is_refused(tmp_path, make, message):
    make(tmp_path / "TIMIT")
    with pytest.raises(ConfigError, match=message):
        timit.load(tmp_path, "TIMIT", cache_dir=tmp_path)


def test_two_copies_are_refused(tmp_path):
    write_corpus(tmp_path / "a" / "TIMIT")
    write_corpus(tmp_path / "b" / "TIMIT", lower=True)
    with pytest.raises(ConfigError, match=r"one recording is there twice: .*a/TIMIT/T.*b/TIMIT/t"):
        find_recordings(tmp_path)


def test_both_layouts_are_refused(corpus):
    (corpus / "dr1-fvmh0").mkdir()
    (corpus / "dr1-fvmh0" / "sx116.wav").touch()
    with pytest.raises(ConfigError, match=r"holds TIMIT in both layouts"):
        find_recordings(corpus)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"normalize": "none"}, r"normalize is 'none'; allowed: 'speaker', 'training'"),
        ({"targets": "phones40"}, r"targets is 'phones40'; allowed: phones61, phones48, phones39, states, or Kaldi's"),
    ],
)
def test_unknown_names_list_the_known(generated, fields, message):
    with pytest.raises(ConfigError, match=message):
        timit.load(folder=generated, **fields)


def test_a_missing_library_names_the_extra(generated, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ConfigError, match=r"soundfile .*pip install 'rnnlab\[speech\]'"):
        timit.load(folder=generated)


# The real sample


def test_the_sample_is_96_16_and_16_utterances(real_data, tmp_path):
    if not (real_data / "timit").is_dir():
        pytest.skip("RNNLAB_DATA has no timit/")
    found = timit.load(real_data, cache_dir=tmp_path)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 96, "validation": 16, "test": 16}
    assert not set(found.splits["train"].speakers) & {*SAMPLE_TEST, *SAMPLE_DEVELOPMENT}
    [note] = found.notes
    assert note.endswith("dr3-madc0/si1367.phn: 0.18 s of the audio without a label")
    for split in found.splits.values():
        assert abs(float(split.features.mean())) < 1e-5
        assert set(np.unique(split.targets)) <= set(range(61))
    assert len(np.unique(found.splits["train"].targets)) == 61
