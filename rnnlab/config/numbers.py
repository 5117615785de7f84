"""A resolved section as structure, which is compiled, and numbers, which are arguments of the compiled program."""

from collections.abc import Mapping
from typing import Any

from rnnlab.typing import PyTree


def split_numbers(section: Any) -> tuple[Any, dict[str, float]]:
    """A resolved section as (structure, numbers): every float field is a number, keyed by its path.

    The numbers enter compiled functions as arrays, so runs that differ in nothing else share one program.
    """
    numbers: dict[str, float] = {}

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, Mapping):
            return {k: walk(v, f"{path}.{k}" if path else k) for k, v in node.items()}
        if isinstance(node, float):
            numbers[path] = node
            return _NUMBER
        return node

    return walk(section, ""), numbers


def merge_numbers(structure: Any, numbers: Mapping[str, PyTree]) -> Any:
    """Undoes `split_numbers`, with numbers that may be traced arrays."""

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, Mapping):
            return {k: walk(v, f"{path}.{k}" if path else k) for k, v in node.items()}
        return numbers[path] if node is _NUMBER else node

    return walk(structure, "")


_NUMBER = object()
