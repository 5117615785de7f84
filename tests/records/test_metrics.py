"""Lines of metrics.jsonl and diagnostics.jsonl outlast a full disk, a crash and damage: each once, none lost."""

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.records import metrics
from rnnlab.records.metrics import MetricsFile, MetricsWriter, read_diagnostics, read_metrics


def line(step: int, split: str = "train") -> dict[str, Any]:
    return {"step": step, "split": split, "loss": 0.5, "seconds": 1.0}


def write(workdir: Path, lines: list[dict[str, Any] | str | bytes], name: str = "metrics.jsonl") -> None:
    texts = [json.dumps(each) if isinstance(each, dict) else each for each in lines]
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    (workdir / name).write_bytes(b"".join(text + b"\n" for text in encoded))


DAMAGE = {
    "half a line": '{"step": 2, "spl',
    "half a line and the next": '{"step": 2, "spl{"step": 3, "split": "train"}',
    "binary": b"\xff\x00\xfe",
    "zeros": b"\x00" * 40,
    "another type": "[1, 2]",
    "no step": '{"split": "train", "loss": 1.0}',
    "a step that is text": '{"step": "2", "split": "train", "loss": 1.0}',
    "a number": "7",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_line_is_named_and_the_others_are_kept(tmp_path: Path, capsys, damage: str) -> None:
    write(tmp_path, [line(1), DAMAGE[damage], line(4), line(5)])
    warning = f"warning: {tmp_path / 'metrics.jsonl'}: line 2 cannot be read; left out\n"
    assert read_metrics(tmp_path) == [line(1), line(4), line(5)]
    assert capsys.readouterr().err == warning
    MetricsFile(tmp_path, 4)
    assert capsys.readouterr().err == warning
    assert read_metrics(tmp_path) == [line(1), line(4)]


def test_last_line_that_a_crash_cut_short_is_left_out_without_a_word(tmp_path: Path, capsys) -> None:
    write(tmp_path, [line(1)])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "sp')
    assert read_metrics(tmp_path) == [line(1)]
    MetricsFile(tmp_path, 3).write(4, "train", {"loss": 0.5}, 1.0)
    assert read_metrics(tmp_path) == [line(1), line(4)]
    assert capsys.readouterr().err == ""


def test_file_of_damage_alone_is_an_error_to_readers_and_none_to_the_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"\x00\xff\n\x01\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl holds no line of JSON; remove it"):
        read_metrics(tmp_path)
    MetricsFile(tmp_path, 3)
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize("step", [0, 4, 10, 100])
def test_resumed_file_has_every_line_up_to_the_step_once_and_no_test(tmp_path: Path, step: int) -> None:
    every = [line(s, split) for s in (2, 4, 8, 10) for split in ("train", "validation")]
    write(tmp_path, [*every, line(8, "test"), *every])
    MetricsFile(tmp_path, step)
    assert read_metrics(tmp_path) == [each for each in every if each["step"] <= step]


@pytest.mark.parametrize("step", [0, 4, 100])
def test_resumed_diagnostics_have_every_line_before_the_step_once(tmp_path: Path, step: int) -> None:
    every = [{"step": s, "norms": {"h": [1.0]}} for s in (0, 2, 4, 8)]
    write(tmp_path, [*every, '{"step": 10, "no', *every], "diagnostics.jsonl")
    MetricsWriter(tmp_path, step).close()
    assert read_diagnostics(tmp_path) == [each for each in every if each["step"] < step]


class FullDisk(io.FileIO):
    """Takes so many more bytes, as a disk that fills up."""

    room = 0

    def write(self, content: Any) -> int:
        if not FullDisk.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(FullDisk.room, len(content))
        FullDisk.room -= taken
        return super().write(bytes(content)[:taken])


@pytest.mark.parametrize("room", [0, 1, 30, 50])
@pytest.mark.parametrize("what", ["metrics", "diagnostics"])
def test_full_disk_leaves_no_half_line_and_later_lines_are_whole(tmp_path, monkeypatch, room: int, what: str) -> None:
    writer = MetricsWriter(tmp_path, 0)
    path = tmp_path / f"{what}.jsonl"
    add: Callable[[int], None] = {
        "metrics": lambda step: writer.write(step, "train", {"loss": 0.5}, 1.0),
        "diagnostics": lambda step: writer.observe(step, {"norms": {"h": jnp.ones(3), "kernel": jnp.ones(())}}, 1.0),
    }[what]
    add(1)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        opened = Path.open
        patched.setattr(Path, "open", lambda p, *words, **o: FullDisk(p, "ab") if p == path else opened(p, *words, **o))
        FullDisk.room = room
        with pytest.raises(OSError, match="No space left"):
            add(2)
    assert path.read_bytes() == before
    add(2)
    writer.close()
    read = {"metrics": read_metrics, "diagnostics": read_diagnostics}[what]
    assert [each["step"] for each in read(tmp_path)] == [1, 2]


def test_full_disk_at_a_resume_leaves_the_lines_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [line(1), line(2), line(3)])
    before = (tmp_path / "metrics.jsonl").read_bytes()

    real = Path.open

    def full(path: Path, mode: str = "r", *rest: Any, **others: Any) -> Any:
        if mode != "rb":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, mode, *rest, **others)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ConfigError, match="No space left"):
        MetricsFile(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert metrics.read_metrics(tmp_path) == [line(1), line(2), line(3)]


def test_a_folder_named_like_a_bucket_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workdir = Path("gs:/bucket/run")
    workdir.mkdir(parents=True)
    MetricsWriter(workdir, 0).close()
    assert list((tmp_path / workdir / "tensorboard").iterdir())


def test_tensorboard_is_imported_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorboardX.py").write_text("try:\n    import torch\nexcept ImportError:\n    torch = None\n")
    (tmp_path / "torch.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("tensorboardX", "torch"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))  # So that no later test finds the one from here.
        monkeypatch.delitem(sys.modules, name)
    assert metrics.import_tensorboard().torch is None
    assert "torch" not in sys.modules
    del sys.modules["tensorboardX"]
    monkeypatch.setitem(sys.modules, "torch", torch := ModuleType("torch"))  # The user's own program has it.
    assert metrics.import_tensorboard().torch is torch
