"""Texts of the command line -> values, by the type of the field that each is for.

They mean what they mean to ml_collections' config_flags: --config.flag=1 is True for a bool, 7 is "7" for a str, 3 is
(3,) for a tuple. A text that config_flags refuses is a Python literal: 1e4 for an int, None where a field may be None.
"""

import ast
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from absl import flags

from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import members_of, subsection
from rnnlab.config.schema import section_fields


class _Section:
    """Stands in a set of types for a section, or for the name of one."""


class _Sections(ast.NodeTransformer):
    """dict(name="cayley") as {"name": "cayley"}, a literal: so configs write sections."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        named = [word.arg for word in node.keywords if word.arg is not None]
        if (
            not isinstance(node.func, ast.Name)
            or node.func.id != "dict"
            or node.args
            or len(named) < len(node.keywords)
        ):
            return node
        return ast.Dict([ast.Constant(name) for name in named], [word.value for word in node.keywords])


def literal(text: str) -> Any:
    """The value of a text whose field has no type: a Python literal or a section as configs write it, dict(…), else the
    text itself."""
    try:
        return ast.literal_eval(_Sections().visit(ast.parse(text.strip(" \t"), mode="eval")))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {"true": True, "false": False, "none": None, "inf": float("inf")}.get(text.lower(), text)


def typed(text: str, hint: Any) -> Any:
    """The value of a text for a field with this annotation; hint: None for an unknown field.

    A text that does not fit the annotation stays a literal: the check of the config says what is wrong with it.
    """
    value, kinds = literal(text), _kinds(hint)
    if value is None and type(None) in kinds:
        return None
    kinds -= {type(None)}
    if kinds == {bool}:
        return _parsed(flags.BooleanParser(), text, value)
    if kinds == {str}:
        return value if isinstance(value, str) else text
    if kinds == {tuple}:
        return value if isinstance(value, str | list | tuple | dict) or value is None else (value,)
    if kinds and kinds <= {int, float} and isinstance(value, str):  # As 007, -inf and nan.
        return _parsed(flags.IntegerParser() if kinds == {int} else flags.FloatParser(), text, value)
    return value


def joined(texts: Sequence[str], hint: Any) -> str:
    """The text that stands for a flag that is repeated: all values of a tuple, of another field the last."""
    if len(texts) == 1 or _kinds(hint) - {type(None)} != {tuple}:
        return texts[-1]
    values: list[Any] = []
    for text in texts:
        value = typed(text, hint)
        values += value.split(",") if isinstance(value, str) else [value] if value is None else list(value)
    return repr(tuple(values))


def is_boolean(hint: Any) -> bool:
    """Whether --config.flag and --noconfig.flag stand for True and False."""
    return _kinds(hint) - {type(None)} == {bool}


def annotation_at(hint: Any, config: Mapping[str, Any], path: str) -> Any:
    """The annotation of the field at a path, None for an unknown one.

    Args:
        hint: the annotation of the whole config.
        config: plain, as far as it is set.
        path: as "model.cell.peepholes".
    """
    section: Mapping[str, Any] = config
    for part in path.split("."):
        try:
            fields = section_fields(hint, section)
        except ConfigError:  # An unknown name, which the check of the config reports.
            return None
        if part not in fields:
            return None
        hint, default = fields[part]
        value = section.get(part, default)
        named = {"name": default} if isinstance(default, str) else {}
        section = (
            {"name": value} if isinstance(value, str) else {**named, **value} if isinstance(value, Mapping) else {}
        )
    return hint


def _kinds(hint: Any) -> set[Any]:
    """The types that an annotation admits."""
    kinds: set[Any] = set()
    for member in members_of(hint):
        origin, arguments = typing.get_origin(member), typing.get_args(member)
        if origin is Annotated:
            kinds |= {_Section} if any(isinstance(mark, dict) for mark in arguments[1:]) else _kinds(arguments[0])
        elif origin is Literal:
            kinds |= {type(value) for value in arguments}
        else:
            kinds.add(_Section if subsection(member) is not None else origin or member)
    return kinds


def _parsed(parser: flags.ArgumentParser, text: str, otherwise: Any) -> Any:
    """The text as absl reads it, or `otherwise` where absl refuses it."""
    try:
        return parser.parse(text)
    except (ValueError, TypeError):
        return otherwise
