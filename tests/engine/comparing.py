"""A backend beside the reference: outputs, carries and every gradient, with all that may stand around a step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnnlab.cells import BaseCell
from rnnlab.cells.wrappers import GateGains, ModifiedCell
from rnnlab.engine import Cotangent, Matrix, make_taps, unroll
from tests.helpers import (
    assert_close,
    dot,
    random_array,
    random_carry,
    random_cell,
    random_like,
    shapes_of_matrices,
    with_bad_padding,
)

T, B, D, H = 3, 3, 2, 4
LENGTHS = [3, 0, 2]


def around(steps: int, batch: int, width: int, lengths: bool, mask: bool) -> dict[str, Any]:
    """Lengths, a state's mask, and changes of the cotangent."""
    draw = np.random.default_rng(0)
    number = jnp.asarray(0.9, float)
    options: dict[str, Any] = {
        "cotangent": Cotangent(number, jnp.int32(2), jnp.asarray(1.5, float), jnp.asarray(2.0, float))
    }
    if lengths:
        options["lengths"] = jnp.array(LENGTHS)
    if mask:
        options["state_mask"] = jnp.asarray(2.0 * draw.integers(0, 2, (batch, width)))
    return options


def differentiated(graphdef: Any, options: dict[str, Any]) -> Any:
    """(loss, outputs), gradients of (parameters, x, first carry, taps, carry at resets)."""

    def loss(state: nnx.State, x: jax.Array, carry: Any, taps: Any, anew: Any) -> Any:
        cell = nnx.merge(graphdef, state)
        beside = options | ({} if anew is None else {"reset_carry": anew})
        result = unroll(cell, x, initial_carry=carry, taps=taps, **beside)
        return dot(result, random_like(result, 3)), result

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3, 4), has_aux=True))


def compare(
    cell: Any,
    backend: dict[str, Any],
    *,
    reverse: bool = False,
    store: str = "auto",
    resets: bool = False,
    **beside: Any,
) -> None:
    """A cell in double precision. backend: the options of `unroll` that choose it."""
    graphdef, state = nnx.split(cell)
    x = random_array(1, T, B, D)
    carry = random_carry(cell, B, x.dtype, 2)
    noise = beside.get("noise", ())
    taps = jax.tree.map(lambda a: a.astype(float), make_taps(cell, x, noise))
    anew = random_carry(cell, B, x.dtype, 5) if resets else None
    if resets:
        beside["resets"] = jnp.asarray(np.random.default_rng(4).integers(0, 2, (T, B)), bool)
    if "lengths" in beside:
        x = with_bad_padding(x, beside["lengths"])
    arguments = state, x, carry, taps, anew
    beside["reverse"] = reverse
    expected = differentiated(graphdef, beside | {"backend": "reference"})(*arguments)
    actual = differentiated(graphdef, beside | backend | {"store": store})(*arguments)
    assert_close(actual, expected, 1e-12)


@functools.cache
def has_state_matrix(variant: str) -> bool:
    return any(matrix.of_state for matrix in shapes_of_matrices(variant).values())


def zoned_with_norms(variant: str) -> tuple[Any, tuple[jax.Array, ...]]:
    """A cell with gains of its gates and zoneout, and the noise that it needs."""
    cell: Any = nnx.merge(*random_cell(variant, in_features=D, features=H))
    width = sum(matrix.columns for matrix in cell.matrices().values())
    gains = GateGains(len(cell.gate_names) * H, width)
    gains = jax.tree.map(lambda a: jnp.asarray(a, float), gains)
    noise = (jnp.asarray(np.random.default_rng(7).random((T, B, H))),)
    return ModifiedCell(cell, gains=gains, zoneout=(0,)), noise


def many_functions(x: jax.Array) -> jax.Array:
    """An activation of JAX's own functions, whose derivatives bring more of its operations."""
    bounded, positive = 0.9 * jnp.sin(x), 1.5 + jnp.cos(x)
    of_any = (jnp.tanh, jax.nn.sigmoid, jnp.arctan, jnp.arcsinh, jnp.expm1, jnp.exp2, jnp.cosh)
    of_bounded = (jnp.arcsin, jnp.arccos, jnp.arctanh, jnp.tan)
    of_positive = (jnp.sqrt, jax.lax.rsqrt, jnp.cbrt, jnp.log, jnp.log1p, jnp.log2, lambda a: a**2.5, lambda a: a**-3)
    functions = [(of_any, x), (of_bounded, bounded), (of_positive, positive)]
    return jnp.tanh(sum(f(a) for each, a in functions for f in each) / 10)


class TwoDiagonals(BaseCell):
    """One diagonal that the whole carry meets, in two parts."""

    carry_names = ("h", "c")

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.diagonal, self.offset = (nnx.Param(random_array(n, 2 * self.features)) for n in (8, 9))

    def matrices(self):
        return {"diagonal": Matrix(self.diagonal[...], self.offset[...], parts=2)}

    def step(self, carry, z, multiply):
        a, b = multiply("diagonal", jnp.concatenate(carry, -1))
        return (jnp.tanh(z[0] + a), jnp.sin(a * b) + carry[0])


def two_diagonals() -> TwoDiagonals:
    """The cell with random parameters, in double precision."""
    cell = TwoDiagonals(D, H, rngs=nnx.Rngs(0))
    cell.input_kernel = nnx.Param(random_array(10, D, H))
    cell.bias = nnx.Param(random_array(11, H))
    return cell
