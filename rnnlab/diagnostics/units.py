"""The bounded and rectified units of any cell, found in the program of its step: nothing is asked of who writes one.

`saturation.py` has what is reported about them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rnnlab.typing import Carry, Parts

Kind = Literal["tanh", "sigmoid", "relu"]


class Unit(NamedTuple):
    """An elementwise nonlinearity of a step."""

    name: str
    kind: Kind
    value: jax.Array
    """[B, H], what it puts out."""
    carry: int | None = None
    """The element of the next carry that this is, if it is one."""


def units_of(step: Callable[[Carry, Parts], Carry], carry: Carry, parts: Parts, gates: Sequence[str]) -> list[Unit]:
    """Every tanh, logistic function and max(x, 0) of a step, in the order of computation, with its values.

    The jaxpr of the step is run operation by operation. A unit is
        tanh      the primitive, in `jnp.tanh`, `jax.nn.tanh`, `rnnlab.ops.activations.tanh`
        sigmoid   the primitive, in `jax.nn.sigmoid`; and 0.5 tanh(x) + 0.5, as in `ops.activations.sigmoid`, which
                  then is not a tanh
        relu      max(x, 0), as in `jax.nn.relu`; where(x > 0, x, 0), as in `rnnlab.ops.activations.relu`
    Those within a loop or a condition of the step are not seen.

    It is named by the gate whose part of z it sees without another unit in between. If it sees several, those that have
    named a unit are left out; the names of the rest are joined by "+". A unit that sees no part of z by itself, such
    as the LSTM's tanh(c'), is "output". A second unit of the same name is "f 2".

    Args:
        step: as `Trajectory.step` gives it.
        carry: [B, H] each.
        parts: the gates' parts of z [B, H] each and behind them anything.
        gates: the names of the first parts.
    """
    closed = jax.make_jaxpr(step)(carry, parts)
    reader = _Reader(gates)
    leaves = [_Value(leaf, seen=True) for leaf in jax.tree.leaves(carry)]
    for index, part in enumerate(parts):
        leaves.append(_Value(part, frozenset([index] if index < len(gates) else []), seen=True))
    outputs = reader.run(closed.jaxpr, [_Value(const) for const in closed.consts], leaves)
    places = {id(output.array): element for element, output in reversed([*enumerate(outputs)])}
    return [unit._replace(carry=places.get(id(unit.value))) for unit in reader.units]


class _Value:
    """A value of the step and where it comes from; compared by identity."""

    def __init__(
        self, array: Any, parts: frozenset[int] = frozenset(), seen: bool = False, constant: float | None = None
    ):
        """parts: of z that it depends on without a unit in between. seen: whether it depends on the carry or on parts
        at all. constant: the number that all of it is."""
        self.array, self.parts, self.seen, self.constant = array, parts, seen, constant
        self.line: tuple[int, float, float] | None = None
        """(u, a, b) for a tanh + b with the tanh of unit u."""
        self.sign: tuple[_Value, int] | None = None
        """(x, 1) for x > 0, (x, 0) for x < 0."""


class _Reader:
    """Runs a jaxpr and notes its units."""

    def __init__(self, gates: Sequence[str]):
        self.gates, self.units, self.named = gates, [], set()

    def run(self, jaxpr: Any, consts: Sequence[_Value], arguments: Sequence[_Value]) -> list[_Value]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

        def read(atom: Any) -> _Value:
            return _literal(atom.val) if hasattr(atom, "val") else values[atom]

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            values.update(zip(equation.outvars, self._apply(equation, inputs), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, equation: Any, inputs: list[_Value]) -> list[_Value]:
        inner = next((equation.params[key] for key in _INNER if key in equation.params), None)
        name = equation.primitive.name
        if name in _CALLS and inner is not None:
            consts = [_Value(const) for const in getattr(inner, "consts", ())]
            return self.run(getattr(inner, "jaxpr", inner), consts, inputs)
        outputs = equation.primitive.bind(*(value.array for value in inputs), **equation.params)
        parts = frozenset[int]().union(*(value.parts for value in inputs))
        seen = any(value.seen for value in inputs)
        results = [_Value(a, parts, seen) for a in (outputs if equation.primitive.multiple_results else [outputs])]
        if seen:
            self._recognize(name, inputs, results[0])
        elif name in ("broadcast_in_dim", "convert_element_type"):
            results[0].constant = inputs[0].constant
        return results

    def _recognize(self, name: str, inputs: list[_Value], output: _Value) -> None:
        """Notes what an operation makes of its inputs."""
        if name == "tanh":
            output.line = (len(self.units), 1.0, 0.0)
            self._note("tanh", output)
        elif name == "logistic":
            self._note("sigmoid", output)
        elif name in ("mul", "add", "add_any"):
            self._follow_line(name, inputs, output)
        elif name in ("gt", "ge", "lt", "le") and inputs[1].constant == 0:
            output.sign = (inputs[0], int(name in ("gt", "ge")))
        elif (name == "max" and any(value.constant == 0 for value in inputs)) or self._keeps_positive(name, inputs):
            self._note("relu", output)

    def _keeps_positive(self, name: str, inputs: list[_Value]) -> bool:
        """Whether an operation is where(x > 0, x, 0) or where(x < 0, 0, x); its cases stand behind the condition, that
        for false first."""
        if name != "select_n" or len(inputs) != 3 or inputs[0].sign is None:
            return False
        x, kept = inputs[0].sign
        return inputs[1 + kept] is x and inputs[2 - kept].constant == 0

    def _follow_line(self, name: str, inputs: list[_Value], output: _Value) -> None:
        """0.5 tanh + 0.5 is one sigmoid."""
        for value, other in (inputs, inputs[::-1]):
            if value.line is not None and other.constant is not None:
                unit, slope, offset = value.line
                number = other.constant
                slope, offset = (slope * number, offset * number) if name == "mul" else (slope, offset + number)
                output.parts = value.parts
                if (slope, offset) == (0.5, 0.5):
                    self.units[unit] = self.units[unit]._replace(kind="sigmoid", value=output.array)
                else:
                    output.line = (unit, slope, offset)

    def _note(self, kind: Kind, output: _Value) -> None:
        left = output.parts - self.named or output.parts
        self.named |= output.parts
        name = "+".join(self.gates[index] for index in sorted(left)) or "output"
        earlier = sum(unit.name.split(" ")[0] == name for unit in self.units)
        self.units.append(Unit(name + (f" {earlier + 1}" if earlier else ""), kind, output.array))
        output.parts = frozenset()


_CALLS = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "checkpoint",
    "remat",
    "remat2",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
)
"""Primitives that are the jaxpr they hold."""

_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def _literal(value: Any) -> _Value:
    return _Value(value, constant=float(value) if np.ndim(value) == 0 else None)
