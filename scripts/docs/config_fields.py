"""Every field of a config, in Markdown: what --help says of the sections and names of one config, of all of them.

`sections` has what every config has; `named` has the tables whose names a field takes: tasks, cells, optimisers, ….
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rnnlab.cells import CELLS, BaseCell
from rnnlab.cells.recurrent_matrices import PARAMETRISATIONS
from rnnlab.config.bounds import NameIn
from rnnlab.config.docs import docs_of, summary
from rnnlab.config.fields import Field, fields_of, is_options, members_of, subsection, table_of
from rnnlab.config.help import admitted
from rnnlab.diagnostics import DIAGNOSTICS
from rnnlab.files.markdown import markdown_table
from rnnlab.ops.activations import ACTIVATIONS
from rnnlab.ops.initializers import INITIALIZERS
from rnnlab.optim.optimizers import OPTIMIZERS
from rnnlab.optim.penalties import PENALTIES
from rnnlab.optim.schedules import SCHEDULES
from rnnlab.records.run_config import RunOptions
from rnnlab.tasks import TASKS
from scripts.docs.prose import cell, prose

TABLES: dict[str, tuple[Mapping[str, Any], str]] = {
    "tasks": (TASKS, "config_tasks.md"),
    "cells": (CELLS, "config_cells.md"),
    "recurrent matrices": (PARAMETRISATIONS, "config_names.md#recurrent-matrices"),
    "initialisers": (INITIALIZERS, "config_names.md#initialisers"),
    "activations": (ACTIVATIONS, "config_names.md#activations"),
    "optimisers": (OPTIMIZERS, "config_names.md#optimisers"),
    "schedules": (SCHEDULES, "config_names.md#schedules"),
    "penalties": (PENALTIES, "config_names.md#penalties"),
    "diagnostics": (DIAGNOSTICS, "../diagnostics.md"),
}
"""The kind that is named, its table, and where the reference has it."""
HEAD = ["field", "value", "default", "meaning"]


def sections() -> str:
    """The fields of a run, then those of each section, from the outside in; of sections that are alike, once."""
    paths: dict[type, list[str]] = {}
    for path, options in _walk(RunOptions, ""):
        paths.setdefault(options, []).append(path)
    return "\n".join(_section(options, *each) for options, each in paths.items())


def _walk(options: type, path: str) -> Iterator[tuple[str, type]]:
    """The path of every section, and the dataclass of its fields."""
    yield path, options
    for name, field in fields_of(options).items():
        if (inner := _section_of(field.hint)) is not None:
            yield from _walk(inner, f"{path}.{name}".lstrip("."))


def _section(options: type, path: str, *others: str) -> str:
    title = f"## {path} {{ #{path} }}\n\n" if path else ""
    anchors = "".join(f'<span id="{other}"></span>' for other in others)
    also = f"{anchors}{', '.join(f'`{other}`' for other in others)}: likewise.\n\n" if others else ""
    return f"{title}{prose(summary(options))}\n\n{also}{_table(options, fields_of(options), path)}"


def _section_of(hint: Any) -> type | None:
    """The dataclass of the fields that a section has, whatever its name."""
    marks = [mark for member in members_of(hint) for mark in getattr(member, "__metadata__", ())]
    return subsection(hint) or next(filter(is_options, marks), None)


def named(title: str, level: str = "##") -> str:
    """A table of the names that have no fields, and a section of this level for every other name."""
    table, _ = TABLES[title]
    common = fields_of(BaseCell) if title == "cells" else {}
    # The one field of a penalty, its strength, is one of the section of penalties.
    fields = {name: {} if title == "penalties" else _fields(each, common) for name, each in table.items()}
    bare = [[_equations(name, title), cell(summary(table[name]))] for name, each in fields.items() if not each]
    parts = [f"Fields of every cell:\n\n{_table(BaseCell, common, '')}"] if common else []
    parts += [markdown_table(["name", "what it is"], bare)] if bare else []
    parts += [_name(name, table[name], each, common, f"{level} {name}") for name, each in fields.items() if each]
    return "\n".join(parts)


def _equations(name: str, title: str) -> str:
    return f"[{name}](../cells.md#{name})" if title == "cells" else f"`{name}`"


def _fields(factory: Callable[..., Any], common: Mapping[str, Field]) -> dict[str, Field]:
    """The fields of a name that are not those of all, or have another default."""
    return {name: field for name, field in fields_of(factory).items() if common.get(name) != field}


def _name(
    name: str, factory: Callable[..., Any], fields: Mapping[str, Field], common: Mapping[str, Field], heading: str
) -> str:
    lacking = [f"`{each}`" for each in common if each not in fields_of(factory)]
    without = f"Without {', '.join(lacking)}.\n\n" if lacking else ""
    more = f" {_equations(name, 'cells')} has its equations." if common else ""
    return f"{heading}\n\n{prose(summary(factory))}{more}\n\n{without}{_table(factory, fields, '')}"


def _table(factory: Callable[..., Any], fields: Mapping[str, Field], path: str) -> str:
    docs = docs_of(factory)
    rows = [
        [f"`{name}`", _value(field.hint, f"{path}.{name}".lstrip(".")), _default(field), cell(docs.get(name, ""))]
        for name, field in fields.items()
    ]
    width = len(HEAD) if docs else len(HEAD) - 1  # Of a function, its own text says what its fields mean.
    return markdown_table(HEAD[:width], [row[:width] for row in rows])


def _value(hint: Any, path: str) -> str:
    """The values that a field admits, a table of names by its title; a section leads to its fields."""
    for member in members_of(hint):
        if is_options(member):
            return f"a section: [{path}](config.md#{path})" + (" or None" if type(None) in members_of(hint) else "")
        tables = [table_of(member), *(m.table for m in getattr(member, "__metadata__", ()) if isinstance(m, NameIn))]
        for title, (table, link) in TABLES.items():
            if any(each is table for each in tables):
                also = f", with [fields of all](config.md#{path})" if _section_of(hint) else ""
                return f"one of the [{title}]({link}){also}" + (" or None" if type(None) in members_of(hint) else "")
    return cell(admitted(hint))


def _default(field: Field) -> str:
    if field.default is inspect.Parameter.empty:
        return "needed"
    if is_options(type(field.default)):
        return "the section's"
    value = field.default
    if isinstance(value, functools.partial):
        value = value.func
    text = getattr(value, "__name__", None) or (f"{value:g}" if isinstance(value, float) else str(value))
    return f"`{text}`" if text else "empty"


def names() -> str:
    """The tables of the page of names, one below the other."""
    titles = [title for title, (_, link) in TABLES.items() if link.startswith("config_names.md")]
    return "\n".join(f"## {title.capitalize()}\n\n{named(title, '###')}" for title in titles)
