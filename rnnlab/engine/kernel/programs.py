"""A step and its pullback as the programs of two kernels, from the same trace that the fused backend runs."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from rnnlab.engine.chain import Step
from rnnlab.engine.contract import Matrix
from rnnlab.engine.halves import Half, Halves, has_rows, width_of
from rnnlab.engine.kernel.axes import Axis, Cuts, Value
from rnnlab.engine.kernel.rules import REDUCED, check, link
from rnnlab.engine.kernel.team import Team


class Arrays(NamedTuple):
    """Some of a step's arrays, in the order in which they lie side by side in memory."""

    axes: tuple[Axis, ...]
    dtypes: tuple[Any, ...]

    @property
    def padded(self) -> int:
        return sum(axis.padded for axis in self.axes)

    @property
    def segments(self) -> int:
        return sum(len(axis.segments) for axis in self.axes)

    def own(self, team: Team) -> "Arrays":
        return self._replace(axes=tuple(axis.own(team.number, team.programs) for axis in self.axes))

    @property
    def memory(self) -> Any:
        """The type in memory; truth values are numbers there."""
        kinds = [jnp.float32 if jnp.dtype(d) == jnp.dtype(bool) else d for d in self.dtypes]
        return jnp.result_type(*kinds) if kinds else jnp.float32


class Program(Halves):
    """The two kernels' programs, and how each of a step's arrays is cut."""

    def __init__(
        self,
        step: Step,
        leaves: Sequence[Any],
        matrices: Mapping[str, Matrix],
        state_width: int | None,
        pad: Callable[[int], int],
        widest: int | None = None,
    ):
        """leaves: of the parameters, as in the trace. state_width: the columns of the state's mask, None for none.

        Raises:
            Unsupported: the step has what a kernel cannot do.
        """
        super().__init__(step, leaves, matrices, check)
        self._solve(state_width, pad, widest)

    # --- how the arrays are cut --------------------------------------------------------------------------------------

    def _solve(self, state_width: int | None, pad: Callable[[int], int], widest: int | None) -> None:
        cuts, trace = Cuts(), self.trace

        def key(variable: Any) -> Any:
            cuts.add(variable, width_of(variable.aval.shape))
            return variable

        def joined(one: Any, other: Any) -> None:
            if isinstance(one, Var) and isinstance(other, Var):
                cuts.link(key(one), key(other))

        for half in (self.forward, self.backward):
            for equation in half.equations():
                link(equation, cuts, key)
            for variable in [*half.vectors(), *half.summed]:
                key(variable)
        variable: Any
        for variable in [*self.leaf_variables, *self.held]:
            if has_rows(variable.aval.shape):
                key(variable)
        for before, new, dnew, dbefore in zip(self.before, self.new, self.dnew, self.dbefore, strict=True):
            for other in (new, dnew, dbefore):
                joined(key(before), other)
        for z, dz in zip(self.z, self.dz, strict=True):
            joined(key(z), dz)
        for noise in self.noise:
            key(noise)
        places = {"before": self.before, "after": self.new, "noise": self.noise, "kept": self.kept}
        for variable, each in zip(self.held, trace.holdings, strict=True):
            if each.kind in places and has_rows(variable.aval.shape):
                joined(key(variable), places[each.kind][each.number])
        met: dict[str, int] = {}
        for number, each in enumerate(trace.products):
            value, matrix = self.values_out[number], self.matrices[each.name]
            name = ("value", number)
            cuts.add(name, matrix.rows)
            if isinstance(value, Var):
                cuts.link(name, key(value))
            cuts.link(name, key(self.dvalues[number]))
            for part, (u, d) in enumerate(zip(self.results[number], self.dresults[number], strict=True)):
                cuts.add(("u", number, part), matrix.columns // matrix.parts)
                joined(key(u), d)
                cuts.link(("u", number, part), u)
            first = met.setdefault(each.name, number)
            if first != number:  # One matrix in memory for both.
                cuts.link(name, ("value", first))
                for part in range(each.parts):
                    cuts.link(("u", number, part), ("u", first, part))
            if matrix.kernel.ndim == 3:
                heads, rows, columns = matrix.kernel.shape
                cuts.cut(name, *(head * rows for head in range(heads)))
                for part in range(each.parts):
                    cuts.cut(("u", number, part), *(head * columns // each.parts for head in range(heads)))
            elif matrix.kernel.ndim == 1:
                width = matrix.columns // matrix.parts
                for part in range(each.parts):
                    cuts.link(("u", number, part), name, 0, part * width, width)
            if state_width is not None and matrix.of_state:
                cuts.add("state mask", state_width)
                for start in range(0, matrix.rows, state_width):
                    cuts.link("state mask", name, 0, start, state_width)
        self._cuts = cuts
        self.axes = cuts.solved(pad, widest)

    def padded_by(self, pad: Callable[[int], int]) -> "Program":
        """With another padding, and segments as wide as they may be."""
        other = copy.copy(self)
        other.axes = self._cuts.solved(pad)
        return other

    def own(self, team: Team) -> "Program":
        """With what one program of several has of every array."""
        other = copy.copy(self)
        other.axes = {key: axis.own(team.number, team.programs) for key, axis in self.axes.items()}
        return other

    def meetings(self, half: Half, transposed: bool) -> tuple[int, int]:
        """How often programs of a team may meet in a step: at products, and to join what each of them summed up."""
        products = joins = 0
        for number, each in enumerate(self.trace.products):
            if self.matrices[each.name].kernel.ndim == 1:
                continue
            products += 1
            rows = self.axes["value", number].segments
            columns = [s for part in range(each.parts) for s in self.axes["u", number, part].segments]
            single, other = (rows, columns) if transposed else (columns, rows)
            joins += sum(segment.width == 1 for segment in single) * len(other)
        for equation in half.equations():
            joins += equation.primitive.name in REDUCED and width_of(equation.invars[0].aval.shape) > 1
        return products, joins

    # --- which arrays there are --------------------------------------------------------------------------------------

    def arrays(self, variables: Sequence[Any]) -> Arrays:
        """How these variables lie in memory."""
        return Arrays(tuple(self.axes[v] for v in variables), tuple(v.aval.dtype for v in variables))

    @property
    def mask_axis(self) -> Axis:
        return self.axes["state mask"]

    def saved_carries(self, everything: bool) -> list[int]:
        """The elements of the carry that the way back reads of every step; h is put out."""
        read = {0}
        for each in (*self.trace.holdings, *self.trace.values):
            if each.kind in ("before", "after"):
                read.add(each.number)
        return list(range(len(self.new))) if everything else sorted(read)

    @property
    def met(self) -> list[Any]:
        """The kept arrays that met a matrix."""
        return [self.kept[h.number] for h in self.trace.values if h.kind == "kept"]


def read_by(variable: Any, read: Callable[[Any], Any], axis: Axis, rows: int) -> Value:
    """A result of a step as [rows, P] segments; it may be a number, or the same for all rows."""
    value = read(variable)

    def segment(number: int) -> jax.Array:
        shape = rows, axis.segments[number].padded
        if isinstance(value, Value):
            return jnp.broadcast_to(value[number], shape)
        return jnp.full(shape, value, variable.aval.dtype)

    return Value([functools.partial(segment, number) for number in range(len(axis.segments))])
