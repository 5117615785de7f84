"""Reading the files that commands leave: every damage is one line that names the file and says what to do."""

import contextlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.files import (
    Unwritable,
    interpreting,
    read_arrays,
    read_json,
    read_json_lines,
    read_text,
    read_toml,
    whole_file,
    write_bytes,
)
from rnnlab.files.locks import claimed

REMEDY = "remove it and measure again"
TEXT = json.dumps({"step": 3, "best": {"loss": 0.5}, "runs": ["a", "b"], "note": None})
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "blank": (b" \n", "is empty"),
    "cut": (TEXT[: len(TEXT) // 2].encode(), "is cut short"),
    "cut in a text": (TEXT[: TEXT.index("runs") + 2].encode(), "is cut short"),
    "binary": (b"\x89PNG\xff\xfe", "is binary"),
    "zeros": (bytes(40), "is binary"),
    "another quote": (TEXT.replace('"best"', "'best'").encode(), "is not JSON (line 1, column 13"),
    "endless": (b"[" * 100_000, "is not JSON"),
    "too many digits": (b'{"step": ' + b"1" * 5000 + b"}", "is not JSON"),
    "a list": (b"[1]", "holds a list, not an object"),
    "a number": (b"3", "holds a whole number, not an object"),
    "null": (b"null", "holds null, not an object"),
    "another key": (TEXT.replace("step", "stdp").encode(), "lacks 'step'"),
    "another type": (TEXT.replace("3", '"3"').encode(), "holds text as 'step', not a whole number"),
    "true for a number": (TEXT.replace("3", "true").encode(), "holds true or false as 'step', not a whole number"),
    "another key inside": (TEXT.replace("loss", "lass").encode(), "lacks 'best.loss'"),
    "another type inside": (TEXT.replace("0.5", "[]").encode(), "holds a list as 'best.loss', not a number or text"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_named_with_what_is_wrong_and_what_to_do(tmp_path: Path, damage: str):
    path, (content, problem) = tmp_path / "found.json", DAMAGED[damage]
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_json(path, REMEDY, {"step": int, "best": {"loss": (float, str)}, "runs": list})
    text = str(caught.value)
    assert text.startswith(f"{path} {problem}")
    assert text.endswith(f"; {REMEDY}")
    assert "\n" not in text


def test_a_whole_file_is_read(tmp_path: Path):
    path = tmp_path / "found.json"
    path.write_text(TEXT)
    assert read_json(path, REMEDY, {"step": float, "note": (str, type(None)), "best": {}}) == json.loads(TEXT)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    for read in (read_json, read_json_lines, read_arrays, read_toml, read_text):
        with pytest.raises(ConfigError, match=r"^.*/absent is missing; remove it and measure again$"):
            read(tmp_path / "absent", REMEDY)
        with pytest.raises(ConfigError, match=r"cannot be read: Is a directory$"):
            read(tmp_path, REMEDY)


def test_lines_that_are_none_are_numbered_and_the_others_kept(tmp_path: Path):
    path = tmp_path / "found.jsonl"
    path.write_bytes(b'{"step": 1}\n\n{"step"\n{"step": "2"}\n\xff\xfe\n3\n{"step": 4, "split": "test"}\n{"ste')
    assert read_json_lines(path, REMEDY, {"step": int}) == (
        [{"step": 1}, {"step": 4, "split": "test"}],
        [3, 4, 5, 6],
    )
    for content in (b"", b'{"st'):
        path.write_bytes(content)
        assert read_json_lines(path, REMEDY) == ([], [])
    path.write_bytes(bytes(30))
    with pytest.raises(ConfigError, match="holds no line of JSON; remove it"):
        read_json_lines(path, REMEDY)


def test_every_flipped_bit_of_an_array_is_found_or_changes_nothing(tmp_path: Path):
    path, draw = tmp_path / "found.npz", np.random.default_rng(0)
    arrays = {"a": draw.standard_normal(300).astype(np.float32), "b": np.arange(5)}
    np.savez(path, **arrays)
    whole, result = path.read_bytes(), 0
    for position in draw.integers(0, 8 * len(whole), 400).tolist():
        content = bytearray(whole)
        content[position // 8] ^= 1 << position % 8
        path.write_bytes(content)
        try:
            read = read_arrays(path, REMEDY, arrays)
        except ConfigError:
            result += 1
        else:
            assert all(np.array_equal(read[name], array) for name, array in arrays.items())
    assert result > 300


@pytest.mark.parametrize("damage", ["empty", "cut", "binary", "objects", "lacks one"])
def test_a_damaged_archive_is_named(tmp_path: Path, damage: str):
    path = tmp_path / "found.npz"
    arrays = {"objects": {"a": np.array([{}], object)}, "lacks one": {"b": np.zeros(3)}}.get(
        damage, {"a": np.zeros(99)}
    )
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    if damage in ("empty", "cut"):
        os.truncate(path, {"empty": 0, "cut": path.stat().st_size // 2}[damage])
    if damage == "binary":
        path.write_bytes(b"\x89PNG\xff\xfe" * 9)
    with pytest.raises(
        ConfigError, match=rf"^{path} (is not a whole archive of arrays|lacks the array 'a').*; {REMEDY}$"
    ):
        read_arrays(path, REMEDY, ["a"])


def test_an_archive_of_another_kind_is_named(tmp_path: Path):
    path = tmp_path / "found.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", "no array")
    with pytest.raises(ConfigError, match="is not a whole archive"):
        read_arrays(path, REMEDY)


def test_toml_that_is_none_is_named(tmp_path: Path):
    path = tmp_path / "notes.toml"
    path.write_text("[a\n")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_toml(path, REMEDY)


@pytest.mark.parametrize(
    ("mistake", "problem"),
    [
        (lambda: {}["loss"], "lacks 'loss'"),
        (lambda: [][0], "does not hold what it should (list index out of range)"),
        (lambda: dict(a=None)["a"]["loss"], "does not hold what it should ("),  # pyright: ignore[reportOptionalSubscript]
        (lambda: float("a"), "does not hold what it should ("),
        (lambda: [].items(), "does not hold what it should ("),  # pyright: ignore[reportAttributeAccessIssue]
    ],
)
def test_what_cannot_be_made_sense_of_names_the_file(mistake, problem: str):
    with pytest.raises(ConfigError) as caught, interpreting(Path("w/found.json"), REMEDY):
        mistake()
    assert str(caught.value).startswith(f"w/found.json {problem}")
    assert str(caught.value).endswith(f"; {REMEDY}")


def test_a_mistake_that_is_named_already_stays_as_it_is():
    with pytest.raises(ConfigError, match=r"^another$"), interpreting(Path("found.json"), REMEDY):
        raise ConfigError("another")


WRITERS = {
    "a file": lambda path: write_bytes(path, b"x"),
    "a data file": lambda path: whole_file(path).__enter__(),
    "a lock": claimed,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, writer: str):
    (tmp_path / "folder").touch()
    with (
        pytest.raises(Unwritable, match=r"^cannot write .*/folder/x: .*/folder is not a folder$"),
        contextlib.ExitStack() as stack,
    ):
        stack.enter_context(WRITERS[writer](tmp_path / "folder" / "x"))


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("mine")])
def test_a_file_that_is_written_in_part_leaves_the_one_before(tmp_path: Path, error: BaseException, waits: bool):
    path = tmp_path / "folder" / "file"
    write_bytes(path, b"before")

    def fail() -> None:
        with whole_file(path, waits) as file:
            file.write(b"half")
            raise error

    with pytest.raises(Unwritable if isinstance(error, OSError) else type(error)):
        fail()
    assert [(each.name, each.read_bytes()) for each in path.parent.iterdir()] == [("file", b"before")]
    with whole_file(path, waits) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
