"""The cells of the tests over the table, and in which tier a cell's case runs.

A central test (equal to the reference, to the paper's equations; resumes; lowers) has one cell of each structure of a
step by default, and with the slow tests the cells that the studies compare; where it is costly, only three structures,
with the slow tests. Any other test has two cells by default and three more structures with the slow tests. All others,
with every switch, are exhaustive.
"""

from collections.abc import Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import pytest

from rnnlab.cells import CELLS
from rnnlab.config.fields import fields_of
from rnnlab.ops.activations import ACTIVATIONS

CELL_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in CELLS},
    **{
        f"{name}_{field}": (name, {field: True})
        for name, cell in CELLS.items()
        for field, (_, default) in fields_of(cell).items()
        if default is False
    },
    **{
        f"{name}_{activation}": (name, {"activation": activation})
        for name, cell in CELLS.items()
        if isinstance(cell, type) and "activation" in fields_of(cell)
        for activation in ACTIVATIONS
        if activation != fields_of(cell)["activation"].default
    },
    "slstm_heads": ("slstm", {"heads": 2}),
    "slstm_exp": ("slstm", {"forget": "exp"}),
    "rhn_depth_1": ("rhn", {"depth": 1}),
    "mogrifier_low_rank": ("mogrifier", {"rounds": 2, "rank": 1}),
}
"""Every cell, and every switch of a cell that changes its equations: name -> (name in CELLS, parameters)."""

PLAIN_FUNCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    f"vanilla_{name}": ("vanilla", {"activation": function})
    for name, function in {
        "jnp.tanh": jnp.tanh,
        "jnp.abs": jnp.abs,
        "jnp.sin": jnp.sin,
        "where": lambda x: jnp.where(x > 0, x, jnp.tanh(x)),
        "jax.nn.gelu": jax.nn.gelu,
        "jax.nn.silu": jax.nn.silu,
        "jax.nn.relu6": jax.nn.relu6,
        "jax.nn.softplus": jax.nn.softplus,
    }.items()
}
"""A cell with functions for its activation whose derivative is JAX's own."""

STRUCTURES = {
    "vanilla": "one product",
    "lstm": "one product of four gates",
    "gru": "an offset of the product",
    "gru_reset_before": "several products",
    "indrnn": "a diagonal, no product",
    "cornn": "a product of the whole carry",
    "slstm_heads": "diagonal blocks",
    "mingru": "linear in h, with an output map",
}
"""A cell of each structure of a step."""

STUDY = (
    *("irnn", "antisymmetric", "lipschitz", "lem", "exprnn", "asrnn", "mgu", "ur_lstm", "rhn", "slstm"),
    *("mogrifier", "lru", "hippo_legs"),
)
"""Further cells that the slow central tests have: of docs/study.md, and three whose steps are like none of theirs."""

FEW = ("lstm", "mingru")
"""Those of STRUCTURES that stand for all in a default test that is not central: one product, and none."""

SOME = (*FEW, "gru_reset_before", "cornn", "slstm_heads")
"""Those that do so in the slow tests."""

COSTLY = (*FEW, "gru_reset_before")
"""Those of STRUCTURES that a central test has where it is costly."""

FUNCTIONS = ("vanilla_relu", "vanilla_modrelu", "vanilla_where", "vanilla_jnp.sin")
"""The activations that the slow central tests have: they enter a step at one place."""

Tier = Literal["default", "slow", "exhaustive"]


def tier_of(variant: str, *, central: bool = False, costly: bool = False, further: bool = False) -> Tier:
    """The tier of a case of a cell of CELL_VARIANTS or PLAIN_FUNCTIONS.

    central: the test is one of the few that a cell must pass in every tier. costly: the test is slow for every cell.
    further: the case is one more of a kind that another case of the cell has.
    """
    if variant in STRUCTURES and central:
        if further:
            return "slow" if variant == "lstm" else "exhaustive"
        if costly:
            return "slow" if variant in COSTLY else "exhaustive"
        return "default"
    if further:
        return "exhaustive"
    if variant in SOME:
        return "default" if variant in FEW and not costly else "slow"
    if variant in (*FUNCTIONS, *STUDY) or _of_plain_cell(variant):
        return "slow" if central and not costly else "exhaustive"
    return "exhaustive"


def _of_plain_cell(variant: str) -> bool:
    """Whether it is a switch of a vanilla cell or an LSTM, and no activation."""
    cell, fields = (CELL_VARIANTS | PLAIN_FUNCTIONS)[variant]
    return cell in ("vanilla", "lstm") and "activation" not in fields


def in_tier(variant: str, *rest: Any, central: bool = False, costly: bool = False, further: bool = False) -> Any:
    """The case (variant, *rest) of a test, marked by its tier."""
    tier = tier_of(variant, central=central, costly=costly, further=further)
    return pytest.param(variant, *rest, marks=() if tier == "default" else getattr(pytest.mark, tier))


def in_tiers(variants: Iterable[str] = CELL_VARIANTS, *, central: bool = False, costly: bool = False) -> list[Any]:
    """A case for each of them, marked by its tier."""
    return [in_tier(each, central=central, costly=costly) for each in variants]


def slow_tests(*cases: Any) -> list[Any]:
    """Cases of a test that go with the slow ones: of the engine, beside torch, and others of which one says little."""
    return _marked(cases, pytest.mark.slow)


def exhaustive_tests(*cases: Any) -> list[Any]:
    """Cases of a test that neither the default tests nor the slow ones have: more of a kind that one of them shows."""
    return _marked(cases, pytest.mark.exhaustive)


def _marked(cases: Iterable[Any], mark: pytest.MarkDecorator) -> list[Any]:
    return [pytest.param(*(each if isinstance(each, tuple) else (each,)), marks=mark) for each in cases]
