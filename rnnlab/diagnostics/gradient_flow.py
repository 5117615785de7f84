"""How much gradient reaches each time step: ‖∂L/∂h_t‖ from the engine's taps, in one backward pass."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.diagnostics.names import carry_names
from rnnlab.diagnostics.probe import Probe
from rnnlab.network import Network
from rnnlab.norms import row_norms
from rnnlab.recurrence import FusableCell
from rnnlab.tasks import Batch, Task
from rnnlab.typing import Array, Float, Int


def gradient_flow(network: Network, task: Task, batch: Batch) -> dict[str, Float[Array, " T"]]:
    """The root mean square over the batch's rows of ‖∂L_b/∂h_t‖₂ at each step t, L_b being row b's own loss.

    Args:
        network: a network of this task.
        task: gives the loss.
        batch: T steps of B rows.

    Returns:
        Per layer and direction ("layer 1", "layer 1 reverse") an array [T]. A row past its end counts as zero.
    """

    def loss(taps: list) -> jax.Array:
        values, weights = task.score(network(batch.inputs, batch.lengths, taps), batch)
        return (values["loss"] / jnp.maximum(weights, 1)).sum()

    gradients = jax.grad(loss)(network.make_taps(batch.inputs))
    return {
        f"layer {number}" + (" reverse" if direction else ""): root_mean_square(row_norms(tap.carry[0]))
        for number, directions in enumerate(gradients, 1)
        for direction, tap in enumerate(directions)
    }


def gradient_reach(network: Network, task: Task, batch: Batch) -> dict[str, Float[Array, " T"]]:
    """How far back the gradient of one answer reaches: ‖∂L_b/∂h_t‖₂ over t, the root mean square over rows.

    With a readout at the last step it is `gradient_flow`. With one at every step each answer adds gradient of its own,
    so that the sum says little about the recurrence; there L_b is the loss of row b's last valid step alone, of a
    reverse direction of its first, where that direction ends.

    Args:
        network: a network of this task.
        task: gives the loss.
        batch: T steps of B rows.

    Returns:
        Per layer and direction ("layer 1", "layer 1 reverse") an array [T]. With a readout at every step all rows end
        at the last entry, so that the one k before it is k steps from the answer (of a reverse direction all begin at
        the first), and the mean is over the rows that are so long; 0 where none is.
    """
    if task.readout != "every":
        return gradient_flow(network, task, batch)
    steps, rows = batch.inputs.shape[:2]
    lengths = jnp.full(rows, steps) if batch.lengths is None else batch.lengths

    def loss(taps: list, answered: Int[Array, " B"]) -> jax.Array:
        hidden = network.hidden(batch.inputs, batch.lengths, taps)
        here = (jnp.arange(steps)[:, None] == answered)[:, :, None]
        h = jnp.where(here, hidden.h, lax.stop_gradient(hidden.h))
        values, _ = task.score(network.read(hidden._replace(h=h), batch.lengths), batch)
        return values["loss"].sum()

    taps = network.make_taps(batch.inputs)
    ends = [jax.grad(loss)(taps, lengths - 1)]
    if any(len(directions) > 1 for directions in taps):
        ends.append(jax.grad(loss)(taps, jnp.zeros_like(lengths)))
    shift = steps - lengths
    found = {}
    for number in range(len(taps)):
        for direction in range(len(taps[number])):
            norms = row_norms(ends[direction][number][direction].carry[0])
            at = jnp.arange(steps)[:, None] - (0 if direction else shift)
            inside = (at >= 0) & (at < lengths)
            norms = jnp.where(inside, jnp.take_along_axis(norms, jnp.clip(at, 0), axis=0), 0)
            name = f"layer {number + 1}" + (" reverse" if direction else "")
            found[name] = row_norms(norms) / jnp.sqrt(jnp.maximum(inside.sum(1), 1))
    return found


def root_mean_square(norms: Float[Array, "T B"]) -> Float[Array, " T"]:
    """Over rows."""
    return row_norms(norms) / math.sqrt(norms.shape[1])


def flow(probe: Probe) -> dict[str, jax.Array]:
    """The diagnostic "gradient_flow" of a training step.

    For every layer and direction, the root mean square over the batch's rows of
        layer 1/h [T]       ‖∂L_b/∂h_t‖₂; of an LSTM also layer 1/c [T], along the cell's path
        layer 1/delta [T]   ‖δ_t‖₂, δ_t = ∂L_b/∂u_t; not of a cell without one recurrent product
    and from the first, by `decay_per_step`, layer 1/factor, layer 1/half_life and layer 1/horizon (`memory_horizon`).
    A readout at every step brings gradient of its own to every h_t, beside what comes back through time; what is
    measured is the sum, whose decay says less about the recurrence.
    """
    rows: dict[str, jax.Array] = {}
    for trajectory, tap in zip(probe.trajectories, probe.flows, strict=True):
        arrays = dict(zip(carry_names(trajectory.cell, len(tap.carry)), tap.carry, strict=True))
        if isinstance(trajectory.cell, FusableCell):
            arrays["delta"] = tap.u
        rows |= {f"{trajectory.name}/{what}": row_norms(gradient) for what, gradient in arrays.items()}
    gathered = {name: jnp.concatenate([*norms], axis=1) for name, norms in probe.gather(rows).items()}
    found = {name: root_mean_square(norms) for name, norms in gathered.items()}
    for trajectory in probe.trajectories:
        norms = found[f"{trajectory.name}/h"]
        forward = norms[::-1] if trajectory.reverse else norms
        decay = decay_per_step(forward)
        found |= {f"{trajectory.name}/factor": decay.factor, f"{trajectory.name}/half_life": decay.half_life}
        found[f"{trajectory.name}/horizon"] = memory_horizon(forward)
    return found


def memory_horizon(norms: Float[Array, " T"], share: float = 0.01) -> Int[Array, ""]:
    """How far back the gradient reaches: the largest distance in steps, from the last step that any gradient reaches,
    at which its norm is still at least this share of what it is there.

    It needs no decay to be exponential, and it never exceeds T - 1. 0 where nothing is finite and above zero.
    """
    steps = jnp.arange(norms.shape[0])
    alive = jnp.isfinite(norms) & (norms > 0)
    last = jnp.max(jnp.where(alive, steps, -1))
    first = jnp.min(jnp.where(alive & (norms >= share * norms[last]), steps, last))
    return jnp.maximum(last - first, 0)


class Decay(NamedTuple):
    """How fast a gradient changes on its way back in time."""

    factor: Float[Array, ""]
    """Of its norm, per step back in time: below 1 it vanishes, above it explodes."""
    half_life: Float[Array, ""]
    """Steps back in time after which it has halved; infinite where it does not decay."""

    @property
    def doubling_time(self) -> Float[Array, ""]:
        """Steps back in time after which it has doubled; infinite where it does not grow."""
        grows = self.factor > 1
        time = jnp.log(2.0) / jnp.log(jnp.where(grows, self.factor, 2))
        return jnp.where(grows, time, jnp.where(jnp.isnan(self.factor), jnp.nan, jnp.inf))


def decay_per_step(norms: Float[Array, " T"]) -> Decay:
    """The rate of exponential decay of ‖∂L/∂h_t‖ back in time; may be traced.

    A least-squares line through log ‖∂L/∂h_t‖ over the steps where it is neither zero (or subnormal) nor infinite nor
    NaN. With fewer than two such steps there is no line: factor and half-life are 0 where the other norms are zeros
    (nothing comes through a single step), NaN where one of them is not finite.
    """
    lost = ~jnp.isfinite(norms)
    used = ~lost & (norms >= jnp.finfo(norms.dtype).tiny)  # The logarithm of what is below may be -inf on a CPU.
    weights = used.astype(norms.dtype)
    count = weights.sum()
    t = jnp.arange(norms.shape[0], dtype=norms.dtype)
    y = jnp.log(jnp.where(used, norms, 1))
    t = weights * (t - (weights * t).sum() / jnp.maximum(count, 1))
    slope = (t * y).sum() / jnp.maximum((t**2).sum(), 0.5)  # Of two steps side by side it is 0.5.
    factor = jnp.exp(-slope)
    half_life = jnp.where(slope > 0, jnp.log(2.0) / jnp.where(slope > 0, slope, 1), jnp.inf)
    without = jnp.where(lost.any(), jnp.nan, 0.0)
    return Decay(*(jnp.where(count < 2, without, a).astype(norms.dtype) for a in (factor, half_life)))
