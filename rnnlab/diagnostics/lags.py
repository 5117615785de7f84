"""The gradient of the recurrent matrices, split exactly by how many steps it has travelled back, and by gate.

The same question for truncated training and all parameters is answered in `truncation.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.gradient_flow import over_rows
from rnnlab.diagnostics.truncation import with_windows
from rnnlab.engine.contract import Product, dropped, kernel_gradient, multiplication, products_of
from rnnlab.nn.connections import Hidden
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import Trajectory, inside
from rnnlab.ops.safe_norms import alignment, global_norm, row_norms, share
from rnnlab.tasks import Batch, Task
from rnnlab.typing import Array, Carry, Float, Parts, PyTree


class LagSplit(NamedTuple):
    """∂L/∂R of one direction of one layer as a sum of K parts: of the lags 0, 1, …, K - 2, and of all beyond.

    R is all that a step multiplies by, one matrix or several; G is the number of their products' parts, in the order of
    the step, which is that of the cell's gates (`names.product_names`).
    """

    norms: Float[Array, "K G"]
    """‖part‖ in the columns of each gate (Frobenius)."""
    shares: Float[Array, " K"]
    """⟨part, ∂L/∂R⟩ / ‖∂L/∂R‖²: they sum to 1; one that works against the others is negative."""
    cosine: Float[Array, " K"]
    """Between the sum of the parts up to this one and ∂L/∂R: what a window of that many steps more would see."""
    ratio: Float[Array, " K"]
    """The norm of that sum over ‖∂L/∂R‖."""
    total: dict[str, Float[Array, "K N"]]
    """The sum of all parts, ∂L/∂R, by the matrices' names. R as it multiplies: dropped or reparametrised, where it
    is."""
    delta: Float[Array, "T G"]
    """Over rows, as `over_rows` says, ‖δ_t‖ in each gate, δ_t = ∂L/∂u_t."""


def entries(network: Network, task: Task, batch: Batch) -> list[Float[Array, "T B H"]]:
    """∂L/∂h_t as far as it enters from outside of a recurrence: from the readout, from the layers above, and at a row's
    last step from the use of the layer's last state. One for each of `trajectories`, in their order.

    L is the sum over rows of each row's own loss, as in `gradient_flow`. Zero past a row's end. The network's changes
    of its gradient (`model.cotangent`) are left out.
    """
    network, lengths = with_windows(network, None), batch.lengths

    def loss(beside: list[Hidden]) -> jax.Array:
        hidden = network.hidden(batch.inputs, lengths, beside=beside, resets=batch.resets)
        values, weights = task.score(network.read(hidden, lengths), batch)
        return (values["loss"] / jnp.maximum(weights, 1)).sum()

    outputs = [[tap.carry[0] for tap in directions] for directions in network.make_taps(batch.inputs)]
    joined = [jnp.concatenate(directions, -1) for directions in outputs]
    gradients = jax.grad(loss)([Hidden(h, h[0]) for h in joined])
    entering = []
    for directions, (of_h, of_last) in zip(outputs, gradients, strict=True):
        parts = zip(*(jnp.split(a, len(directions), -1) for a in (of_h, of_last)), strict=True)
        for direction, (every, last) in enumerate(parts):
            steps = every.shape[0]
            row_ends = jnp.full(every.shape[1], steps) if lengths is None else lengths
            final = 0 if direction == 1 else row_ends - 1
            at_end = (jnp.arange(steps)[:, None] == final)[:, :, None]
            # A row without steps puts out its first carry: no step's gradient.
            valid = inside(every, lengths)[:, :, None]
            entering.append(jnp.where(valid, every + jnp.where(at_end, last, 0), 0))
    return entering


def lag_split(trajectory: Trajectory, entry: Float[Array, "T B H"], longest: int | None = None) -> LagSplit:
    """∂L/∂R lag by lag:

        ∂L/∂R = Σ_s Σ_k h_{s-k-1}ᵀ δ_{s-k}^{(s)},    δ_t^{(s)} = ∂L/∂u_t through e_s alone

    where h is whatever meets R (the sum over "temporal components" of Pascanu, Mikolov and Bengio, 2013, eq. 4, ordered
    by s - t and summed over s). Part k has all that has travelled k steps back within this recurrence, from any step
    that it entered at; with a loss at the last step and one layer, k is the distance from the loss.

    All s run side by side: one linearisation of all T steps, its transpose applied once for each lag, so time grows
    with T · longest, and memory with T alone.

    Args:
        trajectory: of a cell that multiplies by something.
        entry: e, the gradient that enters at every step, as `entries` gives it.
        longest: how many lags get a part of their own, from 1 up to T; all T if not given.

    Returns:
        K = longest + 1 parts, the last of all lags from `longest` on.

    Raises:
        ConfigError: a cell without a recurrent matrix, or longest out of bounds.
    """
    steps, batch = entry.shape[:2]
    if longest is None:
        longest = steps
    if not 1 <= longest <= steps:
        raise ConfigError(f"lags: longest is {longest}; it must be at least 1 and at most {steps}, the number of steps")
    cell, step = trajectory.cell, step_with_tap(trajectory)
    before, parts = trajectory.before, trajectory.parts()
    valid = trajectory.inside[:, :, None]
    matrices, products = cell.matrices(), products_of(cell, trajectory.x, trajectory.noise)
    width = sum(product.columns for product in products)
    no_tap = jnp.zeros((steps, batch, width), matrices[products[0].name].kernel.dtype)
    _, values = jax.vmap(step)(before, no_tap, parts)
    values = [jnp.where(valid, value, 0) for value in values]

    def of_kernel(delta: Float[Array, "T B U"]) -> dict[str, jax.Array]:
        column, gradient = 0, {}
        for product, value in zip(products, values, strict=True):
            columns = delta[:, :, column : column + product.columns]
            column += product.columns
            new = kernel_gradient(matrices[product.name], value, columns, cell.precision)
            gradient[product.name] = gradient[product.name] + new if product.name in gradient else new
        return gradient

    def through_time(entering: Carry) -> Float[Array, "T B U"]:
        """δ_t of all that enters."""

        def back(after: Carry, at: tuple) -> tuple[Carry, jax.Array]:
            entering, before, parts, tap, valid = at
            arrived = jax.tree.map(jnp.add, after, entering)
            passed, delta = jax.vjp(lambda carry, tap: step(carry, tap, parts)[0], before, tap)[1](arrived)
            passed = jax.tree.map(lambda new, old: jnp.where(valid, new, old), passed, arrived)
            return passed, jnp.where(valid, delta, 0)

        nothing = jax.tree.map(lambda a: jnp.zeros_like(a[0]), entering)
        every = (entering, before, parts, no_tap, valid)
        return lax.scan(back, nothing, every, reverse=not trajectory.reverse)[1]

    def by_gate(gradient: dict[str, jax.Array]) -> Float[Array, " G"]:
        names = dict.fromkeys(product.name for product in products)  # A tree's keys come back in another order.
        by_matrix = [jnp.split(gradient[name], matrices[name].parts, axis=-1) for name in names]
        return jnp.stack([global_norm(part) for parts in by_matrix for part in parts])

    _, pull_back = jax.vjp(lambda carry, tap: jax.vmap(step)(carry, tap, parts)[0], before, no_tap)

    def one_lag(state: tuple[Carry, PyTree], _: None) -> tuple[tuple[Carry, PyTree], tuple]:
        arrived, sum_before = state
        passed, delta = pull_back(arrived)
        part = of_kernel(jnp.where(valid, delta, 0))
        total = jax.tree.map(jnp.add, sum_before, part)
        # The gradient that leaves the first step that ran belongs to the initial carry: the next lag has none of it. In
        # a reverse row with padding it stands in the padding, which hands nothing on.
        passed = jax.tree.map(lambda a: _one_step_back(jnp.where(valid, a, 0), trajectory.reverse), passed)
        return (passed, total), (by_gate(part), share(part, full), *alignment(total, full))

    entering = (jnp.where(valid, entry, 0).astype(before[0].dtype), *map(jnp.zeros_like, before[1:]))
    full_delta = through_time(entering)
    full = of_kernel(full_delta)
    nothing = jax.tree.map(jnp.zeros_like, full)
    start = (entering, nothing)
    (left, total), of_lags = lax.scan(one_lag, start, None, length=longest)
    # After T steps nothing is left.
    beyond = of_kernel(through_time(left)) if longest < steps else nothing
    total = jax.tree.map(jnp.add, total, beyond)
    of_rest = (by_gate(beyond), share(beyond, full), *alignment(total, full))
    parts_of_lags = jax.tree.map(lambda lags, rest: jnp.concatenate([lags, rest[None]]), of_lags, of_rest)
    return LagSplit(*parts_of_lags, total=total, delta=_by_gate(_gates(full_delta, products), trajectory))


def step_with_tap(trajectory: Trajectory) -> Callable[[Carry, jax.Array, Parts], tuple[Carry, list[jax.Array]]]:
    """(carry, tap [B, U], z_t) -> the next carry, and what met the matrices, with the tap added to the products: its
    gradient is δ_t.

    Raises:
        ConfigError: a cell whose state meets no matrix, or whose rows see each other.
    """
    cell, mask = trajectory.cell, trajectory.state_mask
    matrices = cell.matrices()
    if not matrices or getattr(cell, "mixes_rows", False):
        raise ConfigError(f"lags: {_why_not(cell)} ({trajectory.name})")

    def step(carry: Carry, tap: jax.Array, z: Parts) -> tuple[Carry, list[jax.Array]]:
        multiply, values = multiplication(matrices, cell.precision, mask, tap), []

        def noted(name: str, value: jax.Array) -> Parts:
            values.append(dropped(value, matrices[name], mask))
            return multiply(name, value)

        return cell.step(carry, z, noted), values

    return step


def _why_not(cell: Any) -> str:
    """Why a cell's gradient cannot be split."""
    if getattr(cell, "mixes_rows", False):
        return f"{type(cell).__name__} has statistics between the recurrent matrix and the gates; without them it works"
    within = getattr(cell, "cell", cell)  # Dropout may stand around the equations.
    return f"{type(within).__name__} has no recurrent matrix whose gradient could be split; gru has"


def _gates(delta: Float[Array, "T B U"], products: tuple[Product, ...]) -> Parts:
    """δ_t by the parts of each matrix; of one that a step multiplies by several times those of all times, side by
    side."""
    column, gates = 0, {}
    for product in products:
        for number, part in enumerate(jnp.split(delta[:, :, column : column + product.columns], product.parts, -1)):
            gates.setdefault((product.name, number), []).append(part)
        column += product.columns
    return [jnp.concatenate(parts, -1) for parts in gates.values()]


def _one_step_back(a: Float[Array, "T B H"], reverse: bool) -> Float[Array, "T B H"]:
    """The part that each step hands to the step that ran before it, where that one stands; the first's is left out."""
    none = jnp.zeros_like(a[:1])
    return jnp.concatenate([none, a[:-1]] if reverse else [a[1:], none])


def _by_gate(parts: Parts, trajectory: Trajectory) -> Float[Array, "T G"]:
    """The norm over units, gate by gate, over rows."""
    return jnp.stack([over_rows(row_norms(part), trajectory.lengths, trajectory.reverse) for part in parts], -1)
