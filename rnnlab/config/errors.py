"""Mistakes of a user, and the one line that says what is nearest."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class ConfigError(ValueError):
    """A mistake in the command, the config or the data; its text is one line for the user (exit status 2)."""


class CannotImport(ConfigError):
    """A module that `package.module:Name` names is not there, or its code raises an error."""


class UnknownField(ConfigError):
    """A section has no field of this name.

    Args:
        path: the section's, with a dot behind it; "" for the whole config.
        name: the field's.
        names: those of the fields that the section has.
        sections: the names of sections that have it, which could stand in this one's place.
    """

    def __init__(self, path: str, name: str, names: Iterable[str], sections: Sequence[str] = ()):
        elsewhere = f"; those with it: {', '.join(sections)}" if sections else ""
        super().__init__(unknown("field", name, names, path) + elsewhere)
        self.path, self.name, self.names = path, name, names


def unknown(kind: str, name: Any, names: Iterable[str], prefix: str = "") -> str:
    """The line that names what does not exist, what is nearest to it, and all that exists.

    Args:
        kind: what a name stands for, as "field".
        name: the one that does not exist.
        names: all that exist.
        prefix: stands before each name, as "model.cell.".
    """
    names = sorted(names)
    by_lower = {each.lower(): each for each in names}
    near = [by_lower[each] for each in _nearest(str(name).lower(), list(by_lower))]
    hint = f"did you mean {' or '.join(prefix + n for n in near)}? " if near else ""
    listed = ", ".join(prefix + n for n in names) or "none"
    return f"unknown {kind} {(prefix + name if prefix else name)!r}; {hint}known: {listed}"


def _nearest(name: str, names: list[str]) -> list[str]:
    """Up to three that look alike, and that the fewest slips of a finger make the name of."""
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    slips = [_slips(name, each) for each in alike]
    return [each for each, count in zip(alike, slips, strict=True) if count == min(slips)]


def _slips(a: str, b: str) -> int:
    """How many letters of a have to be added, left out, changed, or swapped with the next, for b."""
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a):
        rows.append([i + 1])
        for j, other in enumerate(b):
            count = min(rows[i][j] + (letter != other), rows[i][j + 1] + 1, rows[i + 1][j] + 1)
            if i and j and letter == b[j - 1] and a[i - 1] == other:
                count = min(count, rows[i - 1][j - 1] + 1)
            rows[i + 1].append(count)
    return rows[-1][-1]
