"""CIFAR-10's archive and Fashion-MNIST's files, good and bad, and their pixels as a task; small ones written here."""

import functools
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import resolve
from rnnlab.datasets import cifar, mnist
from rnnlab.records.run_config import resolve_config
from rnnlab.tasks import Batch, Pixels, Split, Task, make_task
from rnnlab.tasks.pixels import CLASSES
from rnnlab.training.loop import train_and_evaluate
from tests.helpers import SMALL_RUN
from tests.tiers import slow_tests

BATCH, TEST, HELD_OUT = 3, 5, 4
TRAIN = 5 * BATCH
ARCHIVE = "cifar-10-binary.tar.gz"


def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Random images [N, 3, 32, 32] and labels."""
    rng = np.random.default_rng(TEST if split == "test" else TRAIN)
    count = TEST if split == "test" else TRAIN
    return rng.integers(0, 256, (count, 3, 32, 32), np.uint8), rng.integers(0, 10, count, np.uint8)


def records(images: np.ndarray, labels: np.ndarray) -> bytes:
    """The binary version: for each image its label, then the reds row by row, the greens, the blues."""
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def files() -> dict[str, bytes]:
    images, labels = arrays("train")
    parts = {
        f"cifar-10-batches-bin/data_batch_{n + 1}.bin": records(
            images[n * BATCH :][:BATCH], labels[n * BATCH :][:BATCH]
        )
        for n in range(5)
    }
    return {
        "cifar-10-batches-bin/readme.html": b"<html>",
        "cifar-10-batches-bin/batches.meta.txt": b"airplane\n",
        "cifar-10-batches-bin/test_batch.bin": records(*arrays("test")),
        **dict(reversed(parts.items())),  # The archive's own order is not that of their numbers.
    }


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Puts an archive into tmp_path/cifar10 and declares its checksum the right one; nothing is downloaded."""

    def put(content: bytes) -> Path:
        path = tmp_path / "cifar10" / ARCHIVE
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        monkeypatch.setitem(cifar.CHECKSUMS, ARCHIVE, hashlib.sha256(content).hexdigest())
        return path

    def no_network(*args: Any, **options: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(pooch, "retrieve", no_network)
    return put


@pytest.fixture
def folder(tmp_path: Path, write: Write) -> Path:
    write(archive(files()))
    return tmp_path


def make(folder: Path, **options: Any) -> Pixels:
    return Pixels(**{"dataset": "cifar10", "validation_size": HELD_OUT, "data_dir": folder} | options)


@functools.cache
def compiled_batch(task: Task) -> Any:
    return jax.jit(task.batch, static_argnums=2)


def draw(task: Task, split: Split, positions: Any, seed: int = 0) -> Batch:
    """A batch in NumPy."""
    batch = compiled_batch(task)(task.data, jnp.int32(seed), split, jnp.asarray(positions, jnp.uint32))
    return jax.tree.map(np.asarray, batch)


# --- files -----------------------------------------------------------------------------------------------------------


def test_load_returns_what_was_written_with_the_channels_last(folder: Path) -> None:
    for part, split in zip(cifar.load(folder), ("train", "test"), strict=True):
        images, labels = arrays(split)
        assert part.images.dtype == part.labels.dtype == np.uint8
        np.testing.assert_array_equal(part.images, images.transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(part.labels, labels)


WHOLE = files()
TEST_FILE = cifar.TEST
BAD = {
    "cut archive": (archive(WHOLE)[:-3000], "cannot be unpacked"),
    "no archive": (b"<html>", "cannot be unpacked"),
    "empty": (b"", "cannot be unpacked"),
    "a file missing": (archive({k: v for k, v in WHOLE.items() if "batch_3" not in k}), r"has no .*data_batch_3\.bin"),
    "a byte short": (
        archive(WHOLE | {TEST_FILE: WHOLE[TEST_FILE][:-1]}),
        r"test_batch\.bin has 15364 bytes.* 3073 for",
    ),
    "a byte long": (archive(WHOLE | {TEST_FILE: WHOLE[TEST_FILE] + b"0"}), r"test_batch\.bin has 15366 bytes"),
    "empty file": (archive(WHOLE | {TEST_FILE: b""}), r"test_batch\.bin has 0 bytes"),
    "label 10": (archive(WHOLE | {TEST_FILE: b"\x0a" + WHOLE[TEST_FILE][1:]}), "label 10 of image 0; the classes are"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_archives_are_refused_by_name(name: str, write: Write, tmp_path: Path) -> None:
    content, message = BAD[name]
    path = write(content)
    with pytest.raises(ConfigError, match=message) as caught:
        cifar.load(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_wrong_checksum_and_missing_archive_name_the_address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cifar.CHECKSUMS, ARCHIVE, "0" * 64)
    with pytest.raises(ConfigError, match=f"truncated or corrupt: expected sha256 {'0' * 64}.*{cifar.URL}"):
        make(folder)
    (folder / "cifar10" / ARCHIVE).unlink()
    with pytest.raises(ConfigError, match=rf"{ARCHIVE} is missing and could not be downloaded from {cifar.URL}"):
        make(folder)


def write_fashion(folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, np.ndarray] | None = None) -> None:
    """The four files of Fashion-MNIST; change: arrays in place of the random ones."""
    rng = np.random.default_rng(1)
    (folder / "fashion_mnist").mkdir(exist_ok=True)
    for name in mnist.FASHION_CHECKSUMS:
        count = TRAIN if "train" in name else TEST
        array = (
            rng.integers(0, 256, (count, 28, 28), np.uint8)
            if "images" in name
            else np.arange(count, dtype=np.uint8) % 10
        )
        array = (change or {}).get(name, array)
        header = bytes([0, 0, 8, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
        content = gzip.compress(header + array.tobytes())
        (folder / "fashion_mnist" / name).write_bytes(content)
        monkeypatch.setitem(mnist.FASHION_CHECKSUMS, name, hashlib.sha256(content).hexdigest())


def test_fashion_mnist_has_files_of_its_own(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fashion(tmp_path, monkeypatch)
    task = make(tmp_path, dataset="fashion_mnist")
    _, test = mnist.load_fashion(tmp_path)
    batch = draw(task, "test", range(TEST))
    np.testing.assert_array_equal(batch.inputs[:, :, 0].T, test.images.reshape(TEST, 784))
    np.testing.assert_array_equal(batch.targets, np.arange(TEST))
    with pytest.raises(ConfigError, match=r"mnist/train-images-idx3-ubyte\.gz is missing"):
        make(tmp_path, dataset="mnist")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("t10k-labels-idx1-ubyte.gz", np.zeros(TEST + 1, np.uint8), r"has labels \(6,\) for images \(5, 28, 28\)"),
        ("t10k-images-idx3-ubyte.gz", np.zeros((TEST, 27, 28), np.uint8), r"for images \(5, 27, 28\)"),
        ("train-labels-idx1-ubyte.gz", np.full(TRAIN, 10, np.uint8), "label 10; the classes are 0 to 9"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    name: str, array: np.ndarray, message: str, tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(tmp_path, monkeypatch, {name: array})
    with pytest.raises(ConfigError, match=message):
        make(tmp_path, dataset="fashion_mnist")


# --- the task --------------------------------------------------------------------------------------------------------


def by_loops(image: np.ndarray, order: str) -> np.ndarray:
    """The sequence of an image [3, 32, 32] without noise."""
    steps = []
    if order in ("rows", "noisy_rows"):
        for row in range(32):
            steps.append([image[channel, row, column] for channel in range(3) for column in range(32)])
        return np.array(steps)
    pixels = range(1024) if order == "scanline" else np.random.RandomState(0).permutation(1024)
    for pixel in pixels:
        steps.append([image[channel, pixel // 32, pixel % 32] for channel in range(3)])
    if order == "permuted_rows":
        return np.array([[steps[32 * t + i][c] for c in range(3) for i in range(32)] for t in range(32)])
    return np.array(steps)


@pytest.mark.parametrize(
    ("order", "shape"),
    [("scanline", (1024, 3)), ("permuted", (1024, 3)), ("rows", (32, 96)), ("permuted_rows", (32, 96))],
)
def test_a_colour_image_is_read_in_each_order(folder: Path, order: str, shape: tuple[int, int]) -> None:
    task = make(folder, order=order)
    batch = draw(task, "test", range(TEST))
    assert batch.inputs.shape == (shape[0], TEST, shape[1])
    assert (task.in_features, task.longest_dependency) == (shape[1], shape[0] - 1)
    images, labels = arrays("test")
    for row, image in enumerate(images):
        np.testing.assert_array_equal(batch.inputs[:, row], by_loops(image, order))
    np.testing.assert_array_equal(batch.targets, labels)
    held_out = draw(task, "validation", range(HELD_OUT))
    np.testing.assert_array_equal(held_out.targets, arrays("train")[1][-HELD_OUT:])


def test_every_label_of_a_data_set_has_a_name(folder: Path) -> None:
    task = make_task({"name": "pixels", "dataset": "cifar10", "validation_size": 1}, str(folder))
    assert task.classes == CLASSES["cifar10"]
    for names in CLASSES.values():
        assert len(set(names)) == task.out_features == 10


def test_noisy_rows_are_the_rows_and_then_noise_of_its_own_for_each_image(folder: Path) -> None:
    task, white = make(folder, order="noisy_rows", white=2.0), 2.0
    assert (task.in_features, task.longest_dependency) == (96, 999)
    batch, again = draw(task, "test", range(TEST)), draw(task, "test", range(TEST), seed=1)
    assert batch.inputs.shape == (1000, TEST, 96)
    np.testing.assert_array_equal(batch.inputs, again.inputs)
    for row, image in enumerate(arrays("test")[0]):
        np.testing.assert_allclose(batch.inputs[:32, row], by_loops(image, "noisy_rows") / 255 * white, rtol=1e-6)
    noise = batch.inputs[32:].swapaxes(0, 1).reshape(TEST, -1) / white
    error = 1 / np.sqrt(noise.shape[1])  # Of the mean; that of the deviation is smaller by √2.
    np.testing.assert_allclose(noise.mean(1), 0, atol=4 * error)
    np.testing.assert_allclose(noise.std(1), 1, atol=4 * error / np.sqrt(2))
    assert abs(np.corrcoef(noise) - np.eye(TEST)).max() < 0.02
    # In training, too, an image's noise is the same in every epoch.
    count = TRAIN - HELD_OUT
    train = draw(task, "train", range(2 * count))
    rows: list[Any] = sorted(train.inputs[:, row].tobytes() for row in range(2 * count))
    assert rows[::2] == rows[1::2]


@pytest.mark.parametrize("length", [32, 33, 40])
def test_noise_goes_up_to_the_length(folder: Path, length: int) -> None:
    task = make(folder, order="noisy_rows", length=length)
    batch = draw(task, "test", range(TEST))
    assert batch.inputs.shape == (length, TEST, 96)
    assert task.longest_dependency == length - 1
    assert (batch.inputs[32:] != 0).all()


def test_rows_of_grey_images_may_have_noise_behind_them(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(tmp_path, monkeypatch)
    batch = draw(make(tmp_path, dataset="fashion_mnist", order="noisy_rows", length=30), "test", range(TEST))
    assert batch.inputs.shape == (30, TEST, 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "noisy_rows", "length": 31}, r"^task\.length: 31 is too short; it must be at least 32"),
        ({"order": "rows", "length": 1000}, r"^task\.length: order 'rows' is as long as the image; only noisy_rows"),
        ({"validation_size": TRAIN}, rf"^task\.validation_size: {TRAIN} leaves none of the {TRAIN} training"),
        ({"dataset": "cifar100"}, r"task\.dataset.*cifar100.*cifar10"),
        ({"order": "columns"}, r"task\.order.*columns"),
    ],
)
def test_mistakes_are_one_line(folder: Path, options: dict[str, Any], message: str) -> None:
    section = {"dataset": "cifar10", "validation_size": HELD_OUT} | options
    with pytest.raises(ConfigError, match=message) as caught:
        make_task({"name": "pixels"} | resolve(Pixels, section, "task"), str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_on_noisy_rows_resumes_to_the_bit(folder: Path, no_figures: None) -> None:
    task = {"name": "pixels", "dataset": "cifar10", "order": "noisy_rows", "length": 36, "white": 1.0}
    task |= {"validation_size": HELD_OUT}
    config = SMALL_RUN | {"task": task, "augmentation": {"pixel_shift": 2}, "log_every": 2, "eval_every": 2}
    sizes = {"eval_batch_size": 4, "checkpoint_every": 2}
    for name, ends in {"straight": [4], "resumed": [2, 4]}.items():
        for steps in ends:
            train_and_evaluate(resolve_config(config | sizes | {"steps": steps}), folder / name, str(folder))
    lines = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text.splitlines()]
        for text in ((folder / name / "metrics.jsonl").read_text() for name in ("straight", "resumed"))
    ]
    last = [line for line in lines[0] if line["step"] == 4]
    assert last
    assert [line for line in lines[1] if line["step"] == 4][-len(last) :] == last


# --- shifted images --------------------------------------------------------------------------------------------------


def moved(image: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """The image [3, 32, 32] moved down by dy and right by dx; what comes in is black."""
    out = np.zeros_like(image)
    for row in range(32):
        for column in range(32):
            if 0 <= row - dy < 32 and 0 <= column - dx < 32:
                out[:, row, column] = image[:, row - dy, column - dx]
    return out


@pytest.mark.parametrize("order", ["noisy_rows", *slow_tests("scanline", "permuted")])
def test_pixel_shift_moves_all_colours_together_and_leaves_the_noise(folder: Path, order: str) -> None:
    length = {"length": 35} if order == "noisy_rows" else {}
    section = dict(name="pixels", dataset="cifar10", order=order, validation_size=HELD_OUT, **length)
    task, plain = make_task(section, str(folder), {"pixel_shift": 1}), make_task(section, str(folder))
    count = 30
    batch, before = draw(task, "train", range(count)), draw(plain, "train", range(count))
    np.testing.assert_array_equal(batch.targets, before.targets)
    places = {image.tobytes(): image for image in arrays("train")[0]}
    steps = 32 if order == "noisy_rows" else 1024
    shifts = {
        by_loops(moved(image, dy, dx), order).tobytes(): (by_loops(image, order), (dy, dx))
        for image in places.values()
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    seen = set()
    for row in range(count):
        original, shift = shifts[batch.inputs[:steps, row].astype(np.uint8).tobytes()]
        np.testing.assert_array_equal(before.inputs[:steps, row], original)
        seen.add(shift)
    assert len(seen) > 6
    np.testing.assert_array_equal(batch.inputs[steps:], before.inputs[steps:])
