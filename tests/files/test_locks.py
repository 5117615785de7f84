"""Locks between processes: one holder, who it is, and what is left when it ends or dies."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rnnlab.files import locks
from rnnlab.files.locks import claimed, holder

HOLDER = """
import sys, time
from pathlib import Path
from rnnlab.files.locks import claimed
with claimed(Path(sys.argv[1])) as mine:
    print("held" if mine else "refused", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start_holder(path: Path, seconds: float = 60.0) -> subprocess.Popen:
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_lock_has_one_holder_who_is_named_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run.lock"
    process = start_holder(path)
    try:
        with claimed(path) as mine:
            assert not mine
        who = holder(path)
        assert who is not None
        assert f"process {process.pid} on {os.uname().nodename} since " in who
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert path.exists()  # It had no time to remove its file.
    assert holder(path) is None
    with claimed(path) as mine:
        assert mine
        assert holder(path) is None  # No other process.
    assert not path.exists()


def test_patience_outlasts_a_holder_that_ends(tmp_path: Path) -> None:
    process = start_holder(tmp_path / "run.lock", 0.5)
    began = time.monotonic()
    with claimed(tmp_path / "run.lock", patience=30.0) as mine:
        assert mine
    assert time.monotonic() - began < 20
    process.communicate()


def test_asking_who_holds_a_lock_leaves_no_file(tmp_path: Path) -> None:
    assert holder(tmp_path / "none" / "run.lock") is None
    assert list(tmp_path.iterdir()) == []


def test_lock_on_a_file_that_was_removed_is_not_taken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock, tries = tmp_path / "run.lock", fcntl.flock, []

    def removed_meanwhile(descriptor, operation):
        if not tries:
            path.unlink()  # As the holder before ended.
        tries.append(operation)
        return flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with claimed(path, patience=5.0) as mine:
        assert mine
        assert json.loads(path.read_text(encoding="utf-8"))["process"] == os.getpid()
        monkeypatch.undo()
        with claimed(path) as mine_again:
            assert not mine_again
    assert len(tries) >= 2


def test_file_system_without_locks_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuses(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuses)
    monkeypatch.setattr(locks, "_warned", False)
    for name in ("a", "b"):
        with claimed(tmp_path / name / "run.lock") as mine:
            assert mine
            assert holder(tmp_path / name / "run.lock") is None
    warnings = capsys.readouterr().err
    assert warnings.count("warning") == 1
    assert f"the file system of {tmp_path / 'a'} has no locks" in warnings
