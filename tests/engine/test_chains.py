"""Steps of every structure: no product, one on the whole carry, several in sequence, one matrix met twice, a product of
the input inside the loop, diagonal blocks. Cells of the table are in tests/cells."""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import LSTM, BaseCell
from rnnlab.cells.wrappers import ModifiedCell
from rnnlab.engine import Matrix, make_taps, products_of, unroll
from rnnlab.ops.activations import sigmoid
from tests.helpers import assert_close, dot, float64, loop, random_array, random_carry, random_like, with_bad_padding

T, B, D, H = 5, 3, 2, 4
LENGTHS = [5, 0, 3]


class NoProduct(BaseCell):
    """An independently recurrent unit (Li et al., 2018)."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.weights = nnx.Param(jnp.ones(self.features))

    def step(self, carry, z, multiply):
        return (jnp.tanh(z[0] + self.weights[...] * carry[0]),)


class WholeCarry(BaseCell):
    """A coupled oscillator (Rusch and Mishra, 2021)."""

    carry_names = ("h", "v")
    products: ClassVar = {"recurrent": ("h",)}
    meets = 2

    def step(self, carry, z, multiply):
        h, v = carry
        v = v + 0.3 * (jnp.tanh(z[0] + multiply("recurrent", jnp.concatenate(carry, -1))[0]) - h - v)
        return (h + 0.3 * v, v)


class Highway(BaseCell):
    """A recurrent highway of depth 3 (Zilly et al., 2017), whose last two layers have one matrix; its parameters act
    between the products."""

    gate_names = ("h", "t")
    products: ClassVar = {"first": ("h", "t"), "others": ("h 2", "t 2")}

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.gain = nnx.Param(jnp.ones(self.features))

    def step(self, carry, z, multiply):
        (s,) = carry
        for layer, name in enumerate(("first", "others", "others")):
            h, t = multiply(name, s * self.gain[...])
            if layer == 0:
                h, t = h + z[0], t + z[1]
            s = s + sigmoid(t) * (jnp.tanh(h) - s)
        return (s,)


class Mogrifier(LSTM):
    """Input and state gate each other before an LSTM's gates (Melis et al., 2020); the input meets its matrix inside
    the loop."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.q = nnx.Param(jnp.zeros((self.features, self.in_features)))
        self.r = nnx.Param(jnp.zeros((self.in_features, self.features)))

    def project(self, x):
        return x

    def split(self, a):
        return [a]

    def matrices(self):
        inputs = Matrix(self.input_kernel[...], self.bias[...], parts=4, of_state=False)
        mutual = {"q": Matrix(self.q[...]), "r": Matrix(self.r[...], of_state=False)}
        return {"recurrent": Matrix(self.recurrent_matrix(), parts=4), "input": inputs, **mutual}

    def step(self, carry, z, multiply):
        (x, *_), (h, c) = z, carry
        x = 2 * sigmoid(multiply("q", h)[0]) * x
        h = 2 * sigmoid(multiply("r", x)[0]) * h
        x = 2 * sigmoid(multiply("q", h)[0]) * x
        return self.gates((h, c), multiply("input", x), multiply("recurrent", h))


class Heads(LSTM):
    """An LSTM whose R has two diagonal blocks."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.blocks = nnx.Param(jnp.zeros((2, self.features // 2, 2 * self.features)))

    def matrices(self):
        return {"recurrent": Matrix(self.blocks[...], parts=4)}


class Diagonal(BaseCell):
    """A diagonal matrix, met twice, beside a full one."""

    products: ClassVar = {"recurrent": ("h",)}

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.diagonal = nnx.Param(jnp.zeros(self.features))

    def matrices(self):
        return super().matrices() | {"diagonal": Matrix(self.diagonal[...], self.bias[...])}

    def step(self, carry, z, multiply):
        h = jnp.tanh(multiply("diagonal", carry[0])[0] + z[0])
        return (h + multiply("recurrent", multiply("diagonal", h)[0])[0],)


class FastSlow(BaseCell):
    """The new h meets a matrix, and a loop stands in the step."""

    carry_names = ("h", "c")
    gate_names = ("a", "b")
    products: ClassVar = {"fast": ("a",), "slow": ("b",)}

    def step(self, carry, z, multiply):
        h, c = carry
        h = jnp.tanh(z[0] + multiply("fast", h)[0])
        drive = z[1] + multiply("slow", h)[0]
        return (h, jax.lax.fori_loop(0, 2, lambda _, c: jnp.tanh(c + drive), c))


LATER = (NoProduct, Mogrifier, FastSlow)
CHAINS = [NoProduct, WholeCarry, Highway, Mogrifier, Heads, Diagonal, FastSlow]
WIDTHS = {
    FastSlow: 2 * H,
    Diagonal: 3 * H,
    NoProduct: 0,
    WholeCarry: H,
    Highway: 6 * H,
    Mogrifier: 2 * D + 9 * H,
    Heads: 4 * H,
}


def point(kind: type[BaseCell]) -> tuple[nnx.GraphDef, Any, Any]:
    """A cell's structure, x, and (parameters, initial carry, taps)."""
    cell = nnx.eval_shape(lambda: kind(D, H, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(cell)
    state = jax.tree.map(lambda a: jnp.asarray(0.7 * a, float), random_like(state, 0))
    x = random_array(1, T, B, D)
    cell = nnx.merge(graphdef, state)
    carry = random_carry(cell, B, x.dtype, 2)
    return graphdef, x, (state, carry, jax.tree.map(lambda a: a.astype(float), make_taps(cell, x)))


def differentiated(run: Any) -> Any:
    """(loss, outputs), gradients of (parameters, initial carry, taps, x)."""

    def loss(state: nnx.State, carry: Any, taps: Any, x: jax.Array) -> Any:
        result = run(state, carry, taps, x)
        return dot(result, random_like(result, 3)), result

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))


@functools.cache
def by_loop(kind: type[BaseCell], reverse: bool, lengths: bool) -> Any:
    graphdef, x, arguments = point(kind)

    def run(state: nnx.State, carry: Any, taps: Any, x: jax.Array) -> Any:
        rows = LENGTHS if lengths else None
        return loop(nnx.merge(graphdef, state), x, carry, lengths=rows, reverse=reverse, taps=taps)

    return differentiated(run)(*arguments, x)


SWITCHES = [
    ("fused", "gates", 2, False, False),
    ("fused", "ends", 2, True, True),
    ("fused", "carries", 3, False, True),
    ("fused", "gates", 5, True, False),
    ("reference", "auto", None, False, False),
    ("reference", "auto", None, True, True),
]


def in_turn(kind: type[BaseCell], number: int, *switches: Any) -> Any:
    """Five chains have the first switches, two of them by default; all others are exhaustive."""
    if number == 0:
        marks = () if kind in (Heads, WholeCarry) else pytest.mark.slow if kind in LATER else pytest.mark.exhaustive
    else:
        marks = pytest.mark.exhaustive
    return pytest.param(kind, *switches, marks=marks)


@pytest.mark.parametrize(
    ("kind", "backend", "store", "chunk", "reverse", "lengths"),
    [in_turn(kind, number, *switches) for kind in CHAINS for number, switches in enumerate(SWITCHES)],
)
def test_gradients_of_every_chain_equal_a_loop(kind, backend, store, chunk, reverse, lengths):
    with float64():
        graphdef, x, arguments = point(kind)
        rows = jnp.array(LENGTHS) if lengths else None

        def run(state: nnx.State, carry: Any, taps: Any, x: jax.Array) -> Any:
            options = {"backend": backend, "store": store, "chunk": chunk, "reverse": reverse, "lengths": rows}
            return unroll(nnx.merge(graphdef, state), x, initial_carry=carry, taps=taps, **options)

        actual = differentiated(run)(*arguments, x if rows is None else with_bad_padding(x, rows))
        assert_close(actual, by_loop(kind, reverse, lengths), 1e-12)


@pytest.mark.parametrize("kind", CHAINS)
def test_taps_have_a_column_for_every_column_of_the_products(kind):
    cell = kind(D, H, rngs=nnx.Rngs(0))
    x = jnp.zeros((T, B, D))
    assert make_taps(cell, x).u.shape == (T, B, WIDTHS[kind])
    assert sum(product.columns for product in products_of(cell, x)) == WIDTHS[kind]


@pytest.mark.parametrize("kind", [WholeCarry, pytest.param(Mogrifier, marks=pytest.mark.slow), Heads])
def test_masks_and_norms_around_a_chain_have_the_gradients_of_the_reference(kind):
    with float64():
        graphdef, x, (state, carry, _) = point(kind)
        cell = nnx.merge(graphdef, state)
        draw = np.random.default_rng(0)
        shapes = {name: matrix.kernel.shape for name, matrix in cell.matrices().items() if matrix.of_state}
        masks = {name: jnp.asarray(2.0 * draw.integers(0, 2, shape)) for name, shape in shapes.items()}
        state_mask = jnp.asarray(2.0 * draw.integers(0, 2, (B, H)))

        def gradients(backend: str) -> Any:
            def loss(state: nnx.State, x: jax.Array) -> jax.Array:
                around = ModifiedCell(nnx.merge(graphdef, state), kernel_masks=masks, zoneout=(0,))
                noise = (jnp.full((T, B, 1), 0.75),)
                options = {"noise": noise, "state_mask": state_mask, "initial_carry": carry, "backend": backend}
                return (unroll(around, x, **options)[0] ** 2).sum()

            return jax.jit(jax.value_and_grad(loss, (0, 1)))(state, x)

        assert_close(gradients("fused"), gradients("reference"), 1e-12)


def test_a_state_mask_of_other_units_than_a_matrix_has_rows_is_one_line():
    class Odd(Highway):
        def matrices(self):
            return {**super().matrices(), "odd": Matrix(jnp.ones((H + 1, H)))}

    with pytest.raises(ValueError, match=f"the matrix 'odd' of Odd has {H + 1} rows; give it of_state=False"):
        unroll(Odd(D, H, rngs=nnx.Rngs(0)), jnp.zeros((T, B, D)), state_mask=jnp.ones((B, H)))


def test_a_cell_that_is_no_module_runs_on_the_reference_backend():
    class Plain:
        precision = "highest"
        project = staticmethod(lambda x: x)
        split = staticmethod(lambda a: [a])
        matrices = staticmethod(lambda: {})
        initial_carry = staticmethod(lambda batch, dtype: (jnp.zeros((batch, D), dtype),))

        def step(self, carry, z, multiply):
            return (carry[0] + z[0],)

    cell: Any = Plain()
    np.testing.assert_array_equal(unroll(cell, jnp.ones((T, B, D)))[1][0], np.full((B, D), T))
    with pytest.raises(ValueError, match=r"Plain is no flax\.nnx\.Module, as the fused backend needs; use 'auto'"):
        unroll(cell, jnp.ones((T, B, D)), backend="fused")


def test_a_step_that_does_not_fit_is_one_line():
    class Wrong(Highway):
        def step(self, carry, z, multiply):
            return (multiply("frist", carry[0])[0],)

    class Wide(Highway):
        def step(self, carry, z, multiply):
            return (multiply("first", jnp.concatenate([carry[0], z[0]], -1))[0],)

    class Bare(Highway):
        def step(self, carry, z, multiply):
            return jnp.tanh(z[0])

    class OneRow(Highway):
        def step(self, carry, z, multiply):
            return (z[0] + multiply("first", self.gain[...][None])[0],)

    class Counting(Highway):
        def initial_carry(self, batch, dtype=jnp.float32):
            return (jnp.zeros((batch, H), int),)

    for kind, message in (
        (Bare, rf"a step of Bare gives no tuple, but \[{B}, {H}\]; it needs the new carry, a tuple of \[{B}, {H}\]"),
        (Counting, "the carry of Counting holds int32; it needs numbers with a fraction"),
        (Wrong, "the step multiplies by 'frist'; matrices() has first, others"),
        (OneRow, rf"the step of OneRow multiplies \[1, {H}\] by 'first'; a value needs all {B} rows of the batch"),
        (Wide, rf"the step multiplies \({B}, {2 * H}\) by 'first', which has {H} rows"),
    ):
        with pytest.raises(ValueError, match=message.replace("()", r"\(\)")):
            unroll(kind(D, H, rngs=nnx.Rngs(0)), jnp.zeros((T, B, D)))
