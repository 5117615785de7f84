"""Fields that configs of earlier versions have under another name: in files, workdirs, sweeps, on command lines."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import FieldReference

from rnnlab.config.errors import ConfigError


class Present(NamedTuple):
    """What a field has become."""

    path: str
    values: Mapping[Any, Any]
    """The value of today for each that has changed."""

    def value(self, former: Any) -> Any:
        with contextlib.suppress(Exception):  # A reference without a value stays one.
            former = former.get() if isinstance(former, FieldReference) else former
        return self.values.get(former, former) if isinstance(former, str) else former


FORMER = {"model.compute": Present("model.precision", {"float32": "highest"})}
"""Sections keep their names, so a field stays in its own."""


def renamed_paths(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """{path: value} with the paths and values of today, in their order.

    Raises:
        ConfigError: a field is set under both names.
    """
    renamed = {}
    for path, value in overrides.items():
        present = FORMER.get(path)
        if present is not None and present.path in overrides:
            raise _set_twice(path, present.path)
        renamed |= {path: value} if present is None else {present.path: present.value(value)}
    return renamed


def renamed_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested plain dicts with the names and values of today; what has none of earlier times is left as it is.

    Raises:
        ConfigError: a field is set under both names.
    """
    renamed = dict(config)
    for path, present in FORMER.items():
        section, _, name = path.rpartition(".")
        fields = renamed.get(section)
        if not isinstance(fields, Mapping) or name not in fields:
            continue
        new = present.path.rpartition(".")[2]
        if new in fields:
            raise _set_twice(path, present.path)
        rest = {key: value for key, value in fields.items() if key != name}
        renamed[section] = rest | {new: present.value(fields[name])}
    return renamed


def _set_twice(former: str, present: str) -> ConfigError:
    return ConfigError(f"{former}: the former name of {present}, which is set, too; leave {former} out")
