"""A step and its pullback as two programs over rows, for backends that run a sequence by code of their own.

Each is in three: what depends on no row and is made once before the loop over time, what is made of rows in every step,
and what is made of sums over all rows and steps once after it. The last is how parameters get their gradients that a
step reads beside its products: their sums over the rows are linear in what is summed, so the loop adds up what enters
them [B, W], step by step.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, Var

from rnnlab.engine.chain import Held, Step, trace_step
from rnnlab.engine.contract import Matrix
from rnnlab.engine.plan import Plan
from rnnlab.engine.resets import have_rows
from rnnlab.engine.stages import Stages, stages
from rnnlab.typing import Carry, PyTree

ROWS = 8191
"""The number of rows that a step is traced with; no other axis has so many, so it shows which arrays have rows."""

CALLS = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})
"""Primitives that stand for a program, which is written out."""


class Unsupported(ValueError):
    """A step that a backend cannot run; the text says which operation."""


def has_rows(shape: Sequence[int]) -> bool:
    return len(shape) > 0 and shape[0] == ROWS


def width_of(shape: Sequence[int]) -> int:
    """The columns of an array [], [W], [1, W], [B] or [B, W]."""
    if len(shape) == 0 or tuple(shape) == (ROWS,):
        return 1
    if len(shape) == 1 or (len(shape) == 2 and shape[0] in (1, ROWS)):
        return shape[-1]
    raise Unsupported(f"an array of shape {list(shape)}")


def rows_of(tree: PyTree) -> PyTree:
    """Shapes [B, ...] with the rows of a trace in the place of B."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((ROWS, *a.shape[1:]), a.dtype), tree)


def leaves_in_rows(plan: Plan, params: PyTree) -> list[jax.ShapeDtypeStruct]:
    """The shapes of the parameters' leaves, those that have rows with those of a trace."""
    leaves, rows = jax.tree.leaves(params), have_rows(plan.cell(params), params)
    return [rows_of(a) if has else jax.ShapeDtypeStruct(a.shape, a.dtype) for a, has in zip(leaves, rows, strict=True)]


def trace_rows(
    plan: Plan, params: PyTree, matrices: Mapping[str, Matrix], carry: Carry, z: PyTree, noise: PyTree
) -> Step:
    """A step, traced with rows that no other axis has. z, noise: of one step, or their shapes."""
    shapes = jax.tree.unflatten(jax.tree.structure(params), leaves_in_rows(plan, params))
    return trace_step(plan, shapes, matrices, rows_of(carry), rows_of(z), rows_of(noise))


class Half:
    """A program in stages, parted. The variables in `free` depend on no row."""

    def __init__(
        self,
        stages: Stages,
        consts: Sequence[Any],
        free_inputs: Iterable[Var],
        check: Callable[[Any], None],
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


class Halves:
    """The two programs of a step of `trace_rows`, and what each of their variables is."""

    def __init__(self, step: Step, leaves: Sequence[Any], matrices: Mapping[str, Matrix], check: Callable[[Any], None]):
        """leaves: of the parameters, as in the trace. check: that of `Half`.

        Raises:
            Unsupported: the step has what a loop over rows cannot do.
        """
        trace = step.trace
        self.trace, self.matrices, self.step_consts = trace, matrices, step.consts
        forward, back = trace.forward, trace.backward
        flat, consts = stages(
            ClosedJaxpr(forward.jaxpr, step.consts), forward.early, forward.received, forward.sent, CALLS
        )
        flat_back, back_consts = stages(
            ClosedJaxpr(back.jaxpr, step.back_consts), back.early, back.received, back.sent, CALLS
        )
        count, carries = len(trace.products), flat_back.early - len(trace.holdings)
        inputs: list[Any] = list(flat.jaxpr.invars)
        self.leaf_variables = inputs[: len(leaves)]
        self.row_leaves = [n for n, leaf in enumerate(leaves) if has_rows(leaf.shape)]
        free = [v for n, v in enumerate(self.leaf_variables) if n not in self.row_leaves]
        self.forward = Half(flat, consts, free, check)
        self.before = inputs[len(leaves) : len(leaves) + carries]
        rest = inputs[len(leaves) + carries : flat.early]
        self.z, self.noise = rest[: len(trace.same)], rest[len(trace.same) :]
        self.results = _grouped(inputs[flat.early :], [each.parts for each in trace.products])
        outputs: list[Any] = list(flat.jaxpr.outvars)
        self.values_out, outputs = outputs[:count], outputs[count:]
        self.new, self.kept = outputs[:carries], outputs[carries:]

        self.held: list[Any] = list(flat_back.jaxpr.invars[: len(trace.holdings)])
        free = [v for v, h in zip(self.held, trace.holdings, strict=True) if self._is_free(h)]
        self.backward = Half(flat_back, back_consts, free, check)
        self.dnew: list[Any] = list(flat_back.jaxpr.invars[len(self.held) : flat_back.early])
        self.dvalues: list[Any] = list(flat_back.jaxpr.invars[flat_back.early :])[::-1]
        """For each product, as are the next; the way back asks for them from the last to the first."""
        outputs = list(flat_back.jaxpr.outvars)
        self.dresults = _grouped(outputs, [each.parts for each in trace.products[::-1]])[::-1]
        rest = outputs[sum(each.parts for each in trace.products) :]
        self.dbefore, rest = rest[:carries], rest[carries:]
        self.dz, self.dread = rest[: len(self.z)], rest[len(self.z) :]

    def _is_free(self, held: Held) -> bool:
        """Whether what the pullback holds depends on no row."""
        if held.kind == "constant":
            return held.number - len(self.step_consts) not in self.row_leaves
        return held.kind == "kept" and self.kept[held.number] in self.forward.free

    @property
    def saved_kept(self) -> list[int]:
        """The kept arrays that have rows."""
        return [n for n, v in enumerate(self.kept) if v not in self.forward.free]

    @property
    def own_dz(self) -> list[int]:
        """The parts of z whose gradient is none of the products'."""
        return [n for n, same in enumerate(self.trace.same) if same is None]

    @property
    def sums(self) -> list[Any]:
        """The variables that the way back adds up over the steps: what enters the parameters' gradients, and those of
        the parameters that have rows."""
        rows = [v for v in self.dread if not isinstance(v, Literal) and has_rows(v.aval.shape)]
        return list(dict.fromkeys([*self.backward.summed, *rows]))

    def free_arrays(self, step: Step, params: PyTree) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """The arrays of the free variables of both halves."""
        inputs = dict(zip(self.leaf_variables, jax.tree.leaves(params), strict=True))
        forward = self.forward.made_before({v: a for v, a in inputs.items() if v in self.forward.free})
        constants, held = step.constants(params), {}
        for variable, each in zip(self.held, self.trace.holdings, strict=True):
            if variable in self.backward.free:
                held[variable] = constants[each.number] if each.kind == "constant" else forward[self.kept[each.number]]
        return forward, self.backward.made_before(held)

    def gradients_of_params(self, free: Mapping[Any, Any], sums: Sequence[jax.Array]) -> list[jax.Array]:
        """Those of the parameters that the step reads beside its products, of what `sums` came to over the steps."""
        after = self.backward.made_after(free, sums[: len(self.backward.summed)])
        after |= zip(self.sums, sums, strict=True)
        return [after[v] if isinstance(v, Var) else jnp.asarray(v.val) for v in self.dread]


def _grouped(variables: Iterable[Any], counts: Sequence[int]) -> list[list[Any]]:
    each = iter(variables)
    return [[next(each) for _ in range(count)] for count in counts]


def _run(equations: Iterable[Any], values: dict[Any, Any]) -> dict[Var, Any]:
    """Equations of a program, on whole arrays; those over rows may have other rows than in the trace."""
    for equation in equations:
        inputs = [values[v] if isinstance(v, Var) else np.asarray(v.val, v.aval.dtype) for v in equation.invars]
        results = equation.primitive.bind(*inputs, **equation.params)
        results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return values
