"""One way of a step, forward or back, in three: what depends on no row and is made once before the loop over time, what
is made of rows in every step, and what is made of sums over all rows and steps once after it.

The last is how parameters get their gradients that a step reads beside its products: their sums over the rows are
linear in what is summed, so a kernel adds up what enters them [B, W], step by step.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal, Var

from rnnlab.engine.kernel.axes import Axis, Value
from rnnlab.engine.kernel.rules import Joined, Unsupported, check, evaluate, has_rows
from rnnlab.engine.stages import Stages


class Half:
    """A program in stages, parted. The variables in `free` depend on no row."""

    def __init__(
        self,
        stages: Stages,
        consts: Sequence[Any],
        free_inputs: Iterable[Var],
        check: Callable[[Any], None] = check,
    ):
        """free_inputs: those of its inputs from the start that depend on no row and on no step. check: raises
        Unsupported for an operation of every step that cannot be run."""
        self.stages = stages
        jaxpr = stages.jaxpr
        self.jaxpr = jaxpr
        self.consts = dict(zip(jaxpr.constvars, consts, strict=True))
        self.free: set[Var] = {*jaxpr.constvars, *free_inputs}
        self.before: list[Any] = []
        self.inside: list[list[Any]] = []
        self.after: list[Any] = []
        self.summed: list[Any] = []
        """The variables [B, W] that a kernel adds up over the steps."""
        late: set[Var] = set()
        for equations in stages.parts:
            here = []
            for equation in equations:
                inputs = [v for v in equation.invars if not isinstance(v, Literal)]
                rowless = not any(has_rows(v.aval.shape) for v in equation.outvars)
                if rowless and all(v in self.free for v in inputs):
                    self.before.append(equation)
                    self.free |= {*equation.outvars}
                elif rowless:
                    for variable in inputs:
                        if variable not in self.free and variable not in late and variable not in self.summed:
                            if equation.primitive.name != "reduce_sum" or not has_rows(variable.aval.shape):
                                raise Unsupported(f"`{equation.primitive.name}` over rows")
                            self.summed.append(variable)
                    self.after.append(equation)
                    late |= {*equation.outvars}
                elif any(v in late for v in inputs):
                    raise Unsupported("a sum over rows that goes on into rows")
                else:
                    check(equation)
                    here.append(equation)
            self.inside.append(here)
        outputs: list[Any] = [v for v in jaxpr.outvars if isinstance(v, Var)]
        for variable in outputs:
            if variable not in self.free | late and not has_rows(variable.aval.shape):
                raise Unsupported("an output that belongs to no row")

    def equations(self) -> Iterable[Any]:
        """Those of every step."""
        return (equation for part in self.inside for equation in part)

    def vectors(self) -> list[Var]:
        """The free variables that the steps read, or put out."""
        read = [v for equation in self.equations() for v in equation.invars]
        outputs = [v for v in self.jaxpr.outvars if isinstance(v, Var)]
        return [v for v in dict.fromkeys(v for v in [*read, *outputs] if isinstance(v, Var)) if v in self.free]

    def made_before(self, inputs: Mapping[Var, Any]) -> dict[Var, Any]:
        """The arrays of all free variables. inputs: of those that are inputs."""
        return _run(self.before, {**self.consts, **inputs})

    def made_after(self, free: Mapping[Var, Any], sums: Sequence[jax.Array]) -> dict[Var, Any]:
        """The arrays of what is made of the sums [B, W]."""
        return _run(self.after, {**free, **dict(zip(self.summed, sums, strict=True))})

    def step(
        self,
        values: dict[Any, Value],
        axes: Mapping[Any, Axis],
        exchange: Callable[[int, list[Value]], Sequence[Value]],
        joined: Joined,
    ) -> Callable[[Any], Any]:
        """Runs a step within a kernel. values: of the free variables and of the inputs from the start. exchange: that
        of `Stages`. Returns what reads a variable, or a number."""
        stages = self.stages
        late, outputs = iter(self.jaxpr.invars[stages.early :]), iter(self.jaxpr.outvars)

        def read(variable: Any) -> Any:
            return variable.val if isinstance(variable, Literal) else values[variable]

        for number, equations in enumerate(self.inside):
            for equation in equations:
                of_inputs = [None if isinstance(v, Literal) else axes[v] for v in equation.invars]
                results = [axes[v] for v in equation.outvars]
                operands = [read(v) for v in equation.invars]
                values.update(
                    zip(equation.outvars, evaluate(equation, operands, of_inputs, results, joined), strict=True)
                )
            if number < len(stages.sent):
                brought = exchange(number, [read(next(outputs)) for _ in range(stages.sent[number])])
                values.update(zip((next(late) for _ in range(stages.received[number])), brought, strict=True))
        return read


def _run(equations: Iterable[Any], values: dict[Any, Any]) -> dict[Var, Any]:
    """Equations of a program, on whole arrays; those over rows may have other rows than in the trace."""
    for equation in equations:
        inputs = [values[v] if isinstance(v, Var) else np.asarray(v.val, v.aval.dtype) for v in equation.invars]
        results = equation.primitive.bind(*inputs, **equation.params)
        results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return values
