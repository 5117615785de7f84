"""How diagnostics name what they measure: "layer 1 reverse/recurrent_kernel", and the gates and carries of a cell."""

from collections.abc import Sequence
from typing import Any

from rnnlab.engine.contract import Product


def inner_cell(cell: Any) -> Any:
    """The cell of the equations, without all that stands around it."""
    while not hasattr(cell, "gate_names") and hasattr(cell, "cell"):
        cell = cell.cell
    return cell


def part_names(cell: Any, count: int) -> list[str]:
    """The names of the `count` parts of z, most of which are gates; numbers from 1 where the cell does not name as
    many."""
    cell = inner_cell(cell)
    names = [str(name) for name in getattr(cell, "part_names", getattr(cell, "gate_names", ()))]
    return names if len(names) == count else [str(number) for number in range(1, count + 1)]


def product_names(cell: Any, products: Sequence[Product]) -> list[str]:
    """The names of the parts of a step's products, in its order: the gates whose columns of R a matrix has; the
    matrix's name, with numbers from 1 for several parts, where it has none of them."""
    gates_of, names = getattr(inner_cell(cell), "products", {}), []
    for name, parts in {product.name: product.parts for product in products}.items():
        gates = gates_of.get(name, ())
        numbered = [name] if parts == 1 else [f"{name} {number}" for number in range(1, parts + 1)]
        names += gates if len(gates) == parts else numbered
    return names


def carry_names(cell: Any, count: int) -> list[str]:
    """The names of the carry's elements; h and numbers from 2 where the cell does not name as many."""
    names = [str(name) for name in getattr(inner_cell(cell), "carry_names", ())]
    return names if len(names) == count else ["h", *(f"carry {number}" for number in range(2, count + 1))]


def parameter_name(path: tuple) -> str:
    """A parameter's name from its path in a tree of parameters: layers count from 1, as in `Trajectory.name`.

    ("layers", 0, "cells", 1, "bias") is "layer 1 reverse/bias", ("layers", 0, "gains", 0, "input_gain") "layer 1/gains/
    input_gain", ("norms", 1, "gain") "layer 2/norms/gain", ("readout", "kernel") "readout/kernel".
    """
    keys = [getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in path]
    if len(keys) < 2 or not isinstance(keys[1], int):
        return "/".join(map(str, keys))
    layer = f"layer {keys[1] + 1}"
    if keys[0] != "layers":
        return "/".join([layer, str(keys[0]), *map(str, keys[2:])])
    inside = keys[2:]
    if len(inside) > 1 and isinstance(inside[1], int):  # A list with an entry for each direction.
        layer += " reverse" if inside[1] == 1 else ""
        inside = inside[2:] if inside[0] == "cells" else [inside[0], *inside[2:]]
    return "/".join([layer, *map(str, inside)])
