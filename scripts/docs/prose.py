"""Text of docstrings and of --help as Markdown: what Markdown would take for markup stands as it is."""

import re

CODE = re.compile(r"(`[^`]+`|(?<![\w-])--[a-z]\w*(?:\.[\w.]*\w)?(?:=[^\s,;()]*[^\s,;().:])?)")
"""Code spans, and flags, which become code."""
SPECIAL = re.compile(r"([\\*_<>\[\]|])")


def prose(text: str) -> str:
    """One paragraph, in Markdown."""
    parts = CODE.split(text)
    parts[::2] = [SPECIAL.sub(r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [part if part.startswith("`") else f"`{part}`" for part in parts[1::2]]
    return "".join(parts)


def cell(text: str) -> str:
    """The same for a cell of a table, where a bar ends a cell even within code."""
    return re.sub(r"(?<!\\)\|", r"\\|", prose(" ".join(text.split())))
