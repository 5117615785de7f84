"""What `unroll` lets through beside the equations: noise, a mask of the state, and interventions on the cotangent."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import BaseCell
from rnnlab.cells.wrappers import ModifiedCell
from rnnlab.engine import Cotangent, make_taps, unroll
from tests.helpers import (
    assert_close,
    by_hand,
    dot,
    float64,
    make_cell,
    random_array,
    random_carry,
    random_cell,
    random_like,
)
from tests.tiers import exhaustive_tests

T, B, D, H = 6, 3, 2, 3
LENGTHS = [4, 0, 6]
COTANGENTS = {
    "clip_norm": {"clip_norm": 0.8},
    "clip_value": {"clip_value": 0.3},
    "scale": {"scale": 0.7},
    "cut": {"cut_every": 2},
    "all": {"scale": 1.1, "cut_every": 4, "clip_value": 0.5, "clip_norm": 0.7},
}
EVERY_PAIR = [
    ("clip_norm", True, "gru"),
    ("cut", True, "lstm"),
    ("all", False, "lstm"),
    *exhaustive_tests(
        ("clip_norm", False, "lstm"),
        ("clip_value", False, "gru"),
        ("clip_value", True, "vanilla_relu"),
        ("scale", False, "vanilla_relu"),
        ("scale", True, "lstm"),
        ("cut", False, "gru"),
        ("cut", True, "vanilla_relu"),
        ("all", True, "gru"),
    ),
]
"""(in COTANGENTS, reverse, cell)."""


def cotangent(name: str) -> Cotangent:
    return Cotangent(**{k: jnp.asarray(v) for k, v in COTANGENTS[name].items()})


def point(variant: str) -> Any:
    graphdef, state = random_cell(variant, in_features=D, features=H)
    x = random_array(1, T, B, D)
    carry = random_carry(nnx.merge(graphdef, state), B, x.dtype, 2)
    return graphdef, state, x, carry


def gradients(variant: str, backend: str, **options: Any) -> Any:
    """(loss, (h, last)), gradients of parameters, x, initial carry and taps."""
    graphdef, state, x, carry = point(variant)
    taps = make_taps(nnx.merge(graphdef, state), x)

    def loss(state: nnx.State, x: jax.Array, carry: Any, taps: Any) -> Any:
        cell = nnx.merge(graphdef, state)
        result = unroll(cell, x, initial_carry=carry, backend=backend, chunk=4, taps=taps, **options)
        return dot(result, random_like(result, 3)), result

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(state, x, carry, taps)


class Noisy(ModifiedCell):
    """Another cell, whose new h is multiplied by the noise: with noise of ones the other cell."""

    def step(self, carry: Any, z: Any, multiply: Any) -> Any:
        *z, noise = z
        h, *rest = self.cell.step(carry, z, multiply)
        return (h * noise, *rest)


@pytest.mark.parametrize(
    ("variant", "store", "reverse"),
    [*exhaustive_tests(("lstm", "gates", True), ("lstm", "ends", False)), ("gru_reset_before", "gates", False)],
)
def test_state_mask_is_a_factor_of_the_state_where_it_meets_the_matrix(variant, store, reverse):
    with float64():
        mask = jnp.asarray(np.random.default_rng(0).integers(0, 2, (B, H)) * 2.0)
        options = {"lengths": jnp.array(LENGTHS), "state_mask": mask, "reverse": reverse}
        fused = gradients(variant, "fused", store=store, **options)
        assert_close(fused, gradients(variant, "reference", **options), 1e-12)
        # One row by hand.
        graphdef, state, x, carry = point(variant)
        cell = nnx.merge(graphdef, state)
        row, multiply = 2, by_hand(cell, mask=mask[2:])
        step = jax.jit(lambda carry, x_t: cell.step(carry, cell.split(cell.project(x_t)), multiply))
        h, *rest = (c[row:] for c in carry)
        for t in reversed(range(T)) if reverse else range(T):
            h, *rest = step((h, *rest), x[t, row:])
            assert_close(fused[0][1][0][t, row], h[0], 1e-12)


@pytest.mark.parametrize(
    ("variant", "store", "reverse"),
    [("lstm", "ends", True), *exhaustive_tests(("lstm", "gates", False), ("gru", "ends", False))],
)
def test_noise_reaches_the_gates_step_by_step(variant, store, reverse):
    with float64():
        graphdef, state, x, carry = point(variant)
        noise = random_array(5, T, B, H)

        def run(backend: str, noise: jax.Array, **options: Any) -> Any:
            def loss(state: nnx.State, x: jax.Array, carry: Any) -> Any:
                cell = Noisy(nnx.merge(graphdef, state))
                lengths = jnp.array(LENGTHS)
                result = unroll(
                    cell, x, initial_carry=carry, noise=(noise,), backend=backend, lengths=lengths, **options
                )
                return dot(result, random_like(result, 3)), result

            return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(state, x, carry)

        fused = run("fused", noise, chunk=4, store=store, reverse=reverse)
        assert_close(fused, run("reference", noise, reverse=reverse), 1e-12)
        plain = gradients(variant, "fused", lengths=jnp.array(LENGTHS), reverse=reverse)
        assert_close(run("fused", jnp.ones((T, B, H)), reverse=reverse)[0], plain[0], 1e-12)


@pytest.mark.parametrize(("name", "reverse", "variant"), EVERY_PAIR)
def test_cotangents_are_those_of_backpropagation_by_hand(variant, name, reverse):
    with float64():
        graphdef, state, x, carry = point(variant)
        cell = nnx.merge(graphdef, state)
        options = {"cotangent": cotangent(name), "reverse": reverse}
        found = gradients(variant, "fused", **options)
        assert_close(gradients(variant, "reference", **options), found, 1e-12)

        def step(carry: Any, x_t: jax.Array) -> Any:
            return cell.step(carry, cell.split(cell.project(x_t)), by_hand(cell))

        def back(carry: Any, x_t: jax.Array, d: Any) -> Any:
            return jax.vjp(lambda carry: step(carry, x_t), carry)[1](d)[0]

        step, back = jax.jit(step), jax.jit(back)
        order = list(reversed(range(T)) if reverse else range(T))
        before = {}
        for t in order:
            before[t], carry = carry, step(carry, x[t])
        weights, d = random_like((found[0][1]), 3)
        numbers = COTANGENTS[name]
        for t in reversed(order):
            d = [np.array(a) for a in d]
            d[0] += np.asarray(weights[t])
            if "clip_value" in numbers:
                d = [np.clip(a, -numbers["clip_value"], numbers["clip_value"]) for a in d]
            if "clip_norm" in numbers:
                for row in range(B):
                    norm = np.sqrt(sum((a[row] ** 2).sum() for a in d))
                    for a in d:
                        a[row] *= min(1, numbers["clip_norm"] / norm)
            assert_close(tuple(a[t] for a in found[1][3].carry), tuple(jnp.asarray(a) for a in d), 1e-12)
            d = back(before[t], x[t], tuple(map(jnp.asarray, d)))
            steps_back = t + 1 if reverse else T - t
            cut = "cut_every" in numbers and steps_back % numbers["cut_every"] == 0 and t != order[0]
            d = tuple(a * numbers.get("scale", 1.0) * (not cut) for a in d)
        assert_close(found[1][2], d, 1e-12)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_last_state_sees_a_whole_window_of_every_row(reverse, backend):
    # Of a linear cell with R = I, ∂L/∂h_t of what the last state is worth is the same at every step it comes to.
    lengths = [6, 5, 3]
    cell = make_cell("vanilla_linear", in_features=D, features=H)
    cell.recurrent_kernel[...] = jnp.eye(H)
    x = random_array(1, T, B, D)

    def loss(taps: Any, window: jax.Array) -> jax.Array:
        options = {"reverse": reverse, "backend": backend, "chunk": 4, "lengths": jnp.array(lengths)}
        return unroll(cell, x, taps=taps, cotangent=Cotangent(cut_every=window), **options)[1][0].sum()

    flow, taps = jax.jit(jax.grad(loss)), make_taps(cell, x)
    for window in range(1, T + 2):
        seen = np.asarray(flow(taps, jnp.int32(window)).carry[0]).any(-1).sum(0)
        np.testing.assert_array_equal(seen, np.minimum(window, lengths))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reverse"),
    [
        *(("clip_norm", True), ("all", False)),
        *exhaustive_tests(("clip_value", False), ("scale", True), ("cut", False), ("cut", True)),
    ],
)
def test_padding_gives_the_gradients_of_the_truncated_row(name, reverse):
    with float64():
        options = {"cotangent": cotangent(name), "reverse": reverse}
        graphdef, state, x, carry = point("lstm")

        def run(backend: str, x: jax.Array, carry: Any, lengths: Any) -> Any:
            def loss(x: jax.Array, carry: Any) -> jax.Array:
                _, last = unroll(
                    nnx.merge(graphdef, state),
                    x,
                    initial_carry=carry,
                    lengths=lengths,
                    backend=backend,
                    chunk=4,
                    **options,
                )
                return sum((a**2).sum() for a in last)

            return jax.jit(jax.grad(loss, (0, 1)))(x, carry)

        for backend in ("fused", "reference"):
            dx, dcarry = run(backend, x, carry, jnp.array(LENGTHS))
            for row, length in enumerate(LENGTHS):
                if length:
                    one = run(backend, x[:length, row : row + 1], tuple(c[row : row + 1] for c in carry), None)
                    assert_close(dx[:length, row : row + 1], one[0], 1e-12)
                    assert_close(tuple(a[row : row + 1] for a in dcarry), one[1], 1e-12)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_clipped_cotangent_never_exceeds_its_bound_even_where_the_gradient_overflows(backend):
    # A linear network whose gradient grows tenfold a step: 10^60 at the first step of 60, beyond float32.
    steps, bound = 60, 2.0
    cell = make_cell("vanilla_linear", in_features=1, features=2)
    cell.recurrent_kernel[...] = 10.0 * jnp.eye(2)
    x = jnp.zeros((steps, 4, 1))
    limits = Cotangent(clip_norm=jnp.float32(bound))

    def loss(taps: Any, cotangent: Cotangent | None) -> jax.Array:
        return unroll(cell, x, taps=taps, backend=backend, cotangent=cotangent)[0].sum()

    flow = jax.jit(jax.grad(loss))
    free, held = flow(make_taps(cell, x), None), flow(make_taps(cell, x), limits)
    assert not jnp.isfinite(free.carry[0]).all()
    norms = jnp.linalg.norm(held.carry[0], axis=-1)
    assert norms.max() <= bound * (1 + 1e-6)
    np.testing.assert_allclose(norms[:-1], bound, rtol=1e-6)


class Diagonal(BaseCell):
    """A cell whose state meets no matrix."""

    def step(self, carry: Any, z: Any, multiply: Any) -> Any:
        return (jnp.tanh(z[0] + carry[0]),)


def test_state_mask_of_a_cell_without_a_matrix_is_refused():
    cell = Diagonal(in_features=D, features=H, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="state of Diagonal meets no matrix; state_mask needs one"):
        unroll(cell, jnp.zeros((T, B, D)), state_mask=jnp.ones((B, H)))
