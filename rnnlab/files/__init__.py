"""Files that commands leave and read again, locks on them, and the standard streams."""

from rnnlab.files.reading import (
    AGAIN,
    Fields,
    as_typed,
    check_fields,
    check_objects,
    damaged,
    interpreting,
    is_number,
    read_arrays,
    read_json,
    read_json_lines,
    read_text,
    read_toml,
    unreadable,
)
from rnnlab.files.writing import Unwritable, remove, unwritable, whole_file, write_arrays, write_bytes, write_text

__all__ = [
    "AGAIN",
    "Fields",
    "Unwritable",
    "as_typed",
    "check_fields",
    "check_objects",
    "damaged",
    "interpreting",
    "is_number",
    "read_arrays",
    "read_json",
    "read_json_lines",
    "read_text",
    "read_toml",
    "remove",
    "unreadable",
    "unwritable",
    "whole_file",
    "write_arrays",
    "write_bytes",
    "write_text",
]
