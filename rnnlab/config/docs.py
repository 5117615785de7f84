"""The doc of each option: the string below its attribute, as documentation tools read it."""

import ast
import functools
import inspect
import itertools
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from rnnlab.config.fields import fields_of


def docs_of(factory: Callable[..., Any]) -> Mapping[str, str]:
    """Field -> its doc in one line, of a dataclass of options or a class that declares its options; those of its bases
    too. A field without one, and a function's parameter, is left out."""
    target = factory.func if isinstance(factory, functools.partial) else factory
    # Fields that stand for the functions of a table have theirs.
    docs = {name: summary(each) for name, each in getattr(target, "further", {}).items()}
    for each in reversed(inspect.getmro(target) if isinstance(target, type) else ()):
        docs |= _docs_in(each)
    return {name: docs[name] for name in fields_of(factory) if name in docs}


@functools.cache
def _docs_in(cls: type) -> Mapping[str, str]:
    """Those in the body of a class."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # Of a class that was made otherwise, or in C.
        return {}
    docs: dict[str, str] = {}
    body = getattr(tree, "body", [])
    for statement, below in itertools.pairwise(body):
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and isinstance(text, str):
            docs[statement.target.id] = _in_one_line(text)
    return docs


def summary(factory: Callable[..., Any]) -> str:
    """The first paragraph of a factory's docstring, in one line; empty where it has none of its own. A preset adds the
    options that it sets."""
    if isinstance(factory, functools.partial):
        options = ", ".join(f"{name}={value}" for name, value in factory.keywords.items())
        return f"{summary(factory.func)} With {options}."
    text = vars(factory).get("__doc__") if isinstance(factory, type) else factory.__doc__
    return _in_one_line(text or "")


def _in_one_line(text: str) -> str:
    """The first paragraph."""
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())
