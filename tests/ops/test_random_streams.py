"""Streams that do not repeat: positions beyond 32 bits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.ops.random_streams import high_word, seed_of_span
from rnnlab.training.setup import make_run
from tests.helpers import SMALL_RUN

LARGEST = 2**32 - 1


@pytest.mark.parametrize("factor", [1, 4, 65535, 65536, 2**31 - 1, LARGEST])
def test_high_word_is_that_of_the_whole_product(factor: int) -> None:
    steps = [0, 1, 65535, 65536, 2**30 - 1, 2**30, 2**31 - 1, 0x89ABCDEF, LARGEST]
    words = jax.vmap(lambda step: high_word(step, factor))(jnp.asarray(steps, jnp.uint32))
    assert words.tolist() == [step * factor >> 32 for step in steps]


def test_first_span_has_the_seed_of_the_run_and_each_later_one_another() -> None:
    seeds = jax.vmap(seed_of_span, (None, 0))(jnp.int32(7), jnp.arange(50, dtype=jnp.uint32))
    assert seeds.dtype == jnp.int32
    assert seeds[0] == 7
    assert len(set(seeds.tolist())) == 50
    assert (seeds >= 0).all()


@pytest.mark.slow
def test_endless_task_does_not_repeat_after_32_bits_of_examples() -> None:
    run = make_run(SMALL_RUN | {"devices": 1, "steps": 2**31 - 1, "batch_size": 4})
    start = run.programs.start(3)
    last, beyond, later = 2**30 - 1, 2**30, 2**31 - 2  # Positions have 32 bits at 4 · 2^30.

    @jax.jit
    def inputs(step: jax.Array) -> jax.Array:
        state = dataclasses.replace(start, step=step)
        positions = state.step.astype(jnp.uint32) * 4 + run.rows
        return run.task.batch(run.data, run.programs.update.seed_of_examples(state), "train", positions).inputs

    seeds = [
        int(run.programs.update.seed_of_examples(dataclasses.replace(start, step=jnp.int32(s)))) for s in (0, last)
    ]
    assert seeds == [3, 3]
    assert (inputs(np.int32(beyond)) != inputs(np.int32(0))).any()
    assert (inputs(np.int32(later)) != inputs(np.int32(later - 2**30))).any()
    short = make_run(SMALL_RUN | {"devices": 1, "steps": 100}).programs
    assert short.update.seed_of_examples(start) is start.seed  # No step costs anything that needs none.
