"""Options declared in a class's body: what becomes an argument, what an attribute, what a subclass inherits."""

import dataclasses
from dataclasses import InitVar
from typing import Any, ClassVar

import pytest

from rnnlab.config.bounds import Positive, PositiveInt, Traced
from rnnlab.config.declared import WithOptions, attributes
from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import fields_of, takes
from rnnlab.config.schema import resolve


class Vehicle(WithOptions):
    wheels: PositiveInt = dataclasses.field(kw_only=False)
    paint: InitVar[str] = "red"
    speed: Traced[Positive] = 1.0
    cargo: InitVar[tuple[int, ...]] = dataclasses.field(default_factory=tuple)
    plate: str = dataclasses.field(default="none", init=False)
    makers: ClassVar[tuple[str, ...]] = ("a",)

    def __init__(self, wheels: PositiveInt, **options: Any):
        self.wheels = wheels
        self.options = self.Options(**options)
        for name, (value, traced) in attributes(self.options).items():
            setattr(self, name, (value, traced))


class Truck(Vehicle):
    axles: int
    speed: float = 0.5


class Lorry(Truck):
    axles = 4
    paint = "blue"
    plate: str = "L"
    """Not an option of the base, and so none here."""


class Sledge(Vehicle, without=("paint", "cargo")):
    runners: int = 2


class Toy(Truck):
    price: float
    """An annotation alone: the constructor takes no further options."""

    def __init__(self, wheels: PositiveInt, *, price: Positive = 3.0):
        super().__init__(wheels, axles=2, speed=0.25)
        self.price = price


FIELDS = [
    (Vehicle, ["wheels", "paint", "speed", "cargo"]),
    (Truck, ["wheels", "paint", "speed", "cargo", "axles"]),
    (Lorry, ["wheels", "paint", "speed", "cargo", "axles"]),
    (Sledge, ["wheels", "speed", "runners"]),
    (Toy, ["wheels", "price"]),
]


@pytest.mark.parametrize(("cls", "names"), FIELDS)
def test_fields_are_those_of_the_base_and_its_own(cls: type, names: list[str]) -> None:
    assert list(fields_of(cls)) == names
    assert all(takes(cls, name) for name in names)
    assert not takes(cls, "plate")


def test_a_subclass_may_change_the_type_and_the_default_of_an_inherited_option() -> None:
    assert fields_of(Vehicle)["speed"] == (Traced[Positive], 1.0)
    assert fields_of(Truck)["speed"] == (float, 0.5)


def test_a_value_alone_is_a_new_default_of_an_inherited_option() -> None:
    assert fields_of(Lorry)["axles"] == (int, 4)
    lorry: Any = Lorry(6)
    assert (lorry.axles, lorry.options.paint, lorry.plate) == ((4, False), "blue", "L")
    assert Lorry(6, axles=2).axles == (2, False)
    assert not hasattr(lorry, "paint")


def test_an_option_that_would_hide_a_method_is_refused() -> None:
    base = type("Base", (Vehicle,), {"drive": lambda self: None})
    with pytest.raises(TypeError, match="Fast: the option drive would hide a method of its base; make it an InitVar"):
        type("Fast", (base,), {"__annotations__": {"drive": str}, "drive": "quickly"})


def test_options_are_attributes_but_for_those_of_initialisation() -> None:
    truck: Any = Truck(4, axles=3)
    assert (truck.axles, truck.speed, truck.plate) == ((3, False), (0.5, False), "none")
    assert Vehicle(4).speed == (1.0, True)
    assert not hasattr(truck, "paint")
    assert not hasattr(Truck, "speed")
    assert truck.options.paint == "red"
    assert truck.makers == ("a",)


class Catalogue(WithOptions):
    values: int = 3
    options: int = 4

    def __init__(self, *values: Any, **options: Any):
        self.chosen = self.Options(*values, **options)


def test_an_option_may_have_the_name_of_what_gathers_arguments() -> None:
    assert attributes(Catalogue(values=5).chosen) == {"values": (5, False), "options": (4, False)}


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Vehicle(4).options.paint = "blue"


def test_an_own_constructor_says_what_a_class_takes() -> None:
    toy: Any = Toy(4)
    assert (toy.price, toy.axles, toy.speed) == (3.0, (2, False), (0.25, False))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Truck(4), r"Truck.__init__\(\) missing 1 required keyword-only argument: 'axles'"),
        (lambda: Truck(4, axles=2, weels=3), r"Truck.__init__\(\) got an unexpected keyword argument 'weels'"),
        (lambda: Sledge(1, paint="blue"), r"Sledge.__init__\(\) got an unexpected keyword argument 'paint'"),
    ],
)
def test_a_wrong_argument_is_a_type_error_as_of_any_function(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_a_section_is_checked_against_the_options() -> None:
    once = resolve(Truck, {"wheels": 6, "axles": 3}, "truck")
    assert once == {"wheels": 6, "paint": "red", "speed": 0.5, "cargo": (), "axles": 3}
    with pytest.raises(ConfigError, match=r"^truck\.axles: missing; expected an int$"):
        resolve(Truck, {"wheels": 6}, "truck")
    with pytest.raises(ConfigError, match=r"^unknown field 'sledge\.paint'; known: "):
        resolve(Sledge, {"wheels": 6, "paint": "red"}, "sledge")
    with pytest.raises(ConfigError, match=r"did you mean truck\.speed\?"):
        resolve(Truck, {"wheels": 6, "axles": 1, "sped": 2.0}, "truck")
