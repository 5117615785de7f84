"""The fields of a config for --help: the flag of each with its value, and below it type, bounds, default and doc."""

import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from rnnlab.config.bounds import LARGEST_INT
from rnnlab.config.docs import docs_of, summary
from rnnlab.config.fields import fields_of, subsection, table_of
from rnnlab.config.schema import describe, section_factories, section_fields

_WIDTH = 120


def render(config: Mapping[str, Any], options: type) -> str:
    """Every field of a resolved config, section by section; of a section that is off, the names of its fields, too.

    options: the dataclass of the config's fields.
    """
    return "\n".join(_lines(config, options, ""))


def _lines(section: Mapping[str, Any], hint: Any, path: str) -> list[str]:
    fields, factories = section_fields(hint, section), section_factories(hint, section)
    docs = {name: doc for each in reversed(factories) for name, doc in docs_of(each).items()}
    lines, inner = [], []
    for key, value in section.items():
        field = fields.get(key)
        if isinstance(value, Mapping):
            inner += ["", *_wrapped(f"{path}{key}: {docs.get(key, '')}".rstrip(), "")]
            inner += _lines(value, None if field is None else field.hint, f"{path}{key}.")
            continue
        lines.append(f"  --config.{path}{key}={value}")
        if field is not None:
            default = "" if field.default is inspect.Parameter.empty else f"; default {field.default!r}"
            lines += _wrapped(f"{admitted(field.hint)}{default}. {docs.get(key, '')}", 6 * " ")
        elif key == "name" and factories:
            names = [] if (table := table_of(hint)) is None else sorted(table)
            text = f"one of {', '.join(names)}, or package.module:Name. {value}: {summary(factories[0])}"
            lines += _wrapped(text, 6 * " ")
    return lines + inner


def admitted(hint: Any) -> str:
    """The values that a field with this annotation admits, in words; of one that may be a section, its fields."""
    if (options := subsection(hint)) is not None:
        return f"a section: {', '.join(fields_of(options))}"
    return describe(hint).replace(f" and at most {LARGEST_INT}", "")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text.strip(), _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)
