"""Files that take their places together: results, their figures, a checkpoint, the page.

A published result is never half of one run and half of another. `rnnlab.files.whole_file` replaces one file at a time.
"""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from rnnlab.files import unwritable


class Publication:
    """New files and folders, written beside those that they are going to replace."""

    def __init__(self) -> None:
        self._staged: dict[Path, Path] = {}
        self._folders: set[Path] = set()
        self.changed: list[Path] = []
        """The targets that `publish` has made or replaced."""

    def folder(self, of: Path) -> Path:
        """Where to write what is going to be in a folder.

        Raises:
            Unwritable: nothing can be written there.
        """
        folder = of / f".{os.getpid()}.partial"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(of, error) from None
        self._folders.add(folder)
        return folder

    def staged(self, target: Path) -> Path:
        """Where to write what is going to be this file or folder.

        Raises:
            Unwritable: nothing can be written there.
        """
        self._staged[target] = self.folder(target.parent) / target.name
        return self._staged[target]

    def publish(self) -> None:
        """All that differ from what is there to their places, or, where one of them cannot be replaced, none; signals
        wait meanwhile.

        Raises:
            Unwritable: one cannot.
        """
        done: list[tuple[Path, Path | None]] = []
        changed = {target: new for target, new in self._staged.items() if not _same(target, new)}
        with _without_signals():
            for target, new in changed.items():
                old = new.with_name(f"{target.name}.old") if target.exists() else None
                try:
                    if old is not None:
                        os.replace(target, old)
                        done.append((target, old))
                    os.replace(new, target)
                    done.append((target, None))
                except OSError as error:
                    for replaced, before in reversed(done):
                        if before is None:
                            os.replace(replaced, self._staged[replaced])
                        else:
                            os.replace(before, replaced)
                    raise unwritable(target, error) from None
        self.changed = list(changed)

    def clear(self) -> None:
        """Removes what was written and not published, and what was replaced."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def _same(old: Path, new: Path) -> bool:
    """Whether two files, or all in two folders, hold the same bytes."""
    if old.is_dir() and new.is_dir():
        names = sorted(path.name for path in new.iterdir())
        return names == sorted(path.name for path in old.iterdir()) and all(_same(old / n, new / n) for n in names)
    return old.is_file() and new.is_file() and old.read_bytes() == new.read_bytes()


@contextlib.contextmanager
def together() -> Iterator[Publication]:
    """A `Publication` whose files take their places as the block ends; after an error or a signal in it none does.

    Raises:
        Unwritable: a file cannot be replaced; then none is.
    """
    publication = Publication()
    try:
        yield publication
        publication.publish()
    finally:
        publication.clear()


@contextlib.contextmanager
def _without_signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
