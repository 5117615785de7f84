"""Filter banks and deltas against their definitions in NumPy, and the cache they are kept in."""

import sys
from pathlib import Path

import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.datasets import features
from rnnlab.datasets.features import filter_banks, frame_centres, frames_in, load_features, with_deltas
from tests.generated_timit import sphere


def voice(samples: int, seed: int = 0) -> np.ndarray:
    """Gliding harmonics in noise, with an offset, and digital silence at the end: int16 [samples]."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16000
    pitch = 2 * np.pi * np.cumsum(120 + 60 * np.sin(3 * time)) / 16000
    sound = sum(4000 / k * np.sin(k * pitch) for k in range(1, 20)) + rng.normal(50, 30, samples)
    sound[-1200:] = 0
    return np.round(sound).astype(np.int16)


def reference_filter_banks(samples: np.ndarray) -> np.ndarray:
    """Log-mel energies frame by frame, band by band, in double precision."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    edges = np.linspace(mel(20), mel(8000), 42)
    frequencies = mel(np.arange(256) * 16000 / 512)
    rows = []
    for start in range(0, len(samples) - 400 + 1, 160):
        frame = samples[start : start + 400].astype(float)
        frame -= frame.mean()
        frame -= 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.fft(frame * window, 512)[:256]) ** 2
        row = []
        for left, middle, right in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
            rising, falling = (frequencies - left) / (middle - left), (right - frequencies) / (right - middle)
            row.append(np.log(max(np.maximum(np.minimum(rising, falling), 0) @ power, np.finfo(np.float32).eps)))
        rows.append(row)
    return np.array(rows)


def reference_deltas(banks: np.ndarray) -> np.ndarray:
    """Δ and ΔΔ by their sums, frame by frame."""
    last = len(banks) - 1
    first_order = {n: n / 10 for n in range(-2, 3)}
    second_order = dict.fromkeys(range(-4, 5), 0.0)
    for a, x in first_order.items():
        for b, y in first_order.items():
            second_order[a + b] += x * y
    rows = []
    for t in range(len(banks)):
        parts = [
            sum(weight * banks[min(max(t + n, 0), last)].astype(float) for n, weight in order.items())
            for order in (first_order, second_order)
        ]
        rows.append(np.concatenate([banks[t], *parts]))
    return np.array(rows)


def test_filter_banks_equal_their_definition():
    samples = voice(8000)
    np.testing.assert_allclose(filter_banks(samples), reference_filter_banks(samples), rtol=0, atol=1e-3)


@pytest.mark.parametrize("frames", [1, 2, 5, 30])
def test_deltas_equal_their_definition(frames):
    banks = np.random.default_rng(0).normal(size=(frames, 3)).astype(np.float32)
    np.testing.assert_allclose(with_deltas(banks), reference_deltas(banks), rtol=0, atol=1e-6)


def test_features_are_the_same_at_every_computation():
    samples = voice(4000)
    np.testing.assert_array_equal(filter_banks(samples), filter_banks(samples))


@pytest.mark.parametrize("samples", [0, 399, 400, 559, 560, 4000, 4159, 4160])
def test_frames_are_those_that_lie_in_the_audio(samples):
    banks = filter_banks(voice(samples) if samples >= 1200 else np.ones(samples, np.int16))
    assert banks.shape == (frames_in(samples), 40)


def test_centres_are_in_the_middle_of_the_windows():
    np.testing.assert_array_equal(frame_centres(3), [200, 360, 520])


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Four recordings of different lengths."""
    paths = []
    for index, samples in enumerate([3000, 4000, 2500, 3600]):
        paths.append(tmp_path / f"{index}.wav")
        paths[-1].write_bytes(sphere(voice(samples, seed=index)))
    return paths


FRAMES = [frames_in(samples) for samples in (3000, 4000, 2500, 3600)]
ENDS = np.cumsum(FRAMES)
BY_HALVES = [(slice(0, int(ENDS[1])),) * 2, (slice(int(ENDS[1]), int(ENDS[3])),) * 2]
BY_THE_FIRST = [(slice(0, int(ENDS[0])), slice(0, int(ENDS[3])))]


def raw(files: list[Path]) -> list[np.ndarray]:
    return [np.asarray(with_deltas(filter_banks(voice(n, i))), float) for i, n in enumerate((3000, 4000, 2500, 3600))]


@pytest.mark.parametrize(("plan", "groups"), [(BY_HALVES, [[0, 1], [2, 3]]), (BY_THE_FIRST, [[0]])])
def test_rows_are_normalised_by_the_statistics_of_their_group(files, tmp_path, plan, groups):
    found = load_features(files, FRAMES, plan, tmp_path / "cache")
    parts = raw(files)
    expected = []
    for index, part in enumerate(parts):
        group = next((group for group in groups if index in group), groups[0])
        fit = np.concatenate([parts[i] for i in group])
        expected.append((part - fit.mean(0)) / fit.std(0))
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=0, atol=1e-5)


def test_a_feature_that_never_changes_is_zero(tmp_path):
    path = tmp_path / "silence.wav"
    path.write_bytes(sphere(np.zeros(4000, np.int16)))
    count = frames_in(4000)
    found = load_features([path], [count], [(slice(0, count),) * 2], tmp_path)
    np.testing.assert_allclose(found, 0, atol=1e-6)


def test_features_are_computed_once_and_come_from_disk(files, tmp_path, monkeypatch):
    first = load_features(files, FRAMES, BY_HALVES, tmp_path / "cache")
    monkeypatch.setattr(features, "filter_banks", None)  # Which cannot be called.
    second = load_features(files, FRAMES, BY_HALVES, tmp_path / "cache")
    np.testing.assert_array_equal(first, second)
    assert isinstance(second, np.memmap)
    assert not second.flags.writeable
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def test_whatever_changes_the_features_changes_their_file(files, tmp_path, monkeypatch):
    def tables() -> int:
        return len(list((tmp_path / "cache").iterdir()))

    load_features(files, FRAMES, BY_HALVES, tmp_path / "cache")
    load_features(files, FRAMES, BY_THE_FIRST, tmp_path / "cache")
    assert tables() == 2
    load_features(files[:2], FRAMES[:2], BY_HALVES[:1], tmp_path / "cache")
    assert tables() == 3
    monkeypatch.setattr(features, "SMALLEST_STD", 1e-2)
    load_features(files, FRAMES, BY_HALVES, tmp_path / "cache")
    assert tables() == 4
    monkeypatch.undo()
    files[0].write_bytes(sphere(voice(3000, seed=9)))
    changed = load_features(files, FRAMES, BY_HALVES, tmp_path / "cache")
    assert tables() == 5
    assert not np.array_equal(changed, load_features(files, FRAMES, BY_THE_FIRST, tmp_path / "cache"))


def test_a_computation_that_fails_leaves_no_file(files, tmp_path):
    with pytest.raises(ConfigError, match=r"3\.wav: 21 frames could be read; its header says 22"):
        load_features(files, [*FRAMES[:3], FRAMES[3] + 1], BY_THE_FIRST, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_cache_is_made_anew(files, tmp_path):
    whole = np.array(load_features(files, FRAMES, BY_HALVES, tmp_path / "cache"))
    [path] = (tmp_path / "cache").iterdir()
    for damaged in (path.read_bytes()[:-400], path.read_bytes()[:20], b""):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(load_features(files, FRAMES, BY_HALVES, tmp_path / "cache"), whole)


def test_a_cache_that_cannot_be_written_is_one_line(files, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match=r"the features cannot be kept in .*cache"):
        load_features(files, FRAMES, BY_HALVES, tmp_path / "cache")


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "kaldi_native_fbank", None)
    with pytest.raises(ConfigError, match=r"kaldi-native-fbank .*pip install 'rnnlab\[speech\]'"):
        filter_banks(voice(4000))
