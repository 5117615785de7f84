"""The cells of the tests over the table, and in which tier a cell's case runs.

The default tests have one cell of each structure of a step, the slow ones those that the studies compare, and only the
main case of each test; all others, with every switch, are exhaustive.
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
    *("irnn", "antisymmetric", "gated_antisymmetric", "lipschitz", "unicornn", "lem"),
    *("exprnn", "scornn", "asrnn"),
    *("mgu", "janet", "ligru", "minimal_rnn", "fastrnn", "fastgrnn", "cfn", "star", "ur_lstm", "ur_gru", "rhn"),
    *("slstm", "mlstm", "mogrifier", "sru", "qrnn", "minlstm", "lru", "hippo_legs", "lmu", "clockwork"),
)
"""The cells that the studies of gradients compare."""

ALWAYS = (
    *("lstm_peepholes", "lstm_normalize_cell"),
    *("vanilla_sigmoid", "vanilla_relu", "vanilla_leaky_relu", "vanilla_elu", "vanilla_linear"),
    *PLAIN_FUNCTIONS,
)
"""The variants that the default tests have, too."""

Tier = Literal["default", "slow", "exhaustive"]


def tier_of(variant: str, *, costly: bool = False, further: bool = False) -> Tier:
    """The tier of a case of a cell of CELL_VARIANTS or PLAIN_FUNCTIONS.

    costly: the test is slow for every cell. further: the case is one more of a kind that another case of the cell has.
    """
    if variant in STRUCTURES or variant in ALWAYS:
        return "slow" if costly or further else "default"
    name, parameters = CELL_VARIANTS[variant]
    if variant in STUDY or (name == "vanilla" and parameters):
        return "exhaustive" if further else "slow"
    return "exhaustive"


def in_tier(variant: str, *rest: Any, costly: bool = False, further: bool = False) -> Any:
    """The case (variant, *rest) of a test, marked by its tier."""
    tier = tier_of(variant, costly=costly, further=further)
    return pytest.param(variant, *rest, marks=() if tier == "default" else getattr(pytest.mark, tier))


def in_tiers(variants: Iterable[str] = CELL_VARIANTS, *, costly: bool = False, by_structure: bool = False) -> list[Any]:
    """A case for each of them, marked by its tier. by_structure: a cell of each structure shows what the test is about,
    and the cases of the studies' cells are further ones."""
    return [in_tier(each, costly=costly, further=by_structure and each in STUDY) for each in variants]


def slow_tests(*cases: Any) -> list[Any]:
    """Cases of a test that go with the slow ones: more of a kind that a default test shows already."""
    return [pytest.param(*(each if isinstance(each, tuple) else (each,)), marks=pytest.mark.slow) for each in cases]
