"""--help: every field of a config with its value, type, bounds, default and doc."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass
from typing import Any

import pytest

from rnnlab.cells import CELLS
from rnnlab.config.bounds import PositiveInt, Rate
from rnnlab.config.declared import WithOptions
from rnnlab.config.docs import docs_of, summary
from rnnlab.config.fields import fields_of, is_options, members_of, table_of
from rnnlab.config.help import render
from rnnlab.ops.activations import ACTIVATIONS
from rnnlab.ops.initializers import INITIALIZERS
from rnnlab.records.run_config import RunOptions, resolve_config
from rnnlab.tasks import TASKS
from tests.helpers import SMALL_RUN


class Plant(WithOptions):
    """A plant.

    It grows."""

    height: PositiveInt = 3
    """How high it is,
    in metres.

    Not in the first line."""
    colour: InitVar[str] = "green"
    """Of its leaves."""
    undocumented: int = 0

    def __init__(self, **options: Any):
        self.options = self.Options(**options)


class Tree(Plant):
    height: PositiveInt = 20
    share: Rate = 0.5
    """How much of it is wood."""
    colour = "brown"


@dataclass(frozen=True, kw_only=True)
class Garden:
    size: int
    """Of the garden."""


def test_the_doc_of_a_field_is_the_first_paragraph_below_it_and_is_inherited() -> None:
    docs = {"height": "How high it is, in metres.", "colour": "Of its leaves."}
    assert docs_of(Plant) == docs
    assert docs_of(Tree) == docs_of(functools.partial(Tree, height=2)) == docs | {"share": "How much of it is wood."}
    assert docs_of(Garden) == {"size": "Of the garden."}
    assert docs_of(lambda size: size) == {}
    assert (summary(Plant), summary(Tree), summary(len)) == ("A plant.", "", (len.__doc__ or "").splitlines()[0])


def test_the_summary_of_a_preset_says_what_it_sets() -> None:
    assert summary(functools.partial(Plant, height=2, colour="red")) == "A plant. With height=2, colour=red."


@pytest.mark.parametrize("table", [ACTIVATIONS, CELLS, INITIALIZERS, TASKS], ids=lambda table: next(iter(table)))
def test_every_name_of_a_table_has_a_summary(table: Any) -> None:
    assert [name for name, factory in table.items() if not summary(factory)] == []


def sections(hint: Any, seen: set[int]) -> Iterator[type]:
    """The dataclasses of options below an annotation."""
    for member in members_of(hint):
        tables = [] if (table := table_of(member)) is None else list(table.values())
        marks = [each for each in getattr(member, "__metadata__", ()) if is_options(each)]
        for factory in [*tables, *marks, *([member] if is_options(member) else [])]:
            if id(factory) not in seen:
                seen.add(id(factory))
                if is_options(factory):
                    yield factory
                for field in fields_of(factory).values():
                    yield from sections(field.hint, seen)


DOCUMENTED: list[Callable[..., Any]] = [*sections(RunOptions, set()), *TASKS.values(), *CELLS.values()]


@pytest.mark.parametrize("factory", DOCUMENTED, ids=lambda each: getattr(each, "__name__", None))
def test_every_field_of_a_section_has_a_doc(factory: Any) -> None:
    assert fields_of(factory).keys() <= docs_of(factory).keys()


LINES = [
    "  --config.task.length=6\n      an int at least 2; default 150. T, steps of a sequence.\n",
    f"\nmodel.cell: The recurrent cell; docs/cells.md has the equation of each.\n  --config.model.cell.name=irnn\n"
    f"      one of {min(CELLS)}, ",
    "  --config.optimizer.learning_rate=0.01\n      a float above 0. The step size, before the schedule",
    "  --config.averaging=None\n      a section: decay, start; default None. A running mean of the parameters, ",
    "  --config.model.dropout.state=None\n      a float at least 0 and below 1 or None; default None. Units of ",
    "  --config.penalties.l2=None\n      a section: input, recurrent, readout, embedding, bias; default None. Σ_g λ_g ",
    "  --config.optimizer.groups=None\n      a section: input, recurrent, readout, embedding, bias, other; default ",
    "\nmodel.cell.activation:",
]


@pytest.mark.parametrize("line", LINES)
def test_help_says_of_a_field_what_it_admits_and_means(line: str) -> None:
    assert line in render(resolve_config(SMALL_RUN), RunOptions)
