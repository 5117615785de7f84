"""MNIST's files, good and bad, and the pixel task made of them; the files are small ones written here."""

import functools
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.datasets import mnist
from rnnlab.datasets.locations import data_root
from rnnlab.tasks import Batch, Pixels, Split, Task, make_task
from tests.tiers import slow_tests

TRAIN, TEST, HELD_OUT = 12, 5, 4
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = mnist.CHECKSUMS


def idx(array: np.ndarray, magic: bytes | None = None) -> bytes:
    """The bytes of an idx file of unsigned bytes, not compressed."""
    start = bytes([0, 0, 8, array.ndim]) if magic is None else magic
    return start + np.asarray(array.shape, ">u4").tobytes() + array.tobytes()


def arrays() -> dict[str, np.ndarray]:
    """Random digits. The first two test images are a code: pixel p is p mod 256 in one and p // 256 in the other; the
    first pixel of a training image is its number."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 28, 28), np.uint8) for n in (TRAIN, TEST))
    train[:, 0, 0] = np.arange(TRAIN)
    test[0], test[1] = np.arange(784).reshape(28, 28) % 256, np.arange(784).reshape(28, 28) // 256
    labels = [rng.integers(0, 10, n, np.uint8) for n in (TRAIN, TEST)]
    return dict(zip(mnist.CHECKSUMS, [train, labels[0], test, labels[1]], strict=True))


Write = Callable[[str, bytes], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Puts a file into tmp_path/mnist and declares its checksum the right one; nothing is downloaded."""

    def put(name: str, content: bytes) -> Path:
        path = tmp_path / "mnist" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        monkeypatch.setitem(mnist.CHECKSUMS, name, hashlib.sha256(content).hexdigest())
        return path

    def no_network(*args: Any, **options: Any) -> None:
        raise OSError("Failed to resolve\n 'storage.googleapis.com'")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    monkeypatch.delenv("RNNLAB_DATA", raising=False)
    return put


@pytest.fixture
def folder(tmp_path: Path, write: Write) -> Path:
    """A data folder with the four files of `arrays`."""
    for name, array in arrays().items():
        write(name, gzip.compress(idx(array)))
    return tmp_path


@functools.cache
def compiled_batch(task: Task) -> Any:
    return jax.jit(task.batch, static_argnums=2)


def draw(task: Task, split: Split, positions: Any, seed: int = 0) -> Batch:
    """A batch in NumPy."""
    compiled = compiled_batch(task)
    batch = compiled(task.data, jnp.int32(seed), split, jnp.asarray(positions, jnp.uint32))
    return jax.tree.map(np.asarray, batch)


# --- files -----------------------------------------------------------------------------------------------------------


def test_load_returns_what_was_written(folder: Path) -> None:
    expected = arrays()
    train, test = mnist.load(folder)
    found = dict(zip(mnist.CHECKSUMS, [*train, *test], strict=True))
    for name, array in expected.items():
        assert found[name].dtype == np.uint8
        np.testing.assert_array_equal(found[name], array)


def test_the_environment_names_the_folder_where_no_argument_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNNLAB_DATA", str(folder))
    assert len(mnist.load()[0].labels) == TRAIN
    assert data_root("~/there") == Path("~/there").expanduser()
    monkeypatch.delenv("RNNLAB_DATA")
    assert data_root() == Path(pooch.os_cache("rnnlab"))


def test_wrong_checksum_names_file_expected_and_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, expected = folder / "mnist" / TRAIN_LABELS, "0" * 64
    before = path.read_bytes()
    monkeypatch.setitem(mnist.CHECKSUMS, TRAIN_LABELS, expected)
    with pytest.raises(ConfigError) as caught:
        mnist.load(folder)
    for part in (str(path), expected, hashlib.sha256(before).hexdigest(), mnist.URL + TRAIN_LABELS):
        assert part in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("level", [0, 1, 9])
def test_a_file_that_was_compressed_anew_is_as_good(folder: Path, monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    for name in mnist.CHECKSUMS:
        path = folder / "mnist" / name
        content = gzip.decompress(path.read_bytes())
        monkeypatch.setitem(mnist.CONTENTS, name, hashlib.sha256(content).hexdigest())
        path.write_bytes(gzip.compress(content, level, mtime=7))
        assert hashlib.sha256(path.read_bytes()).hexdigest() != mnist.CHECKSUMS[name]
    assert len(mnist.load(folder)[0].labels) == TRAIN
    path.write_bytes(gzip.compress(content + b"0"))
    with pytest.raises(ConfigError, match="is truncated or corrupt"):
        mnist.load(folder)


def test_the_real_files_have_the_checksums_of_what_is_in_them(real_data: Path) -> None:
    for name, expected in mnist.CONTENTS.items():
        content = gzip.decompress((real_data / "mnist" / name).read_bytes())
        assert hashlib.sha256(content).hexdigest() == expected


IMAGES = np.zeros((2, 28, 28), np.uint8)
BAD_FILES = {
    "cut gzip": (gzip.compress(idx(IMAGES))[:-9], "not a whole gzip file"),
    "no gzip": (idx(IMAGES), "not a whole gzip file"),
    "empty": (b"", "truncated|idx file|gzip file"),
    "gzip of nothing": (gzip.compress(b""), "not an idx file of unsigned bytes: it begins with nothing"),
    "signed bytes": (gzip.compress(idx(IMAGES, bytes([0, 0, 9, 3]))), "not an idx file of unsigned bytes.*00000903"),
    "not idx": (gzip.compress(b"<html>"), "not an idx file of unsigned bytes.*3c68746d"),
    "header alone": (gzip.compress(idx(IMAGES)[:16]), r"truncated: its header says \(2, 28, 28\), 0 bytes follow"),
    "cut header": (gzip.compress(idx(IMAGES)[:9]), "truncated"),
    "a byte short": (gzip.compress(idx(IMAGES)[:-1]), r"header says \(2, 28, 28\), 1567 bytes follow"),
    "a byte long": (gzip.compress(idx(IMAGES) + b"0"), r"header says \(2, 28, 28\), 1569 bytes follow"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_by_name(name: str, folder: Path, write: Write) -> None:
    content, message = BAD_FILES[name]
    path = write(TEST_IMAGES, content)
    with pytest.raises(ConfigError, match=message) as caught:
        mnist.load(folder)
    assert str(path) in str(caught.value)


def test_missing_file_without_network_says_what_to_put_where(folder: Path) -> None:
    path = folder / "mnist" / TEST_LABELS
    path.unlink()
    with pytest.raises(ConfigError) as caught:
        mnist.load(folder)
    for part in (str(path), mnist.URL + TEST_LABELS, "Failed to resolve 'storage", "by hand", "RNNLAB_DATA"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the task --------------------------------------------------------------------------------------------------------


def test_scanline_reads_left_to_right_top_to_bottom(folder: Path) -> None:
    batch = draw(Pixels(validation_size=HELD_OUT, data_dir=folder), "test", range(TEST))
    images, labels = arrays()[TEST_IMAGES], arrays()[TEST_LABELS]
    assert batch.inputs.shape == (784, TEST, 1)
    assert batch.inputs.dtype == np.float32
    np.testing.assert_array_equal(batch.inputs[:, :, 0].T, images.reshape(TEST, 784))
    np.testing.assert_array_equal(batch.targets, labels)


def test_rows_reads_a_row_of_the_image_at_each_step(folder: Path) -> None:
    task = Pixels(order="rows", validation_size=HELD_OUT, data_dir=folder)
    batch = draw(task, "test", range(TEST))
    assert batch.inputs.shape == (28, TEST, 28)
    assert task.in_features == 28
    np.testing.assert_array_equal(batch.inputs.swapaxes(0, 1), arrays()[TEST_IMAGES])


def test_permuted_is_one_fixed_permutation_of_all_images(folder: Path) -> None:
    options = dict(order="permuted", validation_size=HELD_OUT, data_dir=folder)
    task = Pixels(**options)
    found = draw(task, "test", range(TEST)).inputs[:, :, 0].T
    permutation = (found[0] + 256 * found[1]).astype(int)
    np.testing.assert_array_equal(np.sort(permutation), np.arange(784))
    assert (permutation == np.arange(784)).sum() < 10
    inverse = np.argsort(permutation)
    np.testing.assert_array_equal(found[:, inverse], arrays()[TEST_IMAGES].reshape(TEST, 784))
    held_out = draw(task, "validation", range(HELD_OUT)).inputs[:, :, 0].T
    np.testing.assert_array_equal(held_out[:, inverse], arrays()[TRAIN_IMAGES][-HELD_OUT:].reshape(HELD_OUT, 784))
    # The permutation is part of a published result: NumPy's legacy generator, whose stream is frozen.
    np.testing.assert_array_equal(permutation, np.random.RandomState(0).permutation(784))
    other = draw(Pixels(permutation_seed=1, **options), "test", range(TEST)).inputs[:, :, 0].T
    assert not np.array_equal(found, other)


def test_validation_is_the_end_of_the_training_images_and_no_training_batch_sees_it(folder: Path) -> None:
    task = Pixels(validation_size=HELD_OUT, data_dir=folder)
    count = TRAIN - HELD_OUT
    assert [task.size(split) for split in ("train", "validation", "test")] == [count, HELD_OUT, TEST]
    labels = arrays()[TRAIN_LABELS]
    for seed in (0, 1):
        held_out = draw(task, "validation", range(HELD_OUT), seed)
        np.testing.assert_array_equal(held_out.inputs[0, :, 0], np.arange(count, TRAIN))
        np.testing.assert_array_equal(held_out.targets, labels[count:])
        train = draw(task, "train", range(3 * count), seed)
        numbers = train.inputs[0, :, 0].astype(int)
        np.testing.assert_array_equal(np.sort(numbers.reshape(3, count)), np.tile(np.arange(count), (3, 1)))
        np.testing.assert_array_equal(train.targets, labels[numbers])


def test_training_is_on_as_many_of_the_first_images_as_asked_for(folder: Path) -> None:
    task = Pixels(validation_size=HELD_OUT, train_size=3, data_dir=folder)
    assert [task.size(split) for split in ("train", "validation", "test")] == [3, HELD_OUT, TEST]
    numbers = draw(task, "train", range(6), 0).inputs[0, :, 0].astype(int)
    np.testing.assert_array_equal(np.sort(numbers), [0, 0, 1, 1, 2, 2])
    held_out = draw(task, "validation", range(HELD_OUT), 0).inputs[0, :, 0]
    np.testing.assert_array_equal(held_out, np.arange(TRAIN - HELD_OUT, TRAIN))
    count = TRAIN - HELD_OUT
    assert Pixels(validation_size=HELD_OUT, train_size=count, data_dir=folder).size("train") == count
    with pytest.raises(ConfigError, match=rf"^task\.train_size: {count + 1} is more than the {count} images that are"):
        Pixels(validation_size=HELD_OUT, train_size=count + 1, data_dir=folder)


@pytest.mark.parametrize("white", [1.0, 2.5, 255.0])
def test_white_is_the_value_of_a_white_pixel(folder: Path, white: float) -> None:
    batch = draw(Pixels(white=white, validation_size=HELD_OUT, data_dir=folder), "test", range(TEST))
    expected = arrays()[TEST_IMAGES].reshape(TEST, 784) / 255 * white
    np.testing.assert_allclose(batch.inputs[:, :, 0].T, expected, rtol=1e-6)
    assert batch.inputs.max() == pytest.approx(white, rel=1e-6)


@pytest.mark.parametrize("size", [TRAIN, TRAIN + 1])
def test_validation_that_leaves_no_training_image_is_refused(folder: Path, size: int) -> None:
    with pytest.raises(ConfigError, match=rf"task\.validation_size: {size} leaves none of the {TRAIN}"):
        Pixels(validation_size=size, data_dir=folder)


def test_score_is_cross_entropy_in_nats_and_accuracy(folder: Path) -> None:
    task = Pixels(validation_size=HELD_OUT, data_dir=folder)
    batch = Batch(jnp.zeros((784, 3, 1)), jnp.array([0, 3, 9]), None)
    outputs = np.zeros((3, 10), np.float32)
    outputs[1, 3], outputs[2, 0] = 2.0, 200.0
    values, weights = task.score(jnp.asarray(outputs), batch)
    np.testing.assert_allclose(values["loss"], [np.log(10), np.log(9 + np.exp(2)) - 2, 200], rtol=1e-6)
    np.testing.assert_array_equal(values["accuracy"], [1, 1, 0])  # A tie goes to the first.
    np.testing.assert_array_equal(weights, [1, 1, 1])
    assert task.baselines == dict.fromkeys(("validation", "test"), pytest.approx(np.log(10)))


# --- shifted images --------------------------------------------------------------------------------------------------


def moved(image: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """The image [H, W] moved down by dy and right by dx: rolled, what came round again made black."""
    out = np.roll(image, (dy, dx), (0, 1))
    rows, columns = np.indices(image.shape)
    return np.where((rows - dy >= 0) & (rows - dy < 28) & (columns - dx >= 0) & (columns - dx < 28), out, 0)


@pytest.mark.parametrize("order", ["permuted", "rows", *slow_tests("scanline", "permuted_rows")])
def test_pixel_shift_moves_the_image_before_it_is_read(folder: Path, order: str) -> None:
    most, count = 2, 240
    section = dict(name="pixels", order=order, validation_size=HELD_OUT)
    task, plain = make_task(section, str(folder), {"pixel_shift": most}), make_task(section, str(folder))
    batch, before = draw(task, "train", range(count)), draw(plain, "train", range(count))
    np.testing.assert_array_equal(batch.targets, before.targets)
    pixels = np.random.RandomState(0).permutation(784) if "permuted" in order else np.arange(784)

    def images(inputs: np.ndarray) -> np.ndarray:
        flat = np.empty((count, 784), np.float32)
        flat[:, pixels] = inputs.swapaxes(0, 1).reshape(count, 784)
        return flat.reshape(count, 28, 28)

    seen = set()
    for image, original in zip(images(batch.inputs), images(before.inputs), strict=True):
        fits = [
            (dy, dx)
            for dy in range(-most, most + 1)
            for dx in range(-most, most + 1)
            if np.array_equal(image, moved(original, dy, dx))
        ]
        assert len(fits) == 1
        seen |= set(fits)
    assert len(seen) == (2 * most + 1) ** 2
    for split in ("validation", "test"):
        jax.tree.map(np.testing.assert_array_equal, draw(task, split, range(4)), draw(plain, split, range(4)))


def test_an_image_is_shifted_alike_in_every_order(folder: Path) -> None:
    scanline, permuted, rows, permuted_rows = (
        draw(
            make_task(dict(name="pixels", order=order, validation_size=HELD_OUT), str(folder), {"pixel_shift": 3}),
            "train",
            range(10),
        ).inputs.swapaxes(0, 1)
        for order in ("scanline", "permuted", "rows", "permuted_rows")
    )
    np.testing.assert_array_equal(scanline.reshape(10, 784), rows.reshape(10, 784))
    np.testing.assert_array_equal(scanline[:, np.random.RandomState(0).permutation(784)], permuted)
    np.testing.assert_array_equal(permuted.reshape(10, 784), permuted_rows.reshape(10, 784))


def test_pixel_shift_out_of_sight_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^augmentation\.pixel_shift: 28 moves an image of 28 × 28 pixels out of"):
        make_task(dict(name="pixels", validation_size=HELD_OUT), str(folder), {"pixel_shift": 28})


# --- the real files --------------------------------------------------------------------------------------------------


def test_real_files_hold_seventy_thousand_digits(real_data: Path) -> None:
    for part, count, fewest, most in zip(
        mnist.load(real_data), (60_000, 10_000), (5421, 892), (6742, 1135), strict=True
    ):
        assert part.images.shape == (count, 28, 28)
        assert part.labels.shape == (count,)
        histogram = np.bincount(part.labels, minlength=10)
        assert (len(histogram), histogram.min(), histogram.max()) == (10, fewest, most)  # Of fives and of ones.
        assert (histogram.argmin(), histogram.argmax()) == (5, 1)
        assert part.images.mean() == pytest.approx(33.3, abs=0.6)
