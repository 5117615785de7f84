"""Runs the commands of pages in one process: `python -m tests.commands` reads their words as JSON, a list each.

The words are those after `python`. It prints a list of [exit status, text] as JSON, text being what was printed or what
was wrong. With `--without_figures` runs draw no figures of their own.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from rnnlab.config.errors import ConfigError


def main_of(words: Sequence[str]) -> tuple[Callable[[Sequence[str]], int], Sequence[str]]:
    """The `main` that the words name, and its arguments."""
    if words[0] == "-m":
        module = importlib.import_module(words[1])
        if not hasattr(module, "main"):
            module = importlib.import_module(f"{words[1]}.__main__")
        return module.main, words[2:]
    spec = importlib.util.spec_from_file_location(Path(words[0]).stem, words[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main, words[1:]


def outcome(words: Sequence[str]) -> tuple[int, str]:
    """The exit status of a command, and what it printed."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            main, argv = main_of(words)
            status = main(argv)
    except SystemExit as end:  # After --help.
        status = end.code if isinstance(end.code, int) else 0
    except ConfigError as error:
        return 2, str(error)
    except Exception:
        return 1, traceback.format_exc()
    return status, said.getvalue()


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        if "--without_figures" in sys.argv:
            from tests.helpers import without_figures

            stack.enter_context(without_figures())
        print(json.dumps([outcome(words) for words in json.load(sys.stdin)]))
