"""Settings: the runs of a sweep, each with its config."""

from typing import Any, NamedTuple


class Setting(NamedTuple):
    """One run of a sweep."""

    name: str
    overrides: dict[str, Any]
    """What the axes set, by dotted path."""
    config: dict[str, Any]
    """Resolved."""
