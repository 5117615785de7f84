"""Padded batches in the fused backend: the reference's numbers wherever rows end, and no work past the longest row.

What the lengths mean is tested in test_recurrence.py, against a loop over valid steps only.
"""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from rnnlab.cells import CELLS, Vanilla
from rnnlab.engine import default_chunk, make_taps, unroll
from tests.helpers import (
    assert_close,
    dot,
    float64,
    make_cell,
    random_array,
    random_carry,
    random_cell,
    random_like,
    with_bad_padding,
)
from tests.tiers import exhaustive_tests, in_tier

T, B, D, H = 7, 3, 2, 4
CHUNK = 3

# Two chunks of three steps and a remainder of one.
LENGTHS = {
    "all empty": [0, 0, 0],
    "all within the first chunk": [2, 0, 1],
    "the first chunk's end": [3, 1, 3],
    "within the second chunk": [1, 4, 0],
    "the second chunk's end": [6, 3, 0],
    "the remainder": [7, 2, 5],
    "all full": [7, 7, 7],
}


def gradients(graphdef: nnx.GraphDef, **options: Any) -> Any:
    """(lengths, parameters, x, initial carry, taps) -> (loss, outputs), gradients.

    The loss has a random weight on every output, those of padded steps too, and on the last carry.
    """

    def loss(state: nnx.State, x: jax.Array, carry: Any, taps: Any, lengths: jax.Array | None) -> Any:
        cell = nnx.merge(graphdef, state)
        result = unroll(cell, x, lengths=lengths, initial_carry=carry, taps=taps, **options)
        return dot(result, random_like(result, 3)), result

    return jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)


def point(graphdef: nnx.GraphDef, state: nnx.State, batch: int = B) -> tuple[Any, ...]:
    """(parameters, x, initial carry, taps)."""
    cell = nnx.merge(graphdef, state)
    x = random_array(1, T, batch, D)
    return state, x, random_carry(cell, batch, x.dtype, 2), make_taps(cell, x)


# Either store in either direction; for every cell both directions.
BY_DEFAULT = [("lstm", False, "ends"), ("lstm", True, "gates")]
RUNS = [
    (variant, *run) if (variant, *run) in BY_DEFAULT else in_tier(variant, *run, costly=True, further=not run[0])
    for variant in CELLS
    for run in [(False, "ends"), (True, "gates")]
]
RUNS += exhaustive_tests(("lstm", True, "ends"), ("lstm", False, "gates"))


@pytest.mark.parametrize(("variant", "reverse", "store"), RUNS)
def test_outputs_carries_and_gradients_equal_the_reference_wherever_rows_end(variant, reverse, store):
    with float64():
        graphdef, state = random_cell(variant, in_features=D, features=H)
        state, x, *rest = point(graphdef, state)
        fused = jax.jit(gradients(graphdef, backend="fused", chunk=CHUNK, store=store, reverse=reverse))
        reference = jax.jit(gradients(graphdef, backend="reference", reverse=reverse))
        for rows in LENGTHS.values():
            lengths = jnp.array(rows)
            bad = with_bad_padding(x, lengths)
            actual = fused(state, bad, *rest, lengths)
            assert_close(actual, reference(state, bad, *rest, lengths), 1e-12)
            (_, (h, _)), (_, dx, _, dtaps) = actual
            padding = np.arange(T)[:, None] >= np.array(rows)
            for array in (h, dx, *jax.tree.leaves(dtaps)):
                assert (np.asarray(array)[padding] == 0).all()


class Counted(Vanilla):
    """Tells the host whenever it projects a chunk of inputs: how many steps it had."""

    def project(self, x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda x: RUN.append(x.shape[0]), x)
        return super().project(x)


RUN: list[int] = []


def chunks_run(lengths: list[int] | None, reverse: bool, devices: int = 1) -> list[int]:
    """The steps of every chunk that was projected, in the forward and in the backward pass, on all devices."""
    graphdef, state = nnx.split(Counted(D, H, rngs=nnx.Rngs(0)))
    batch = B if lengths is None else len(lengths)
    run = gradients(graphdef, chunk=CHUNK, reverse=reverse, store="carries")
    rows, time_major, whole = PartitionSpec("data"), PartitionSpec(None, "data"), PartitionSpec()

    def one_device(*args: Any) -> jax.Array:
        return run(*args)[1][1]

    if devices > 1:
        mesh = jax.make_mesh((devices,), ("data",), (jax.sharding.AxisType.Auto,))
        specs = (whole, time_major, rows, time_major, rows)
        one_device = jax.shard_map(one_device, mesh=mesh, in_specs=specs, out_specs=time_major, check_vma=False)
    args = (*point(graphdef, state, batch), None if lengths is None else jnp.array(lengths))
    RUN.clear()
    program = jax.jit(one_device).lower(*args)
    jax.block_until_ready(program.compile()(*args))
    jax.effects_barrier()
    assert "stablehlo.all_" not in program.as_text(), "devices decide without each other"
    return sorted(RUN)


@pytest.mark.parametrize("reverse", [False, *exhaustive_tests(True)])
@pytest.mark.parametrize("case", LENGTHS)
def test_chunks_past_the_longest_row_are_neither_run_forward_nor_backward(case, reverse):
    chunks = [[], [3], [3, 3], [1, 3, 3]][-(-max(LENGTHS[case]) // CHUNK)]
    assert chunks_run(LENGTHS[case], reverse) == sorted(2 * chunks)


def test_without_lengths_every_chunk_is_run():
    assert chunks_run(None, False) == [1, 1, 3, 3, 3, 3]


def test_every_device_runs_what_its_own_rows_need():
    short, long = [3], [1, 3, 3]
    assert chunks_run([1, 0, 3, 7, 2, 4], False, devices=2) == sorted(2 * (short + long))


def primitives(function: Any, *args: Any) -> set[str]:
    """The names of what takes parameters in a program, loops among them."""
    return set(re.findall(r"\b([a-z_]+)\[", str(jax.make_jaxpr(function)(*args))))


@pytest.mark.parametrize(
    ("chunk", "lengths", "decides"), [(CHUNK, False, False), (T, True, False), (CHUNK, True, True)]
)
def test_only_lengths_and_several_chunks_make_a_loop_whose_length_is_decided_as_it_runs(chunk, lengths, decides):
    graphdef, state = nnx.split(make_cell("lstm", D, H))
    args = (*point(graphdef, state), jnp.full(B, T) if lengths else None)
    found = primitives(gradients(graphdef, chunk=chunk), *args)
    assert "scan" in found
    assert bool({"while", "cond"} & found) == decides


@pytest.mark.slow
def test_batches_of_a_vmap_share_the_number_of_chunks_and_have_the_gradients_of_each():
    # A loop of which every batch has its own length would copy all that it carries at every turn.
    with float64():
        graphdef, state = random_cell("gru", in_features=D, features=H)
        args = point(graphdef, state)
        run = functools.partial(gradients(graphdef, chunk=CHUNK), *args)
        lengths = jnp.array([LENGTHS["the first chunk's end"], LENGTHS["the remainder"]])
        together = jax.vmap(run)
        each = [jax.jit(run)(rows) for rows in lengths]
        assert_close(jax.jit(together)(lengths), jax.tree.map(lambda *a: jnp.stack(a), *each), 1e-12)
        assert "stablehlo.or" not in jax.jit(together).lower(lengths).as_text(), (
            "a loop goes on while any batch needs it"
        )


def test_lengths_of_a_type_that_cannot_hold_the_number_of_steps_mean_the_same():
    cell = make_cell("vanilla", D, H)
    x = random_array(1, 200, B, D)
    run = jax.jit(lambda lengths: unroll(cell, x, lengths=lengths, chunk=50))
    small, usual = (run(np.array([120, 0, 7], kind)) for kind in ("int8", "int32"))
    assert_close(small, usual, 0)


@pytest.mark.parametrize(("steps", "batch", "width"), [(50, 8, 2048), (50, 32, 2048), (700, 16, 1000), (9, 2, 8)])
def test_padded_rows_get_four_chunks_or_chunks_of_256_rows(steps, batch, width):
    chunk = default_chunk(steps, batch, width, padded=True)
    assert chunk <= default_chunk(steps, batch, width)
    assert chunk <= max(-(-steps // 4), -(-256 // batch), 8)
