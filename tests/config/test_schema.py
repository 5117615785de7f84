"""Sections to objects: which values a factory's signature admits, what a mistake is called, numbers and structure."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.cells import CELLS
from rnnlab.config.bounds import Bound, Decay, NonNegative, NonNegativeInt, Positive, PositiveInt, Traced
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.fields import fields_of, takes
from rnnlab.config.numbers import merge_numbers, split_numbers
from rnnlab.config.schema import as_options, build, check_count, resolve
from rnnlab.ops.activations import ACTIVATIONS
from rnnlab.ops.initializers import INITIALIZERS, InitializerSpec


def circle(radius: Traced[Positive] = 1.0, filled: bool = False) -> Any:
    return ("circle", radius, filled)


class Square:
    """A factory that is a class, with a parameter that the code gives."""

    def __init__(self, in_features: int, side: Traced[Positive], *, corners: int = 4):
        self.in_features, self.side, self.corners = in_features, side, corners


SHAPES = {"circle": circle, "square": Square, "dot": functools.partial(circle, radius=0.5)}
Shape = Annotated[str | Mapping[str, Any], SHAPES]


@dataclasses.dataclass(frozen=True)
class Shared:
    """Fields that stand in every shape's section."""

    name_of_plot: str = "plot"


@dataclasses.dataclass(frozen=True)
class Frame:
    """A section without a name."""

    thickness: Traced[Positive] = 2.0
    double: bool = False


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Every kind of annotation that a field may carry."""

    scale: Traced[Positive]
    shape: Shape = "circle"
    labelled: Annotated[str | Mapping[str, Any], SHAPES, Shared] = "dot"
    frame: Frame = Frame()
    border: Frame | None = None
    wide: Frame = Frame(thickness=5.0)
    count: PositiveInt = 1
    offset: NonNegativeInt = 0
    decay: Traced[Decay] = 0.9
    width: NonNegative = 1.0
    limit: Traced[float] | None = None
    size: Traced[float] | Literal["auto"] = "auto"
    mode: Literal["fill", "line"] = "line"
    title: str = ""
    visible: bool = True
    dashes: tuple[int, ...] = ()
    share: Annotated[float, Bound(0, 1)] = 0.5
    notes: Mapping = dataclasses.field(default_factory=dict)


def resolved(**section: Any) -> dict[str, Any]:
    return resolve(Drawing, {"scale": 1.0} | section, "drawing")


ADMITTED = [  # field, what the user wrote, what the factory gets
    ("scale", 2, 2.0),
    ("scale", 1e-9, 1e-9),
    ("scale", float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).tiny)),
    ("scale", float(np.finfo(np.float32).max), float(np.finfo(np.float32).max)),
    ("decay", 0.9999999, 0.9999999),
    ("count", 1e4, 10000),
    ("count", 7, 7),
    ("offset", 0, 0),
    ("decay", 0, 0.0),
    ("share", 1, 1.0),
    ("share", 0, 0.0),
    ("width", 0, 0.0),
    ("limit", None, None),
    ("limit", 3, 3.0),
    ("size", "auto", "auto"),
    ("size", 2, 2.0),
    ("mode", "fill", "fill"),
    ("visible", False, False),
    ("dashes", [1, 2e0], (1, 2)),
    ("frame", {}, {"thickness": 2.0, "double": False}),
    ("frame", {"thickness": 1}, {"thickness": 1.0, "double": False}),
    ("frame", Frame(double=True), {"thickness": 2.0, "double": True}),
    ("border", None, None),
    ("border", {"double": True}, {"thickness": 2.0, "double": True}),
    ("wide", {"double": True}, {"thickness": 5.0, "double": True}),
    ("shape", "circle", {"name": "circle", "radius": 1.0, "filled": False}),
    ("shape", {"name": "circle", "radius": 3}, {"name": "circle", "radius": 3.0, "filled": False}),
    ("shape", {"name": "square", "side": 2}, {"name": "square", "side": 2.0, "corners": 4}),
    ("shape", "dot", {"name": "dot", "radius": 0.5, "filled": False}),
    (
        "labelled",
        {"name": "dot", "name_of_plot": "a"},
        {"name": "dot", "radius": 0.5, "filled": False, "name_of_plot": "a"},
    ),
]

REFUSED = [  # field, what the user wrote, what the message says
    ("scale", 0, r"drawing\.scale: 0\.0 is out of range; it must be above 0$"),
    ("scale", -1.5, "must be above 0"),
    ("scale", math.nan, r"drawing\.scale: not a number"),
    ("scale", True, r"drawing\.scale: True is a bool; expected a float"),
    ("scale", "1.0", "'1.0' is a str; expected a float"),
    ("scale", None, r"drawing\.scale: None is None; expected a float"),
    ("count", 0, "must be at least 1"),
    ("count", 1.5, "1.5 is a float; expected an int"),
    ("scale", math.inf, "inf is out of range"),
    ("scale", 10**400, "does not fit a float"),
    ("scale", 1e-46, r"drawing\.scale: 1e-46 is too small for float32: it counts as 0; from 1\.18e-38 up"),
    ("scale", 1e-39, "is too small for float32"),  # Subnormal: XLA's CPU code takes it for 0.
    ("scale", 4e38, r"4e\+38 is too large for float32; up to 3\.4e\+38"),
    ("limit", -1e-46, "too small for float32"),
    ("size", 1e-46, "too small for float32"),
    ("decay", 1 - 1e-9, "0.999999999 is 1 in float32; there, too, it must be at least 0 and below 1"),
    ("count", math.inf, "inf is a float; expected an int"),
    ("count", True, "True is a bool; expected an int"),
    ("count", None, "expected an int"),
    ("offset", -1, "must be at least 0"),
    ("decay", 1, "must be at least 0 and below 1"),
    ("decay", -0.1, "must be at least 0 and below 1"),
    ("share", 1.01, "must be at least 0 and at most 1"),
    ("limit", "none", "'none' is a str; expected a float"),
    ("limit", False, "False is a bool"),
    ("size", "large", "expected a float or one of 'auto'"),
    ("size", None, "expected a float or one of 'auto'"),
    ("mode", "dots", "expected one of 'fill', 'line'"),
    ("title", 3, "3 is an int; expected a str"),
    ("visible", 1, "1 is an int; expected a bool"),
    ("visible", "true", "'true' is a str; expected a bool"),
    ("dashes", 3, "expected a list, each an int"),
    ("dashes", [1, "a"], r"drawing\.dashes\[1\]: 'a' is a str"),
    ("frame", {"thickness": 0}, r"drawing\.frame\.thickness: 0\.0 is out of range"),
    ("frame", {"thicknes": 1}, r"did you mean drawing\.frame\.thickness"),
    ("frame", "double", r"drawing\.frame: 'double' is a str; expected a Mapping$"),
    ("frame", None, r"drawing\.frame: None is None; expected a Mapping$"),
    ("frame", Frame(thickness=0), r"drawing\.frame\.thickness: 0\.0 is out of range"),
    ("border", 3, r"drawing\.border: 3 is an int; expected a Mapping$"),
    ("border", {"thicknes": 1}, r"did you mean drawing\.border\.thickness"),
    ("shape", 3, "expected one of circle, dot, square, or a section"),
    ("shape", None, "expected one of circle, dot, square, or a section"),
    ("shape", "cirle", r"drawing\.shape 'cirle'; did you mean circle\? known: circle, dot, square"),
    ("shape", "square", r"drawing\.shape\.side: missing; expected a float above 0"),
    ("shape", {"name": ["circle"]}, r"unknown drawing\.shape \['circle'\]"),
    ("shape", {"name": "circle", "raduis": 1}, "did you mean drawing.shape.radius"),
    ("shape", {"name": "circle", "radius": -1}, r"drawing\.shape\.radius: -1\.0 is out of range"),
    ("shape", {"name": "square", "side": 1, "in_features": 3}, "unknown field 'drawing.shape.in_features'"),
    ("shape", {"name": "circle", "name_of_plot": "a"}, "unknown field 'drawing.shape.name_of_plot'"),
    ("widht", 1.0, r"unknown field 'drawing\.widht'; did you mean drawing\.width"),
]


@pytest.mark.parametrize(("field", "value", "expected"), ADMITTED)
def test_admitted_value_arrives_in_its_declared_type(field, value, expected):
    actual = resolved(**{field: value})[field]
    assert actual == expected
    assert type(actual) is type(expected)


@pytest.mark.parametrize(("field", "value", "message"), REFUSED)
def test_refused_value_is_named_in_one_line(field, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolved(**{field: value})
    assert "\n" not in str(caught.value)


def test_missing_field_is_named_with_what_it_takes():
    with pytest.raises(ConfigError, match=r"^drawing\.scale: missing; expected a float above 0$"):
        resolve(Drawing, {}, "drawing")
    with pytest.raises(ConfigError, match=r"^scale: missing"):
        resolve(Drawing, {}, "")


def test_field_that_resembles_none_gets_no_suggestion():
    with pytest.raises(ConfigError, match=r"^unknown field 'zzz'; known: filled, radius$"):
        resolve(circle, {"zzz": 1.0}, "")


def test_resolved_section_has_every_field_and_resolves_to_itself():
    once = resolved(shape={"name": "square", "side": 2})
    assert set(once) == {
        *(
            "scale",
            "shape",
            "labelled",
            "frame",
            "border",
            "wide",
            "notes",
            "count",
            "offset",
            "decay",
            "width",
            "limit",
        ),
        *("size", "mode", "title", "visible", "dashes", "share"),
    }
    assert once["mode"] == "line"
    assert resolve(Drawing, once, "drawing") == once


def test_fields_of_common_options_belong_to_the_section():
    assert resolve(circle, {"name_of_plot": "a"}, "", Shared) == {"radius": 1.0, "filled": False, "name_of_plot": "a"}
    with pytest.raises(ConfigError, match="unknown field 'name_of_plot'"):
        resolve(circle, {"name_of_plot": "a"}, "")


def test_a_field_of_options_may_have_the_name_of_what_the_code_gives():
    @dataclasses.dataclass(frozen=True)
    class Line:
        readout: Positive | None = None

    assert resolve(Line, {"readout": 2}, "") == {"readout": 2.0}
    with pytest.raises(ConfigError, match=r"^line\.readout: -1\.0 is out of range; it must be above 0$"):
        resolve(Line, {"readout": -1}, "line")
    with pytest.raises(ConfigError, match=r"^unknown field 'line\.in_features'"):
        resolve(Line, {"in_features": 2}, "line")


def test_sections_become_dataclasses_with_the_defaults_of_what_they_lack():
    section = {"scale": 1.0, "frame": {"double": True}, "border": {"thickness": 3.0}, "shape": {"name": "circle"}}
    options = as_options(Drawing, section)
    assert options == Drawing(1.0, frame=Frame(double=True), border=Frame(3.0), shape={"name": "circle"})
    assert as_options(Drawing, options) is options
    assert as_options(Frame, None) == Frame()
    assert as_options(Drawing, resolved(**section)).frame == Frame(double=True)
    with pytest.raises(TypeError, match="thicknes"):
        as_options(Drawing, {"scale": 1.0, "frame": {"thicknes": 1.0}})


def test_a_factory_s_own_field_wins_over_a_common_one():
    @dataclasses.dataclass(frozen=True)
    class Common:
        filled: Literal["yes", "no"] = "no"
        size: int = 3

    once = resolve(circle, {"radius": 2}, "", Common)
    assert once == {"radius": 2.0, "filled": False, "size": 3}
    assert list(once) == ["radius", "filled", "size"]
    assert resolve(circle, {"filled": True}, "", Common)["filled"] is True


@pytest.mark.parametrize("factory", SHAPES.values(), ids=SHAPES)
def test_fields_are_the_parameters_that_the_code_does_not_give(factory):
    for name in ("in_features", "side", "corners", "radius", "filled"):
        assert (name in fields_of(factory)) == (takes(factory, name) and name != "in_features")
    assert not takes(factory, "self_portrait")
    assert takes(Square, "in_features")
    assert fields_of(SHAPES["dot"])["radius"] == (Traced[Positive], 0.5)


def test_build_calls_the_factory_with_the_section_and_what_the_code_gives():
    square = build(SHAPES, {"name": "square", "side": 2.0}, "shape", in_features=3)
    assert (square.in_features, square.side, square.corners) == (3, 2.0, 4)
    assert build(SHAPES, "dot", "shape") == ("circle", 0.5, False)
    assert build(SHAPES, {"name": "dot", "radius": 2.0}, "shape") == ("circle", 2.0, False)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("dto", r"unknown shape 'dto'; did you mean dot\?"),
        ({"radius": 1.0}, "shape: the field 'name' is missing; known: circle, dot, square"),
        ({"name": "circle", "raduis": 1.0}, "field of shape 'circle': 'raduis'; did you mean radius"),
        ({"name": "square", "side": 1.0, "in_features": 9}, "field of shape 'square': 'in_features'"),
    ],
)
def test_build_refuses_what_the_table_does_not_have(section, message):
    with pytest.raises(ConfigError, match=message):
        build(SHAPES, section, "shape", **({"in_features": 3} if "side" in section else {}))


ENTRIES = [(table, name) for table in (CELLS, INITIALIZERS, ACTIVATIONS) for name in table]


@pytest.mark.parametrize(("table", "name"), ENTRIES, ids=[name for _, name in ENTRIES])
def test_defaults_of_every_table_entry_pass_its_own_checks(table, name):
    once = resolve(table[name], {"features": 4} if table is CELLS else {}, name)
    assert resolve(table[name], once, name) == once
    assert not set(once) & {"in_features", "rngs"}


def test_traced_numbers_and_structure_make_the_section_again():
    section = resolved(shape={"name": "square", "side": 2}, limit=4, count=3, size=3)
    structure, numbers = split_numbers(section, Drawing)
    assert numbers == {
        "scale": 1.0,
        "shape.side": 2.0,
        "labelled.radius": 0.5,
        "frame.thickness": 2.0,
        "wide.thickness": 5.0,
        "decay": 0.9,
        "limit": 4.0,
        "size": 3.0,
    }
    assert merge_numbers(structure, numbers) == section


def test_sections_that_differ_in_traced_numbers_alone_share_one_structure():
    one, other, third, fourth = (
        split_numbers(resolved(**fields), Drawing)[0]
        for fields in (
            {"scale": 1.0},
            {"scale": 2.0, "shape": {"name": "circle", "radius": 5}},
            {"count": 2},
            {"width": 2.0},
        )
    )
    assert one == other
    assert one not in (third, fourth)


def test_a_mark_on_what_has_no_fraction_is_one_line():
    def hexagon(side: Positive = 1.0, corners: Traced[PositiveInt] | None = None) -> None: ...

    with pytest.raises(ConfigError, match=r"hexagon: corners is Traced\[int\]; only a float enters"):
        resolve(hexagon, {}, "")


def test_merged_numbers_may_be_traced():
    structure, numbers = split_numbers({"name": "uniform", "scale": 1.0}, InitializerSpec)

    @jax.jit
    def draw(numbers: Mapping[str, jax.Array]) -> jax.Array:
        return build(INITIALIZERS, merge_numbers(structure, numbers), "initialiser")(jax.random.key(0), (3, 2))

    assert jnp.allclose(draw(numbers) * 2, draw({"scale": 2.0}))
    assert draw._cache_size() == 1


@pytest.mark.parametrize("value", [4, 4.0, np.int64(4), np.uint8(4)])
def test_a_whole_number_of_any_kind_is_a_count(value):
    count = check_count(value, "features")
    assert (count, type(count)) == (4, int)


@pytest.mark.parametrize("value", [0, -1, 2.5, "4", True, np.bool_(True), None, np.int64(0), 2**31])
def test_what_is_no_count_is_one_line(value):
    with pytest.raises(ConfigError, match=r"^features: [^\n]*$"):
        check_count(value, "features")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("lstn", "lstm"), ("slstn", "slstm"), ("ltsm", "lstm"), ("stm", "lstm"), ("xlstm", "lstm or slstm or mlstm")],
)
def test_the_names_that_the_fewest_slips_make_are_offered(name, nearest):
    names = ["gru", "lstm", "mlstm", "slstm", "ur_lstm"]
    text = unknown("cell", name, names)
    assert sorted(text.split("did you mean ")[1].split("? ")[0].split(" or ")) == sorted(nearest.split(" or "))
