"""Limits of Orbax: names of folders that it cannot take, and reports of its tasks, which are silenced."""

import contextlib
import logging
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rnnlab.config.errors import ConfigError
from rnnlab.parallel import processes


@contextlib.contextmanager
def others_silent() -> Iterator[None]:
    """Leaves reports of faults to the caller. Orbax's tasks, each of which reads a file, would report once more as they
    are collected."""
    logger = logging.getLogger("asyncio")
    level, hook = logger.level, sys.unraisablehook
    logger.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.unraisablehook = hook


@contextlib.contextmanager
def readable_name(directory: Path) -> Iterator[Path]:
    """The folder under a name that Orbax can use, through a link elsewhere where its own is none.

    Orbax looks for its files with glob, which takes * ? [ in the names of the folders above for wildcards; tensorstore
    takes \\ for / and wants UTF-8.

    Raises:
        ConfigError: the run has several processes, which need the same name.
    """
    name = str(directory)
    if not re.search(r"[*?\[\\\ud800-\udfff]", name):
        yield directory
        return
    if processes.processes() > 1:
        raise ConfigError(
            f"--workdir: {directory.parent}: a run in several processes takes no name with * ? [ or \\ in it, nor one "
            "that is not UTF-8"
        )
    with tempfile.TemporaryDirectory(prefix="rnnlab-", ignore_cleanup_errors=True) as folder:
        link = Path(folder, "checkpoints")
        link.symlink_to(directory, target_is_directory=True)
        yield link
