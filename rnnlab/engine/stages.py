"""A traced program that is run in stages: some of its inputs are made of what it has put out so far.

A step of a cell is such a program: what a matrix makes of one value enters the gates that the next value comes from.
Nothing here knows of cells or time.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Stages:
    """A program in stages. Its inputs are those there are from the start, and a group for every exchange; its outputs
    are a group for every exchange, and the results."""

    jaxpr: Jaxpr
    early: int
    """How many inputs there are from the start."""
    received: tuple[int, ...]
    """How many inputs each exchange brings."""
    sent: tuple[int, ...]
    """How many outputs each exchange takes."""
    parts: tuple[tuple[Any, ...], ...]
    """The equations of each stage, one stage more than there are exchanges."""

    def __call__(
        self,
        consts: Sequence[Any],
        inputs: Sequence[Any],
        exchange: Callable[[int, list[Any]], Sequence[Any]],
    ) -> list[Any]:
        """The results. exchange: (its number, what it takes) -> what it brings."""
        values: dict[Var, Any] = dict(zip(self.jaxpr.constvars, consts, strict=True))
        values |= zip(self.jaxpr.invars[: self.early], inputs, strict=True)
        late, outputs = iter(self.jaxpr.invars[self.early :]), iter(self.jaxpr.outvars)

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, Literal) else values[variable]

        for number, equations in enumerate(self.parts):
            for equation in equations:
                inner = [variable for variable in equation.invars if not isinstance(variable, Literal)]
                inner = list(dict.fromkeys(inner))
                values |= zip(equation.outvars, _run(self.jaxpr, equation, inner, map(read, inner)), strict=True)
            if number < len(self.sent):
                brought = exchange(number, [read(next(outputs)) for _ in range(self.sent[number])])
                values |= zip((next(late) for _ in range(self.received[number])), brought, strict=True)
        return [read(variable) for variable in outputs]


def stages(
    closed: ClosedJaxpr,
    early: int,
    received: Sequence[int],
    sent: Sequence[int],
    written_out: frozenset[str] = frozenset(),
) -> tuple[Stages, list[Any]]:
    """A traced program in stages, and its constants.

    Args:
        closed: its inputs and outputs in the order of `Stages`.
        early, received, sent: as there.
        written_out: primitives that stand for a program, beside those that always are written out.

    Raises:
        ValueError: an exchange takes what comes of itself or of a later one.
    """
    closed = _without_calls(closed, _CALLS | written_out)
    jaxpr = closed.jaxpr
    level: dict[Any, int] = dict.fromkeys([*jaxpr.constvars, *jaxpr.invars[:early]], 0)
    late, outputs = iter(jaxpr.invars[early:]), iter(jaxpr.outvars)
    for number, count in enumerate(received, 1):
        level |= {next(late): number for _ in range(count)}

    def of(variables: Sequence[Any]) -> int:
        return max((level[variable] for variable in variables if not isinstance(variable, Literal)), default=0)

    parts: list[list[Any]] = [[] for _ in range(len(received) + 1)]
    for equation in jaxpr.eqns:
        number = of(equation.invars)
        parts[number].append(equation)
        level |= dict.fromkeys(equation.outvars, number)
    for number, count in enumerate(sent):
        if of([next(outputs) for _ in range(count)]) > number:
            raise ValueError("a value meets a matrix before all that it is made of is there")
    return Stages(jaxpr, early, tuple(received), tuple(sent), tuple(map(tuple, parts))), closed.consts


def inputs_read(jaxpr: Jaxpr) -> list[bool]:
    """For each input of a program, whether its outputs are made of it."""
    read = {variable for variable in jaxpr.outvars if not isinstance(variable, Literal)}
    for equation in reversed(jaxpr.eqns):
        if any(variable in read for variable in equation.outvars):
            read |= {variable for variable in equation.invars if not isinstance(variable, Literal)}
    return [variable in read for variable in jaxpr.invars]


_CALLS = frozenset({"pjit", "jit", "checkpoint", "remat", "remat2", "closed_call", "core_call"})
"""Primitives that stand for a program of their own; those of one stage may hold equations of several."""


def _without_calls(closed: ClosedJaxpr, calls: frozenset[str]) -> ClosedJaxpr:
    """The same program with those calls written out."""

    def run(jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

        def read(variables: Sequence[Any]) -> Iterator[Any]:
            return (v.val if isinstance(v, Literal) else values[v] for v in variables)

        for equation in jaxpr.eqns:
            if equation.primitive.name in calls:
                inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
                inner, inner_consts = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, [])
                outputs = run(inner, inner_consts, [*read(equation.invars)])
            else:
                names = list(dict.fromkeys(v for v in equation.invars if not isinstance(v, Literal)))
                outputs = _run(jaxpr, equation, names, read(names))
            values |= zip(equation.outvars, outputs, strict=True)
        return [*read(jaxpr.outvars)]

    return jax.make_jaxpr(lambda *inputs: run(closed.jaxpr, closed.consts, inputs))(*closed.in_avals)


def _run(jaxpr: Jaxpr, equation: Any, names: list[Any], inputs: Any) -> list[Any]:
    """The outputs of one equation of a program; names: of its inputs."""
    nameless = jaxpr.debug_info.with_unknown_names()
    alone = jaxpr.replace(constvars=[], invars=names, outvars=[*equation.outvars], eqns=[equation], debug_info=nameless)
    return jaxpr_as_fun(ClosedJaxpr(alone, []))(*inputs)
