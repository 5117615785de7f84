"""Options that a class declares as annotated attributes, as a dataclass does, and its subclasses add to.

    class Leaky(Cell):
        rate: Traced[Rate] = 0.5

`InitVar[...]` marks one that is needed while an instance is made, and is not an attribute of it.
"""

import dataclasses
import inspect
import typing
from collections.abc import Iterable
from typing import Any, ClassVar

from rnnlab.config.fields import is_traced, table_of
from rnnlab.config.schema import build


@typing.dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
class WithOptions:
    """The base of a class whose constructor takes its options as `**options`.

    In the body of a class whose constructor takes none, annotations are nothing but annotations.
    """

    Options: ClassVar[type]
    """The frozen dataclass of the options."""

    def __init_subclass__(cls, without: Iterable[str] = (), **keywords: Any) -> None:
        """without: options of its base that a class does not have."""
        super().__init_subclass__(**keywords)
        declare_options(cls, without)


def declare_options(cls: type, without: Iterable[str] = ()) -> None:
    """Gives a class `Options`, the frozen dataclass of those of its base and of its own.

    Its own are the annotations of its body, but for `ClassVar`, parameters of its constructor, and what a base
    annotates that is not an option there; `name = value` gives an option of its base another default. A class whose
    constructor takes no `**options` has those of its signature.

    Raises:
        TypeError: an option would hide a method of the base.
    """
    parameters = inspect.signature(cls.__init__).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    bases = (_options_of(getattr(base, "Options", None)) for base in reversed(cls.__bases__))
    inherited = {field.name: (field.type, _copy(field)) for base in bases for field in base}
    for name, value in list(vars(cls).items()):
        if name in inherited and name not in inspect.get_annotations(cls) and not inspect.isroutine(value):
            kind, field = inherited[name]
            inherited[name] = kind, dataclasses.field(default=value, metadata=field.metadata, kw_only=field.kw_only)
            delattr(cls, name)
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {name for name, parameter in parameters.items() if parameter.kind not in rest}
    fields = inherited | _declared(cls, named | _attributes_of_bases(cls))
    columns: list[Any] = [(name, *column) for name, column in fields.items() if name not in without]
    cls.Options = dataclasses.make_dataclass(cls.__name__, columns, frozen=True, kw_only=True)  # pyright: ignore


def _attributes_of_bases(cls: type) -> set[str]:
    """The names that the bases annotate and that are not options."""
    names = set()
    for base in cls.__mro__[1:]:
        names |= inspect.get_annotations(base).keys() - {field.name for field in _options_of(vars(base).get("Options"))}
    return names


def _options_of(options: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(options) if dataclasses.is_dataclass(options) else ()


def _declared(cls: type, others: set[str]) -> dict[str, tuple[Any, Any]]:
    """The options in a class's body, (type, field) each. Their defaults are no longer attributes of the class.
    others: names that are not options."""
    fields: dict[str, tuple[Any, Any]] = {}
    for name, hint in inspect.get_annotations(cls, eval_str=True).items():
        if name in others or hint is ClassVar or typing.get_origin(hint) is ClassVar:
            continue
        default = vars(cls).get(name, dataclasses.MISSING)
        field = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
        if default is not dataclasses.MISSING:
            delattr(cls, name)
        if not field.init:  # An attribute that no caller sets.
            setattr(cls, name, field.default)
            continue
        passing = isinstance(hint, dataclasses.InitVar)
        if not passing and inspect.isroutine(getattr(cls, name, None)):
            raise TypeError(f"{cls.__name__}: the option {name} would hide a method of its base; make it an InitVar")
        fields[name] = (hint.type if passing else hint, _copy(field, {"attribute": not passing}))
    return fields


def _copy(field: dataclasses.Field, metadata: Any = None) -> Any:
    kept = {"metadata": metadata or field.metadata, "kw_only": field.kw_only}
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory, **kept)
    return dataclasses.field(default=field.default, **kept)


def attributes(options: Any) -> dict[str, tuple[Any, bool]]:
    """The options that become attributes: its value, which of one that names an entry of a table is that entry,
    and whether it enters compiled programs as an array."""
    kept = {}
    for field in dataclasses.fields(options):
        if field.metadata["attribute"]:
            value, table = getattr(options, field.name), table_of(field.type)
            if table is not None and value is not None and not callable(value):
                value = build(table, value, field.name)
            kept[field.name] = (value, value is not None and is_traced(field.type))
    return kept
