"""Files that grow: only whole lines, each once, whatever happens to the file; and lines as columns."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rnnlab.watch import tails
from rnnlab.watch.tails import Tail, columns_of, objects_of
from tests.watch.workdirs import decay, lines_of, train_line, validation_line

LINES = lines_of(decay(12)).encode()


@pytest.mark.parametrize("size", [1, 7, 100, len(LINES)])
def test_lines_come_whole_and_once_however_the_file_grows(tmp_path: Path, size: int) -> None:
    path, pieces = tmp_path / "metrics.jsonl", []
    tail = Tail(path)
    with path.open("wb", buffering=0) as file:
        for begin in range(0, len(LINES), size):
            file.write(LINES[begin : begin + size])
            anew, lines = tail.read()
            assert not anew
            assert lines == b"" or lines.endswith(b"\n")
            pieces.append(lines)
    assert b"".join(pieces) == LINES
    assert tail.read() == (False, b"")
    assert not tail.more


@pytest.mark.parametrize("how", ["replaced", "cut", "rewritten in place", "longer, in place", "gone"])
def test_a_file_that_is_another_one_begins_anew(tmp_path: Path, how: str) -> None:
    path, other = tmp_path / "metrics.jsonl", lines_of(decay(4, 0.7)).encode()
    path.write_bytes(LINES)
    tail = Tail(path)
    tail.read()
    if how == "replaced":
        (tmp_path / "new").write_bytes(other)
        os.replace(tmp_path / "new", path)
    elif how == "cut":
        other = LINES[: LINES.index(b"\n") + 1]
        os.truncate(path, len(other))
    elif how == "gone":
        other = b""
        path.unlink()
    else:
        other = (other * 9)[: len(LINES)] if how == "rewritten in place" else other * 9
        other = other[: other.rindex(b"\n") + 1]
        path.write_bytes(other)
    assert tail.read() == (True, other)
    assert tail.read() == (False, b"")


def test_a_file_that_comes_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "later" / "metrics.jsonl")
    assert tail.read() == (False, b"")
    tail.path.parent.mkdir()
    tail.path.write_bytes(LINES)
    assert tail.read() == (False, LINES)


def test_a_large_file_comes_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "CHUNK", 50)  # Shorter than a line.
    path, pieces = tmp_path / "metrics.jsonl", []
    path.write_bytes(LINES)
    tail = Tail(path)
    while not pieces or tail.more:
        pieces.append(tail.read()[1])
    assert b"".join(pieces) == LINES
    assert len(pieces) > 5


def test_a_line_without_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "CHUNK", 50)
    monkeypatch.setattr(tails, "LONGEST", 300)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"x" * 450 + b"\n" + LINES)
    tail, pieces = Tail(path), []
    while not pieces or tail.more:
        pieces.append(tail.read()[1])
    assert b"".join(pieces) == path.read_bytes()
    assert sum(objects_of(piece)[1] for piece in pieces) == 2


def test_a_folder_in_the_place_of_a_file_is_a_problem_in_words(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    assert tail.read() == (False, b"")
    assert tail.problem


MIXED = [
    train_line(1),
    train_line(2, penalty=3),
    validation_line(2),
    train_line(3, 7, learning_rate=1e-9),
    {"step": 3, "split": "test", "loss": 1},
]


@pytest.mark.parametrize("odd", [[], [train_line(4, "nan"), train_line(5, "inf"), train_line(6, "-inf")]])
def test_both_readers_of_lines_give_the_same_columns(monkeypatch: pytest.MonkeyPatch, odd: list) -> None:
    lines = lines_of(MIXED + odd).encode()
    slow, damaged = columns_of(lines)
    monkeypatch.setattr(tails, "_MANY", 0)
    fast, _ = columns_of(lines)
    assert damaged == 0
    assert (tails._by_arrow(lines) is None) == bool(odd)
    assert fast.keys() == slow.keys() == {"train", "validation", "test"}
    for split, columns in slow.items():
        assert fast[split].keys() == columns.keys()
        for name, both in columns.items():
            np.testing.assert_array_equal(both, fast[split][name])
    if odd:
        losses = slow["train"]["loss"][1]
        np.testing.assert_array_equal(losses, [0.5, 0.5, 7, np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("reader", [0, 1 << 20])
@pytest.mark.parametrize(
    "line",
    [
        *("{", '{"step": 1', "[]", "7", '{"split": "train"}', '{"step": "1", "split": "train"}', '{"step": 2}', "\0"),
        f'{{"step": 1{30 * "0"}, "split": "train", "loss": 1}}',
    ],
)
def test_a_damaged_line_is_counted_and_costs_no_other(monkeypatch: pytest.MonkeyPatch, line: str, reader: int) -> None:
    monkeypatch.setattr(tails, "_MANY", reader)
    whole = json.dumps(train_line(1))
    columns, damaged = columns_of(f"{whole}\n{line}\n{whole}\n".encode())
    assert damaged == 1
    assert columns["train"]["loss"][0].tolist() == [1, 1]
