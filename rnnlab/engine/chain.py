"""One step as a chain of products and gates, and its pullback, each traced once.

The products are left out of both: they are programs in stages that hand a value to a product and go on with what it
makes. So the engine decides how it multiplies: forward by a matrix, backward by the same matrix transposed.

A step's pullback to (carry, z, products) holds the outputs of tanh and its like. Some of these are the carries
themselves; the others are what the forward pass keeps of every step, or what the backward pass computes again.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal as LiteralValue

from rnnlab.engine.contract import Matrix, Product, noting
from rnnlab.engine.plan import Plan
from rnnlab.engine.stages import Stages, inputs_read, stages
from rnnlab.typing import Carry, Parts, PyTree

Noise = tuple[jax.Array, ...]


class Held(NamedTuple):
    """Where to find an array of a step: one that its pullback holds, or a value that met a matrix."""

    kind: Literal["before", "after", "noise", "constant", "kept"]
    number: int
    """In the carry before or after the step, in the noise, among the constants, or among those that are kept."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """The static side of a step."""

    products: tuple[Product, ...]
    forward: Stages
    """(parameters, before, z, noise; products) -> (values that meet a matrix; new carry, what is kept)."""
    backward: Stages
    """(held, ∂L/∂new; ∂L/∂value, from the last to the first) -> (∂L/∂product, likewise; ∂L/∂before, ∂L/∂z,
    ∂L/∂parameter for those of `used`)."""
    holdings: tuple[Held, ...]
    """For all that the pullback holds, in order."""
    values: tuple[Held, ...]
    """For the value that each product met."""
    kept: tuple[jax.ShapeDtypeStruct, ...]
    """The arrays that have to be kept of a step for it."""
    literals: tuple[Any, ...]
    """Constants that are written in the program itself."""
    used: tuple[bool, ...]
    """For each leaf of the parameters, whether the step itself reads it, beside its products."""
    same: tuple[int | None, ...]
    """For each part of z, which part of the products has the same gradient, as in gates of z + u."""


class Step(NamedTuple):
    """One step and its pullback, traced once: the forward and the backward pass run the same program, so that what one
    leaves is what the other takes. (Where arrays lie on devices changes how many arrays a second trace of the same step
    holds.)"""

    trace: Trace
    consts: list[Any]
    """Arrays that the cell's functions close over."""
    back_consts: list[Any]

    def forward(
        self,
        params: PyTree,
        before: Carry,
        z: Parts,
        noise: Noise,
        multiply: Callable[[int, jax.Array], Parts],
    ) -> tuple[Carry, list[jax.Array]]:
        """The new carry, and what has to be kept. multiply: (number of the product, value) -> its parts."""
        inputs = jax.tree.leaves((params, before, z, noise))
        results = self.trace.forward(self.consts, inputs, lambda number, sent: multiply(number, *sent))
        return tuple(results[: len(before)]), results[len(before) :]

    def backward(
        self, held: Sequence[jax.Array], dnew: Carry, multiply_back: Callable[[int, Parts], jax.Array]
    ) -> tuple[Carry, Parts, list[jax.Array]]:
        """∂L/∂before, ∂L/∂z and ∂L/∂parameters, those that are used, of ∂L/∂new. held: as `holdings` says.
        multiply_back: (number of the product, ∂L/∂parts) -> ∂L/∂value."""
        last = len(self.trace.products) - 1
        results = self.trace.backward(
            self.back_consts, [*held, *dnew], lambda number, du: [multiply_back(last - number, du)]
        )
        of_z = len(dnew) + len(self.trace.same)
        return tuple(results[: len(dnew)]), results[len(dnew) : of_z], results[of_z:]

    def constants(self, params: PyTree) -> list[Any]:
        """Those that `Held` counts."""
        return list(map(jnp.asarray, (*self.consts, *jax.tree.leaves(params), *self.trace.literals)))


def trace_step(
    plan: Plan, params: PyTree, matrices: Mapping[str, Matrix], before: PyTree, z: PyTree, noise: PyTree
) -> Step:
    """A step of these arguments' shapes."""
    products: list[Product] = []

    def note(params: PyTree, before: Carry, z: Parts, noise: Noise) -> Carry:
        return plan.cell(params).step(before, [*z, *noise], noting(matrices, plan.precision, products))

    jax.eval_shape(note, params, before, z, noise)
    rows = before[0].shape[0]
    parts = [
        jax.ShapeDtypeStruct((rows, product.columns // product.parts), product.dtype)
        for product in products
        for _ in range(product.parts)
    ]
    counts = [product.parts for product in products]
    leaves, structure = jax.tree.flatten(params)

    def step(leaves: list[jax.Array], before: Carry, z: Parts, u: Parts, noise: Noise) -> tuple[Parts, Carry]:
        values, results = [], iter(u)

        def multiply(name: str, value: jax.Array) -> Parts:
            values.append(value)
            return [next(results) for _ in range(matrices[name].parts)]

        new = plan.cell(jax.tree.unflatten(structure, leaves)).step(before, [*z, *noise], multiply)
        return values, new

    traced = jax.make_jaxpr(step)(leaves, before, z, parts, noise)
    used = tuple(
        is_read and jnp.issubdtype(leaf.dtype, jnp.inexact)
        for is_read, leaf in zip(inputs_read(traced.jaxpr), leaves, strict=False)
    )

    def linearised(params: PyTree, before: Carry, z: Parts, noise: Noise, u: Parts) -> Any:
        """(values, new carry), and the pullback to (parameters, before, z, u): a pytree that holds the outputs of tanh
        and its like; sums and products of them are computed where they are used."""
        leaves = jax.tree.leaves(params)

        def of_used(read: list[jax.Array], before: Carry, z: Parts, u: Parts) -> tuple[Parts, Carry]:
            each = iter(read)
            mixed = [next(each) if is_read else a for is_read, a in zip(used, leaves, strict=True)]
            return step(mixed, before, z, u, noise)

        read = [a for is_read, a in zip(used, leaves, strict=True) if is_read]
        run = jax.checkpoint(of_used, prevent_cse=False, policy=_is_expensive)
        (values, new), pull = jax.vjp(run, read, before, z, u)
        return values, new, pull

    closed, (values, _, pull) = jax.make_jaxpr(linearised, return_shape=True)(params, before, z, noise, parts)
    holdings, pull_tree = jax.tree.flatten(pull)
    early = len(jax.tree.leaves((params, before, z, noise)))
    forward, consts = stages(closed, early, counts, [1] * len(products))

    def pullback(held: list[Any], dnew: Carry, dvalues: Parts) -> Any:
        dread, dbefore, dz, du = jax.tree.unflatten(pull_tree, held)((dvalues[::-1], dnew))
        du = [part for group in reversed(_grouped(du, counts)) for part in group]
        return du, dbefore, dz, dread

    closed_back = jax.make_jaxpr(pullback)(holdings, before, values[::-1])
    back_early = len(holdings) + len(before)
    backward, back_consts = stages(closed_back, back_early, [1] * len(products), counts[::-1])

    sizes = [len(jax.tree.leaves(tree)) for tree in (params, before, z, noise)]
    program, held, values_held, kept, literals = _places(forward, len(products), sizes)
    same = _same(backward, counts, len(before), len(z))
    trace = Trace(tuple(products), program, backward, held, values_held, kept, literals, used, same)
    return Step(trace, consts, back_consts)


def _places(forward: Stages, products: int, sizes: Sequence[int]) -> Any:
    """Where each array that a step's pullback needs stands.

    Args:
        forward: (parameters, before, z, noise; products) -> (values; new carry, all that the pullback holds).
        products: how many there are.
        sizes: how many arrays the parameters, the carry before, z and the noise are.

    Returns:
        `forward` with what is kept alone in the place of all that is held, and of `Trace` holdings, values, kept and
        literals.
    """
    jaxpr, (of_params, of_carry, of_z, of_noise) = forward.jaxpr, sizes
    inputs = iter(jaxpr.invars)
    constants = [*jaxpr.constvars, *itertools.islice(inputs, of_params)]
    before = [*itertools.islice(inputs, of_carry)]
    noise = [*itertools.islice(inputs, of_z, of_z + of_noise)]
    values, new = jaxpr.outvars[:products], jaxpr.outvars[products : products + of_carry]
    places: dict[Any, Held] = {variable: Held("constant", number) for number, variable in enumerate(constants)}
    places |= {variable: Held("after", number) for number, variable in enumerate(new) if _is_variable(variable)}
    places |= {variable: Held("noise", number) for number, variable in enumerate(noise)}
    places |= {variable: Held("before", number) for number, variable in enumerate(before)}
    kept: list[Any] = []
    literals: list[Any] = []

    def locate(variable: Any) -> Held:
        if not _is_variable(variable):
            literals.append(variable.val)
            return Held("constant", len(constants) + len(literals) - 1)
        if variable not in places:
            places[variable] = Held("kept", len(kept))
            kept.append(variable)
        return places[variable]

    held = tuple(map(locate, jaxpr.outvars[products + of_carry :]))
    values_held = tuple(map(locate, values))
    nameless = jaxpr.debug_info.with_unknown_names()
    program = dataclasses.replace(forward, jaxpr=jaxpr.replace(outvars=[*values, *new, *kept], debug_info=nameless))
    shapes = tuple(jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype) for variable in kept)
    return program, held, values_held, shapes, tuple(literals)


def trace_first(
    plan: Plan, params: PyTree, matrices: Mapping[str, Matrix], carry: Carry, x: jax.Array, noise: Noise
) -> Step:
    """The same, from the arrays of the whole sequence [T, B, ...]."""
    z = jax.eval_shape(lambda: plan.cell(params).split(plan.project(params, x[0])))
    return trace_step(plan, params, matrices, carry, z, jax.eval_shape(lambda: tuple(a[0] for a in noise)))


def kept_bytes(plan: Plan, params: PyTree, matrices: Any, carry: Carry, x: jax.Array, noise: Noise) -> int:
    """The size of what `keep_gates` keeps of all steps x [T, B, D], beside the carries."""
    kept = trace_first(plan, params, matrices, carry, x, noise).trace.kept
    return x.shape[0] * sum(a.size * a.dtype.itemsize for a in kept)


def _grouped(parts: Sequence[Any], counts: Sequence[int]) -> list[Sequence[Any]]:
    """The parts of each product."""
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    return [parts[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _same(backward: Stages, counts: Sequence[int], carries: int, parts_of_z: int) -> tuple[int | None, ...]:
    """For each part of z the number of the product's part that has the same gradient, counted in the step's order."""
    outputs = backward.jaxpr.outvars
    total = sum(counts)
    of_products = [part for group in reversed(_grouped(outputs[:total], counts[::-1])) for part in group]
    numbers = {variable: number for number, variable in enumerate(of_products) if _is_variable(variable)}
    of_z = outputs[total + carries :][:parts_of_z]
    return tuple(numbers.get(part) if _is_variable(part) else None for part in of_z)


def _is_variable(variable: Any) -> bool:
    return not isinstance(variable, LiteralValue)


def _is_expensive(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in _CHEAP


# fmt: off
_CHEAP = frozenset({
    "add", "sub", "mul", "neg", "sign", "max", "min", "abs", "select_n", "gt", "ge", "lt", "le", "eq", "ne", "and",
    "or", "not", "stop_gradient", "copy", "clamp", "convert_element_type", "broadcast_in_dim", "reshape", "squeeze",
    "slice", "concatenate", "split", "one_minus_square",
})
# fmt: on
"""Primitives that cost less to compute again than to read back."""
