"""Checksums of what a checkpoint holds, kept in it: tensorstore keeps none of the bytes of larger arrays, so that a bit
that flips on the disk would be evaluated, and trained on, without a word."""

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np


def checksums(arrays: Mapping[str, jax.Array], host: Mapping[str, Any]) -> dict[str, Any]:
    """{"host": CRC-32, "arrays": {name: CRC-32}}; an array of which this process has but a part is left out.

    Args:
        arrays: of a state, by name.
        host: JSON that belongs to it.
    """
    return {"host": _of_json(host), "arrays": {n: _of_array(a) for n, a in arrays.items() if _is_here(a)}}


def altered(
    kept: Mapping[str, Any], arrays: Mapping[str, jax.Array], host: Mapping[str, Any], without: Iterable[str] = ()
) -> list[str]:
    """The names of what is not what it was when `checksums` were taken; "host" for what the host remembered.

    without: arrays that are not compared.
    """
    names = [n for n, a in arrays.items() if n in kept["arrays"] and n not in {*without} and _is_here(a)]
    changed = [name for name in names if kept["arrays"][name] != _of_array(arrays[name])]
    return changed + (["host"] if kept["host"] != _of_json(host) else [])


def _of_array(array: jax.Array) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _of_json(value: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _is_here(array: jax.Array) -> bool:
    """Whether this process has all of it."""
    return array.is_fully_addressable or array.is_fully_replicated
