"""A resolved section as structure, which is compiled, and numbers, which are arguments of the compiled program."""

from collections.abc import Mapping
from typing import Any

from rnnlab.config.fields import is_traced
from rnnlab.config.schema import section_fields
from rnnlab.typing import PyTree


def split_numbers(section: Mapping[str, Any], hint: Any) -> tuple[Any, dict[str, float]]:
    """A resolved section as (structure, numbers): a number is a float of a `Traced` field, keyed by its path.

    The numbers enter compiled functions as arrays, so runs that differ in nothing else share one program.

    Args:
        hint: the section's annotation: a dataclass of options, or a table in `Annotated`.
    """
    numbers: dict[str, float] = {}

    def walk(section: Mapping[str, Any], hint: Any, path: str) -> dict[str, Any]:
        fields, structure = section_fields(hint, section), {}
        for key, value in section.items():
            annotation = fields[key].hint if key in fields else None
            if isinstance(value, Mapping):
                value = walk(value, annotation, f"{path}{key}.")
            elif isinstance(value, float) and is_traced(annotation):
                numbers[path + key], value = value, _NUMBER
            structure[key] = value
        return structure

    return walk(section, hint, ""), numbers


def merge_numbers(structure: Any, numbers: Mapping[str, PyTree]) -> Any:
    """Undoes `split_numbers`, with numbers that may be traced arrays."""

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, Mapping):
            return {k: walk(v, f"{path}.{k}" if path else k) for k, v in node.items()}
        return numbers[path] if node is _NUMBER else node

    return walk(structure, "")


_NUMBER = object()
