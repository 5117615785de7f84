"""A network that runs on its own forecasts: each answer is the next input, and so network and readout are one map.

Its Lyapunov exponents beside those of the system whose series it was trained on say whether it has learned the
dynamics, which the error of one step does not. Exponents of a layer that is driven by its inputs are `lyapunov.py`'s.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.jacobians import pushed
from rnnlab.diagnostics.lyapunov import Summary, orthonormalized, summary
from rnnlab.nn.connections import Carries
from rnnlab.nn.network import Network
from rnnlab.tasks import Forecast, Task
from rnnlab.typing import Array, Carry, Float

STEPS, BURN_IN = 10_000, 1000
"""Steps over which exponents are taken, and before them."""
PARTS = 100
"""How often the estimate so far is kept."""


class ClosedLoop(NamedTuple):
    """A free run of a network."""

    exponents: Summary
    """The leading ones, in nats per unit of time: mean over the rows and its error."""
    course: Float[Array, " K"]
    """The mean over the rows of the largest one so far, at each of `PARTS` times."""
    deviation: Float[Array, " D"]
    """The standard deviation of each column in the loop; that of the training part is 1."""
    interval: float
    """Units of time of a step."""
    exponent: float | None
    """The largest of the system, where one is known."""


def check_closed_loop(task: Task) -> Forecast:
    """The task, whose answers can be inputs.

    Raises:
        ConfigError: they cannot.
    """
    if not isinstance(task, Forecast):
        raise ConfigError("answers that become inputs are those of the task forecast")
    if task.horizon != 1:
        raise ConfigError(f"an answer {task.horizon} steps ahead is not the next input; task.horizon=1 has those")
    return task


def closed(
    network: Network, task: Forecast
) -> tuple[Callable[[Carry], Carry], Callable[[Float[Array, "T B D"]], Carry]]:
    """(One step of the loop, its state after inputs [T, B, D]).

    The state is the last answer [B, D] and behind it all carries of all layers, [B, ·] each.
    """
    graphdef, params = nnx.split(network)
    network = nnx.merge(graphdef, params)
    for layer in network.layers:  # Forward mode goes through the plain scan alone.
        layer.recurrence = dataclasses.replace(layer.recurrence, backend="reference")
    like = jax.tree.structure(jax.eval_shape(lambda: network.first_carries(1)))

    def after(inputs: Float[Array, "T B D"], first: Carries | None = None) -> Carry:
        last: Carries = []
        outputs: Any = network.read(network.hidden(inputs, first=first, last=last))
        return (task.answers(inputs, outputs)[-1], *jax.tree.leaves(last))

    def step(state: Carry) -> Carry:
        value, *carries = state
        return after(value[None], jax.tree.unflatten(like, carries))

    return step, after


def free_run(network: Network, task: Forecast, inputs: Float[Array, "T B D"], steps: int) -> Float[Array, "N B D"]:
    """The answers from the one to the last input on, each the input of the next."""
    step, after = closed(network, task)
    _, values = lax.scan(lambda state, _: (step(state), state[0]), after(inputs), None, length=steps)
    return values


def closed_loop(
    network: Network,
    task: Forecast,
    inputs: Float[Array, "T B D"],
    count: int = 1,
    steps: int = STEPS,
    burn_in: int = BURN_IN,
) -> ClosedLoop:
    """The leading Lyapunov exponents of the loop, by the QR method of `lyapunov_exponents`, for every row.

    The rows begin after their inputs; the directions turn towards the leading ones over `burn_in` steps that do not
    count. Divided by the interval between two values, the exponents are those of the system that the network imitates.

    Args:
        count: how many exponents.
        steps: a multiple of `PARTS`.
    """
    step, after = closed(network, task)
    first = after(inputs)
    rows, size = first[0].shape[0], sum(part.shape[-1] for part in first)
    count, inside = min(count, size), jnp.ones(rows, bool)
    dtype = jnp.result_type(*first)
    start = np.linalg.qr(np.random.default_rng(0).normal(size=(size, count)))[0].T
    q = jnp.broadcast_to(jnp.asarray(start, dtype)[:, None], (count, rows, size))

    def one(loop: tuple[Carry, jax.Array, jax.Array, Any], _: None) -> tuple[Any, None]:
        state, q, growth, (total, squares) = loop
        q, logs = orthonormalized(pushed(lambda carry, _: step(carry), state, [], inside, q))
        state = step(state)
        moments = total + state[0].mean(0), squares + (state[0] ** 2).mean(0)
        return (state, q, growth + logs, moments), None

    def part(loop: Any, _: None) -> tuple[Any, jax.Array]:
        loop, _ = lax.scan(one, loop, None, length=steps // PARTS)
        return loop, loop[2][0]

    zeros, nothing = jnp.zeros((count, rows), dtype), jnp.zeros(first[0].shape[1], dtype)
    with jax.default_matmul_precision("highest"):
        (state, q, _, _), _ = lax.scan(one, (first, q, zeros, (nothing, nothing)), None, length=burn_in)
        loop, growths = lax.scan(part, (state, q, zeros, (nothing, nothing)), None, length=PARTS)
    _, _, growth, (total, squares) = loop
    interval = task.system.interval
    exponents = summary(-jnp.sort(-growth.T, axis=1) / (steps * interval))
    times = jnp.arange(1, PARTS + 1) * (steps // PARTS * interval)
    deviation = jnp.sqrt(jnp.maximum(squares / steps - (total / steps) ** 2, 0))
    return ClosedLoop(exponents, growths.mean(1) / times, deviation, interval, task.system.exponent)
