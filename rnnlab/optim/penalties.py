"""Penalties: the terms that are added to a loss, by name, and their config section.

A new one is a function in `optim/terms.py` and a line in `PENALTIES`. A section has a strength for each of them, which
may be traced; None means that the term is not in the program. Terms are added in `training/loss.py` and
`training/update.py`; decoupled weight decay, which is not a penalty, is in `optim/chain.py`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp

from rnnlab.config.fields import fields_of
from rnnlab.config.outside import Table
from rnnlab.config.schema import lookup
from rnnlab.optim.terms import (
    ForwardPass,
    Weights,
    activation,
    gradient_norm,
    l1,
    l2,
    orthogonality,
    temporal_activation,
)
from rnnlab.typing import Array, Float


def _checked(term: Callable[..., Any], name: str) -> Callable[..., Any]:
    first = next(iter(inspect.signature(term).parameters), None)
    if first not in ("weights", "forward"):
        raise TypeError(f"its first parameter is {first}, and must be weights or forward")
    return term


PENALTIES: Table[Callable[..., Array]] = Table(
    {
        "l1": l1,
        "l2": l2,
        "orthogonality": orthogonality,
        "activation": activation,
        "temporal_activation": temporal_activation,
        "gradient_norm": gradient_norm,
    },
    "a penalty",
    adapt=_checked,
)

_Strengths = dataclasses.make_dataclass(
    "_Strengths",
    [(name, fields_of(term)["strength"].hint | None, None) for name, term in PENALTIES.items()],
    frozen=True,
    kw_only=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PenaltyOptions(_Strengths):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """Penalties on top of the loss: the strength of each of `PENALTIES`; under any other name a section whose `name` is
    `package.module:Name`, with its strength and its own fields."""

    further: ClassVar[Table[Callable[..., Array]]] = PENALTIES


class Term(NamedTuple):
    """One penalty of a section."""

    label: str
    """Its name in logs."""
    of_weights: bool
    charge: Callable[[Any], Array]
    """Gives a number for `Weights`, and a number for each row [B] for a `ForwardPass`."""


def terms(section: Mapping[str, Any] | None) -> list[Term]:
    """The penalties that a resolved section asks for."""
    charged = []
    for label, value in (section or {}).items():
        if value is None:
            continue
        fields = {"strength": value} if label in PENALTIES else dict(value)
        term = lookup(PENALTIES, fields.pop("name", label), f"penalties.{label}")
        of_weights = next(iter(inspect.signature(term).parameters)) == "weights"
        charged.append(Term(label, of_weights, functools.partial(_charged, term, fields)))
    return charged


def _charged(term: Callable[..., Array], fields: Mapping[str, Any], seen: Any) -> Array:
    return term(seen, **fields)


def weight_penalty(weights: Weights, penalties: Iterable[Term]) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """(The sum of those of the terms that are of the weights, each of them by its label)."""
    charges = {term.label: term.charge(weights) for term in penalties if term.of_weights}
    return sum(charges.values(), jnp.zeros(())), charges


def row_penalty(
    forward: ForwardPass, penalties: Iterable[Term]
) -> tuple[Float[Array, " B"], dict[str, Float[Array, " B"]]]:
    """(The sum of those of the terms that are of rows, each of them by its label), for each row."""
    charges = {term.label: term.charge(forward) for term in penalties if not term.of_weights}
    return sum(charges.values(), jnp.zeros(forward.h.shape[1])), charges
