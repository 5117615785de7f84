"""Trajectories, the course of every layer on one batch: the carries before and after every step, and the step itself.

Penalties and diagnostics look at a run of the network through this; no gradients flow through it unless it says so.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from rnnlab.engine.contract import RecurrentCell, multiplication
from rnnlab.engine.reference import reference
from rnnlab.nn.connections import Carries, LayerRun
from rnnlab.nn.network import Network
from rnnlab.ops.random_streams import Training
from rnnlab.typing import Array, Bool, Carry, Float, Int, Num, Parts


class Trajectory(NamedTuple):
    """One direction of one layer, run over one batch."""

    name: str
    """"layer 1", "layer 1 reverse"."""
    cell: Any
    """The `RecurrentCell` that ran, with all that stood around it."""
    x: Float[Array, "T B D"]
    """The layer's input; zeros past a row's end."""
    lengths: Int[Array, " B"] | None
    reverse: bool
    """Whether it ran from each row's last valid step to its first."""
    first: Carry
    """Before the first step that ran, [B, H] each."""
    carries: Carry
    """After every step, [T, B, H] each; past its end a row keeps its carry."""
    noise: tuple[jax.Array, ...] = ()
    state_mask: Float[Array, "B H"] | None = None

    @property
    def inside(self) -> Bool[Array, "T B"]:
        """Which steps are within their rows."""
        return inside(self.x, self.lengths)

    @property
    def before(self) -> Carry:
        """The carry that every step began from, [T, B, H] each."""
        return carries_before(self.first, self.carries, self.reverse)

    def parts(self) -> Parts:
        """The gates' parts of z_t = x_t W + b, [T, B, H] each, and behind them the noise: what `step` takes."""
        return [*self.cell.split(self.cell.project(self.x)), *self.noise]

    def step(self) -> Callable[[Carry, Parts], Carry]:
        """One step as a function of (carry [B, H] each, parts [B, H] each), differentiable in both."""
        return one_step(self.cell, self.state_mask)


def trajectories(
    network: Network,
    inputs: Num[Array, "T B *D"],
    lengths: Int[Array, " B"] | None = None,
    training: Training | None = None,
    first_carries: Carries | None = None,
    resets: Bool[Array, "T B"] | None = None,
) -> list[Trajectory]:
    """One for every direction of every layer, from the first layer up.

    Args:
        network: as it runs on this batch.
        inputs: those of the batch; past a row's end they may hold anything.
        lengths: valid steps per row; all if not given.
        training: the randomness of a training step, None for evaluation.
        first_carries: what the layers begin with, if not with their own initial carries.
        resets: the steps at which rows begin anew.
    """
    runs: list[LayerRun] = []
    network.hidden(inputs, lengths, training=training, runs=runs, first=first_carries, resets=resets)
    return of_runs(runs, lengths, training)


def of_runs(
    runs: list[LayerRun], lengths: Int[Array, " B"] | None, training: Training | None = None
) -> list[Trajectory]:
    """Those of layers that have run already; the arguments are those that they ran with."""
    return [
        trajectory
        for number, run in enumerate(runs, 1)
        for trajectory in of_layer(run, lengths, training, f"layer {number}")
    ]


def of_layer(
    run: LayerRun, lengths: Int[Array, " B"] | None, training: Training | None, name: str = "layer"
) -> list[Trajectory]:
    """One for each direction of a layer."""
    layer, x = run.layer, run.x
    trajectories = []
    for direction in range(len(layer.cells)):
        cell, noise, state_mask = layer.modified(direction, x.shape[:2], training, lengths, run.resets)
        reverse = direction == 1
        initial = layer.initial_carry(direction, x.shape[1]) if run.first is None else run.first[direction]
        if initial is None:
            initial = cell.initial_carry(x.shape[1], jax.eval_shape(cell.project, x[0]).dtype)
        puts_out_h = layer.cells[0].output_map is None
        if run.h is not None and lengths is None and len(initial) == 1 and puts_out_h:
            width = run.h.shape[-1] // len(layer.cells)  # The carry is what the layer has put out.
            h = run.h[:, :, direction * width :][:, :, :width]
            first, carries = lax.stop_gradient((initial, (h,)))
        else:
            first, carries = carries_of(cell, x, lengths, reverse, initial, noise, state_mask)
        x_inside = x if lengths is None else jnp.where(inside(x, lengths)[:, :, None], x, 0)
        label = name + (" reverse" if reverse else "")
        trajectories.append(Trajectory(label, cell, x_inside, lengths, reverse, first, carries, noise, state_mask))
    return trajectories


def inside(a: Float[Array, "T B H"], lengths: Int[Array, " B"] | None) -> Bool[Array, "T B"]:
    """Which steps are within their rows."""
    steps, batch = a.shape[:2]
    return jnp.ones((steps, batch), bool) if lengths is None else jnp.arange(steps)[:, None] < lengths


def carries_of(
    cell: RecurrentCell,
    x: Float[Array, "T B D"],
    lengths: Int[Array, " B"] | None = None,
    reverse: bool = False,
    initial_carry: Carry | None = None,
    noise: tuple[jax.Array, ...] = (),
    state_mask: Float[Array, "B H"] | None = None,
) -> tuple[Carry, Carry]:
    """The carry before the first step, [B, H] each, and those after every step, [T, B, H] each, without gradients.

    initial_carry is the cell's zeros if not given; noise and state_mask are those of `unroll`. Past its end a row keeps
    its carry.
    """
    x, graphdef, state = lax.stop_gradient(x), *nnx.split(cell)
    cell = nnx.merge(graphdef, lax.stop_gradient(state))  # Stopped before the scan: nothing is kept for its gradient.
    valid = inside(x, lengths)
    x = jnp.where(valid[:, :, None], x, 0)
    if initial_carry is None:
        initial_carry = cell.initial_carry(x.shape[1], jax.eval_shape(cell.project, x[0]).dtype)
    initial_carry = lax.stop_gradient(initial_carry)
    mask = None if lengths is None else valid
    carries, _ = reference(cell, initial_carry, x, mask, None, reverse, 1, noise, state_mask)
    return initial_carry, carries


def carries_before(first: Carry, carries: Carry, reverse: bool) -> Carry:
    """The carry that every step began from, from the first one [B, H] and those after every step [T, B, H]."""
    if reverse:
        return jax.tree.map(lambda start, all: jnp.concatenate([all[1:], start[None]]), first, carries)
    return jax.tree.map(lambda start, all: jnp.concatenate([start[None], all[:-1]]), first, carries)


def one_step(cell: RecurrentCell, state_mask: jax.Array | None = None) -> Callable[[Carry, Parts], Carry]:
    """(carry, z_t) -> the next carry, with what it multiplies by built once."""
    multiply = multiplication(cell.matrices(), cell.precision, state_mask)
    return lambda carry, z: cell.step(carry, z, multiply)
