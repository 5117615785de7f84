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
        parameters = inspect.signature(cls.__init__).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return
        inherited = dataclasses.fields(cls.Options) if hasattr(cls, "Options") else ()
        fields = {field.name: (field.type, _copy(field)) for field in inherited} | _declared(cls, set(parameters))
        columns: list[Any] = [(name, *column) for name, column in fields.items() if name not in without]
        cls.Options = dataclasses.make_dataclass(cls.__name__, columns, frozen=True, kw_only=True)


def _declared(cls: type, parameters: set[str]) -> dict[str, tuple[Any, Any]]:
    """The options in a class's body, (type, field) each. Their defaults are no longer attributes of the class.
    parameters: of its constructor, which are no options."""
    fields: dict[str, tuple[Any, Any]] = {}
    for name, hint in inspect.get_annotations(cls, eval_str=True).items():
        if hint is ClassVar or typing.get_origin(hint) is ClassVar:
            continue
        default = vars(cls).get(name, dataclasses.MISSING)
        field = default if isinstance(default, dataclasses.Field) else dataclasses.field(default=default)
        if default is not dataclasses.MISSING:
            delattr(cls, name)
        if not field.init:  # An attribute that no caller sets.
            setattr(cls, name, field.default)
        elif name not in parameters:
            passing = isinstance(hint, dataclasses.InitVar)
            fields[name] = (hint.type if passing else hint, _copy(field, {"attribute": not passing}))
    return fields


def _copy(field: dataclasses.Field, metadata: Any = None) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=field.default_factory, metadata=metadata or field.metadata)
    return dataclasses.field(default=field.default, metadata=metadata or field.metadata)


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
