"""Largest entry of |RᵀR - I| after many steps of Adam in single precision, and the time of a step, as a table.

    nice python scripts/orthogonality.py --features=170,512 --steps=10000

A vanilla network with modReLU reads short sequences of noise and learns to give back their first number: every step
moves R by a whole step of Adam. Beside the error stands how far R has gone from where it began, as a 2-norm.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import nnx

from rnnlab import cli
from rnnlab.cells import Vanilla
from rnnlab.config.errors import ConfigError
from rnnlab.engine import unroll
from rnnlab.files.markdown import markdown_table

ORTHOGONAL = ("exponential", "cayley", "householder")
LENGTH, BATCH = 10, 4


def trained(name: str, features: int, steps: int, rate: float) -> tuple[float, float, float]:
    """(max |RᵀR - I|, how far R is from where it began as a 2-norm, seconds a step) after so many steps."""
    init: dict[str, Any] = {"recurrent": name, "recurrent_init": "henaff", "activation": "modrelu"}
    cell = Vanilla(1, features, rngs=nnx.Rngs(0), **init)
    graphdef, params, others = nnx.split(cell, nnx.Param, ...)
    optimizer = optax.adam(rate)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        x = jax.random.normal(key, (LENGTH, BATCH, 1))
        h, _ = unroll(nnx.merge(graphdef, params, others), x)
        return jnp.mean((h[-1].sum(-1) - x[0, :, 0]) ** 2)

    @jax.jit
    def many(params: Any, state: Any, keys: jax.Array) -> Any:
        def step(carry: Any, key: jax.Array) -> Any:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, key), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), keys)[0]

    keys = jax.random.split(jax.random.key(0), steps)
    run = many.lower(params, optimizer.init(params), keys).compile()
    began = time.perf_counter()
    after, _ = jax.block_until_ready(run(params, optimizer.init(params), keys))
    seconds = (time.perf_counter() - began) / steps
    start, end = (np.asarray(nnx.merge(graphdef, each, others).recurrent_matrix(), float) for each in (params, after))
    return float(np.abs(end.T @ end - np.eye(features)).max()), float(np.linalg.norm(end - start, 2)), seconds


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_list("features", ["170", "512"], "H, separated by commas", flag_values=values)
    flags.DEFINE_integer("steps", 10_000, "steps of Adam", lower_bound=1, flag_values=values)
    flags.DEFINE_float("learning_rate", 1e-4, "of Adam", lower_bound=0.0, flag_values=values)
    flags.DEFINE_list("recurrent", list(ORTHOGONAL), "parametrisations, separated by commas", flag_values=values)
    cli.parse(values, argv, __doc__)
    if unknown := set(values.recurrent) - set(ORTHOGONAL):
        raise ConfigError(f"--recurrent: {', '.join(sorted(unknown))}; known: {', '.join(ORTHOGONAL)}")
    try:
        sizes = [int(size) for size in values.features]
    except ValueError as error:
        raise ConfigError(f"--features: {error}") from None
    rows = []
    for features in sizes:
        for name in values.recurrent:
            error, moved, seconds = trained(name, features, values.steps, values.learning_rate)
            rows.append([name, str(features), f"{error:.1e}", f"{moved:.2f}", f"{1e3 * seconds:.1f}"])
            print(" ".join(rows[-1]), flush=True)
    print("\n" + markdown_table(["recurrent", "H", "max abs(RᵀR - I)", "norm of the change", "step, ms"], rows), end="")
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
