"""Output: what a command does whose standard output is a closed pipe, a full disk, or not there at all."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.files.output import make_console, silence
from rnnlab.records.progress_line import ProgressLine
from rnnlab.sweeps.progress import SweepProgress
from tests.helpers import SMALL_RUN, without_cache_lines
from tests.tiers import exhaustive_tests

ROOT = Path(__file__).parents[2]
ENTRIES = [
    "train",
    "evaluate",
    "sweep",
    "report",
    "benchmark",
    "find_learning_rate",
    "diagnose",
    "generate",
    "prepare",
]
FAILURES = {"unread": errno.EPIPE, "full": errno.ENOSPC}
needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@contextlib.contextmanager
def broken_output(kind: str) -> Iterator[None]:
    """Standard output is a pipe that nobody reads, or a full disk, while the block runs."""
    if kind == "full":
        stream = open("/dev/full", "w")  # noqa: SIM115
    else:
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w")
    with stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield
        silence(stream)


each_failure = pytest.mark.parametrize("failure", ["unread", pytest.param("full", marks=needs_full_device)])


@each_failure
@pytest.mark.parametrize(
    "say",
    [
        lambda text: make_console().print(text),
        lambda text: ProgressLine(10, 0).say(text),
        lambda text: SweepProgress(10, 0).say(text),
    ],
    ids=["console", "run", "sweep"],
)
def test_who_writes_files_goes_on_without_the_output(
    say: Callable[[str], None], failure: str, capfd: pytest.CaptureFixture
) -> None:
    with broken_output(failure):
        for number in range(3):
            say(f"line {number}")
        print("and a plain one", flush=True)
    line = f"standard output cannot be written ({os.strerror(FAILURES[failure])}): going on without it\n"
    assert capfd.readouterr().err == line


def test_in_a_notebook_lines_are_printed_and_can_be_redirected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    make_console().print("a line")
    assert capsys.readouterr().out == "a line\n"


def print_much(argv: Sequence[str]) -> int:
    for _ in range(10_000):
        print("a line that does not fit into the buffer with all others")
    return cli.FINISHED


def print_and_leave(argv: Sequence[str]) -> int:
    print("help")
    raise SystemExit(cli.FINISHED)


def print_and_fail(argv: Sequence[str]) -> int:
    print("a number")
    raise ConfigError("a mistake")


@each_failure
@pytest.mark.parametrize(
    ("main", "statuses", "says"),
    [
        (lambda argv: print("a number") or cli.FINISHED, {"unread": cli.UNREAD, "full": cli.MISTAKE}, None),
        (print_much, {"unread": cli.UNREAD, "full": cli.MISTAKE}, None),
        (print_and_leave, {"unread": cli.UNREAD, "full": cli.MISTAKE}, None),
        (print_and_fail, {"unread": cli.MISTAKE, "full": cli.MISTAKE}, "error: a mistake\n"),
        (lambda argv: print("the end") or cli.DIVERGED, {"unread": cli.DIVERGED, "full": cli.DIVERGED}, ""),
    ],
    ids=["number", "much", "help", "mistake", "diverged"],
)
def test_a_command_that_cannot_print_ends_without_a_traceback(
    main: Callable, statuses: dict[str, int], says: str | None, failure: str, capfd: pytest.CaptureFixture
) -> None:
    with broken_output(failure), pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == statuses[failure]
    if says is None:
        reason = os.strerror(FAILURES[failure])
        says = "" if failure == "unread" else f"error: cannot write to standard output: {reason}\n"
    assert capfd.readouterr().err == says


def test_an_error_of_another_file_is_not_one_of_the_output() -> None:
    def main(argv: Sequence[str]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        cli.run(main)


# --- in a process of its own -----------------------------------------------------------------------------------------


def command(*words: str, redirection: str = "") -> subprocess.CompletedProcess:
    """`python -m rnnlab.WORDS` with a shell's redirection; the status is the command's, not the pipe's."""
    text = f'{sys.executable} -m rnnlab."$0" "$@" {redirection}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(["bash", "-c", text, *words], cwd=ROOT, capture_output=True, text=True)


REDIRECTIONS = {"| true": cli.UNREAD, ">&-": cli.FINISHED, ">&- 2>&-": cli.FINISHED, "> /dev/full": cli.MISTAKE}
LINES = {"> /dev/full": f"error: cannot write to standard output: {os.strerror(errno.ENOSPC)}\n"}


@needs_full_device
@pytest.mark.parametrize("redirection", REDIRECTIONS)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "train" else pytest.mark.exhaustive) for name in ENTRIES],
)
def test_help_ends_well_wherever_it_goes(name: str, redirection: str) -> None:
    done = command(name, "--help", redirection=redirection)
    assert (done.returncode, done.stderr) == (REDIRECTIONS[redirection], LINES.get(redirection, ""))


@pytest.mark.slow
@needs_full_device
@pytest.mark.parametrize(
    ("redirection", "says"),
    [
        ("> /dev/full", f"({os.strerror(errno.ENOSPC)})"),
        *exhaustive_tests(("| head -1", f"({os.strerror(errno.EPIPE)})"), (">&-", "")),
    ],
)
def test_a_run_ends_as_it_would_on_a_terminal(redirection: str, says: str, tmp_path: Path) -> None:
    config = tmp_path / "small.py"
    config.write_text(f"def get_config():\n    return {SMALL_RUN!r}\n")
    done = command("train", f"--config={config}", f"--workdir={tmp_path / 'run'}", redirection=redirection)
    assert done.returncode == cli.FINISHED, done.stderr
    line = f"standard output cannot be written {says}: going on without it\n" if says else ""
    assert without_cache_lines(done.stderr) == line
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    shown = command("evaluate", f"--workdir={tmp_path / 'run'}", redirection=redirection)
    assert (tmp_path / "run" / "evaluation.json").exists()
    assert "Traceback" not in shown.stderr


@pytest.mark.slow
def test_the_end_of_the_terminal_saves_the_run(tmp_path: Path) -> None:
    import pty

    config = tmp_path / "small.py"
    long: dict[str, Any] = SMALL_RUN | {"steps": 10**6, "checkpoint_every": 10**6}
    config.write_text(f"def get_config():\n    return {long!r}\n")
    words = [sys.executable, "-m", "rnnlab.train", f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    terminal, end = pty.openpty()
    ours = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # Under nohup the run would ignore it as these tests do.
    try:
        process = subprocess.Popen(words, cwd=ROOT, stdin=end, stdout=end, stderr=end)
    finally:
        signal.signal(signal.SIGHUP, ours)
    os.close(end)
    output = b""
    while b"first step" not in output:
        output += os.read(terminal, 1000)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)  # The kernel sends it, and every write fails from now on.
    assert process.wait(120) == cli.INTERRUPTED
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"


def test_a_sighup_that_is_ignored_stays_so() -> None:
    from rnnlab.training.interruptions import interruptions

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptions(lambda text: None) as seen:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not seen
    finally:
        signal.signal(signal.SIGHUP, before)
