"""Standard output and standard error, which may be closed, a pipe that nobody reads, or a full disk."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console


def open_closed_streams() -> None:
    """Opens the null device in the place of a standard stream that is closed (`>&-`): else the next file that is opened
    would be taken for it, by this process and by the libraries in it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Gets the lowest number that is free: this one.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def silence(stream: TextIO) -> None:
    """All that is written to the stream from now on, and what it could not write yet, is lost without a word."""
    try:
        number = stream.fileno()
    except (io.UnsupportedOperation, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def complain(text: str) -> None:
    """A line on standard error, if anybody can read it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


class WatchedOutput:
    """A stream that remembers why it could not be written: a stream itself forgets, where it is not buffered."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self.failure = error
            raise

    def keep_from_libraries(self) -> None:
        """From now on the output of libraries in other languages is lost."""
        self.flush()
        copy, encoding, errors = os.dup(self.fileno()), self._stream.encoding, self._stream.errors
        silence(self._stream)
        self._stream = open(copy, "w", buffering=1, encoding=encoding, errors=errors)  # noqa: SIM115

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def watched() -> Iterator[WatchedOutput]:
    """Watches standard output while the block runs; after a failure what is left in it is lost."""
    before = sys.stdout
    sys.stdout = output = WatchedOutput(before)
    try:
        yield output
    finally:
        sys.stdout = before
        if output.failure is not None:
            silence(before)


def make_console(**options: Any) -> Console:
    """For a command whose results are in files, and which therefore goes on without its standard output. In a notebook,
    too, it prints: what rich shows there in place of it cannot be redirected."""
    plain = {"highlight": False, "markup": False, "soft_wrap": True, "force_jupyter": False}
    return Console(file=_LastingOutput(), **plain | options)  # pyright: ignore


class _LastingOutput(io.TextIOBase):
    """Standard output until it cannot be written any more, as behind `| head` or after a lost connection: a line on
    standard error says so, and what comes is lost."""

    def _output(self) -> TextIO:
        # While rich shows a live line, sys.stdout leads back here.
        return getattr(sys.stdout, "rich_proxied_file", sys.stdout)

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._output().encoding or "utf-8"

    def isatty(self) -> bool:
        return self._output().isatty()

    def fileno(self) -> int:
        return self._output().fileno()

    def write(self, text: str) -> int:
        try:
            return self._output().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._output().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        output = self._output()
        silence(output)
        if isinstance(output, WatchedOutput):
            output.failure = None
        complain(f"standard output cannot be written ({error.strerror or error}): going on without it")
