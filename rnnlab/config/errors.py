"""Mistakes of a user, and the one line that says what is nearest."""

import difflib
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A mistake in the command, the config or the data; its text is one line for the user (exit status 2)."""


class UnknownField(ConfigError):
    """A section has no field of this name.

    Args:
        path: of the section, with a dot behind it; "" for the whole config.
        name: the field's.
        known: the fields that there are.
    """

    def __init__(self, path: str, name: str, known: Iterable[str]):
        super().__init__(unknown("field", name, known, path))
        self.path, self.name = path, name


def unknown(kind: str, name: Any, known: Iterable[str], prefix: str = "") -> str:
    """The line that says what was not found, what is nearest and what there is; all names stand below `prefix`."""
    known = sorted(known)
    lower = {each.lower(): each for each in known}
    near = [lower[each] for each in difflib.get_close_matches(str(name).lower(), lower, n=3, cutoff=0.6)]
    hint = f"did you mean {' or '.join(prefix + n for n in near)}? " if near else ""
    there = ", ".join(prefix + n for n in known) or "none"
    return f"unknown {kind} {(prefix + name if prefix else name)!r}; {hint}known: {there}"
