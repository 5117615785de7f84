"""The files that commands leave and read again: JSON, lines of JSON, NumPy archives and TOML, read here, written whole.

A file that is missing, cut, empty, binary or of another make is one line: which file, what is wrong with it, and what
to do, the `remedy` that each reader names. Corpora and other files of users are read in `datasets/`.
"""

import contextlib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from rnnlab.config.errors import ConfigError

Fields = Mapping[str, Any]
"""The fields that an object must have: name -> a type (object: any), several in a tuple, or an object's `Fields`."""

AGAIN = "move it away and run the command that writes it again"
"""The remedy for a damaged file of which no more can be said."""
_KINDS = {dict: "an object", list: "a list", str: "text", int: "a whole number", float: "a number"}
_KINDS |= {bool: "true or false", NoneType: "null"}


def read_json(
    path: Path,
    remedy: str,
    fields: Fields | None = None,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> dict[str, Any]:
    """The object in a file of JSON.

    Args:
        remedy: what to do where the file is damaged, as in "remove it and diagnose again".
        fields: those that it must have.

    Raises:
        ConfigError: it is missing or cannot be read, is not such an object or lacks a field.
    """
    text = read_text(path, remedy)
    try:
        content = json.loads(text, object_pairs_hook=object_pairs_hook)
    except json.JSONDecodeError as error:
        # A text that ends too early is found at its end, or at the quote that opens its last string.
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        problem = "is cut short" if cut else f"is not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        raise damaged(path, problem, remedy) from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"is not JSON ({error})", remedy) from None
    check_fields(path, content, fields or {}, remedy)
    return content


def read_json_lines(path: Path, remedy: str, fields: Fields | None = None) -> tuple[list[dict[str, Any]], list[int]]:
    """The objects in a file of one JSON object a line, and the numbers, from 1, of the lines that are none or lack a
    field. A last line that was cut short, as by a crash, is left out.

    Raises:
        ConfigError: the file is missing or cannot be read, or not one of its lines is such an object.
    """
    objects, others = [], []
    *lines, last = _bytes(path, remedy).split(b"\n")
    if not last.startswith(b"{") or last.endswith(b"}"):
        lines.append(last)
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                content = json.loads(line.decode())
                check_fields(path, content, fields or {}, remedy)
                objects.append(content)
            except (ValueError, RecursionError):
                others.append(number)
    if others and not objects:
        raise damaged(path, "holds no line of JSON", remedy)
    return objects, others


def read_arrays(path: Path, remedy: str, names: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of a NumPy archive, .npz, whose checksums show whether they are whole.

    Args:
        names: those that it must have.

    Raises:
        ConfigError: it is missing or cannot be read, is not such an archive or lacks an array.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{others[0]} is not an array")
    except OSError as error:
        raise unreadable(path, error, remedy) from None
    except Exception as error:  # NumPy and zipfile have a dozen types for a file that is not what it was.
        raise damaged(path, f"is not a whole archive of arrays ({first_line(error)})", remedy) from None
    for name in names:
        if name not in arrays:
            raise damaged(path, f"lacks the array {name!r}", remedy)
    return arrays


def read_tensors(path: Path, remedy: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file by name, and the texts of its header.

    Raises:
        ConfigError: it is missing or cannot be read, or is not such a file, or holds a type that NumPy lacks.
    """
    from safetensors import safe_open

    content = _bytes(path, remedy)  # For the system's own words where it is not given.
    if len(content) < 8:
        raise damaged(path, "is cut short", remedy)
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except Exception as error:  # The library is in Rust and has types of its own.
        raise damaged(path, f"is not a whole safetensors file ({first_line(error)})", remedy) from None


def read_toml(path: Path, remedy: str) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ConfigError: it is missing or cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_text(path, remedy))
    except tomllib.TOMLDecodeError as error:
        raise damaged(path, f"is not TOML ({error})", remedy) from None


def read_text(path: Path, remedy: str) -> str:
    """The text of a file, which has some.

    Raises:
        ConfigError: it is missing, cannot be read, is empty or holds other bytes than UTF-8 text.
    """
    content = _bytes(path, remedy)
    if not content.strip():
        raise damaged(path, "is empty", remedy)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise damaged(path, "is binary, not text", remedy) from None
    if "\0" in text:
        raise damaged(path, "is binary, not text", remedy)
    return text


def as_typed(text: str) -> str:
    """A text with names as they were typed: where the locale has no UTF-8, Python keeps their bytes as surrogates."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def check_fields(path: Path, content: Any, fields: Fields, remedy: str, where: str = "") -> None:
    """Raises ConfigError unless the content of a file is an object with these fields; where: its place in the file."""
    if not isinstance(content, dict):
        raise damaged(path, f"holds {_kind(content)}{where and f' in {where}'}, not an object", remedy)
    for name, wanted in fields.items():
        path_in_file = f"{where}.{name}" if where else name
        if name not in content:
            raise damaged(path, f"lacks {path_in_file!r}", remedy)
        if wanted is object:
            continue
        if isinstance(wanted, Mapping):
            check_fields(path, content[name], wanted, remedy, path_in_file)
            continue
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        if type(content[name]) not in (*kinds, *([int] if float in kinds else []), *([tuple] if list in kinds else [])):
            allowed = " or ".join(_KINDS[kind] for kind in kinds)
            raise damaged(path, f"holds {_kind(content[name])} as {path_in_file!r}, not {allowed}", remedy)


def check_objects(path: Path, items: Iterable[Any], fields: Fields, remedy: str, where: str) -> None:
    """`check_fields` of each of the items of a list, whose place in the file is `where`."""
    for index, item in enumerate(items):
        check_fields(path, item, fields, remedy, f"{where}[{index}]")


@contextlib.contextmanager
def interpreting(path: Path, remedy: str) -> Iterator[None]:
    """A block that makes sense of what a file holds, down to its last number: where it cannot, the file is named.

    Raises:
        ConfigError: a field is missing in the depths, or is of another type or length.
    """
    try:
        yield
    except ConfigError:
        raise
    except KeyError as error:
        raise damaged(path, f"lacks {error}", remedy) from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration) as error:
        raise damaged(path, f"does not hold what it should ({first_line(error)})", remedy) from error


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number, or the text that stands for one that is not finite."""
    return type(value) in (int, float) or value in ("nan", "inf", "-inf")


def damaged(path: Path, problem: str, remedy: str) -> ConfigError:
    """The line about a file; problem: a verb and what follows it."""
    return ConfigError(f"{path} {problem}; {remedy}")


def unreadable(path: Path, error: OSError, remedy: str) -> ConfigError:
    """The line about a file that the system does not give."""
    if isinstance(error, FileNotFoundError):
        return damaged(path, "is missing", remedy)
    return ConfigError(f"{path} cannot be read: {error.strerror or error}")


def _bytes(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error, remedy) from None


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a list" if isinstance(value, tuple) else f"a {type(value).__name__}")


def first_line(error: Exception) -> str:
    """The first line of an error's text, at most 200 characters."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
