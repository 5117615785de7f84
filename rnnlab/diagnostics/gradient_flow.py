"""How much gradient reaches each time step: ‖∂L/∂h_t‖ from the engine's taps, in one backward pass."""

import functools
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnlab.diagnostics.diagnostic import Diagnostic, DiagnosticFigure, Lines, maps, over
from rnnlab.diagnostics.names import carry_names
from rnnlab.diagnostics.probe import Probe
from rnnlab.engine import Taps
from rnnlab.nn.network import Network
from rnnlab.ops.safe_norms import row_norms
from rnnlab.tasks import Batch, Task
from rnnlab.typing import Array, Bool, Float, Int


def gradient_flow(network: Network, task: Task, batch: Batch) -> dict[str, Float[Array, " T"]]:
    """‖∂L_b/∂h_t‖₂ over t, L_b being row b's own loss, over the batch's rows as `over_rows` says.

    Args:
        network: a network of this task.
        task: gives the loss.
        batch: T steps of B rows.

    Returns:
        Per layer and direction ("layer 1", "layer 1 reverse") an array [T], in which all rows end together: the entry
        k before the last, of a reverse direction the entry k, is k steps back from each row's end.
    """

    def loss(taps: list) -> jax.Array:
        values, weights = task.score(network(batch.inputs, batch.lengths, taps, resets=batch.resets), batch)
        return (values["loss"] / jnp.maximum(weights, 1)).sum()

    gradients = jax.grad(loss)(network.make_taps(batch.inputs))
    return _by_layer(gradients, gradients, batch.lengths)


def gradient_reach(network: Network, task: Task, batch: Batch) -> dict[str, Float[Array, " T"]]:
    """How far back the gradient of one answer reaches: ‖∂L_b/∂h_t‖₂ over t, over rows as `over_rows` says.

    With a readout at the last step it is `gradient_flow`. With one at every step each answer adds gradient of its own,
    so that the sum says little about the recurrence; there L_b is the loss of row b's last valid step alone, of a
    reverse direction of its first, where that direction ends.

    Args:
        network: a network of this task.
        task: gives the loss.
        batch: T steps of B rows.

    Returns:
        The same as `gradient_flow`.
    """
    if task.readout != "every":
        return gradient_flow(network, task, batch)
    steps, rows = batch.inputs.shape[:2]
    lengths = jnp.full(rows, steps) if batch.lengths is None else batch.lengths

    def loss(taps: list, answered: Int[Array, " B"]) -> jax.Array:
        hidden = network.hidden(batch.inputs, batch.lengths, taps, resets=batch.resets)
        here = (jnp.arange(steps)[:, None] == answered)[:, :, None]
        h = jnp.where(here, hidden.h, lax.stop_gradient(hidden.h))
        values, _ = task.score(network.read(hidden._replace(h=h), batch.lengths), batch)
        return values["loss"].sum()

    taps = network.make_taps(batch.inputs)
    forward = backward = jax.grad(loss)(taps, lengths - 1)
    if any(len(directions) > 1 for directions in taps):
        backward = jax.grad(loss)(taps, jnp.zeros_like(lengths))
    return _by_layer(forward, backward, batch.lengths)


def _by_layer(
    forward: list[list[Taps]], backward: list[list[Taps]], lengths: Int[Array, " B"] | None
) -> dict[str, Float[Array, " T"]]:
    """`over_rows` of every layer's ‖∂L_b/∂h_t‖₂, from the taps for the forward and those for the reverse directions."""
    curves = {}
    for number in range(len(forward)):
        for direction in range(len(forward[number])):
            tap = (backward if direction else forward)[number][direction]
            name = f"layer {number + 1}" + (" reverse" if direction else "")
            curves[name] = over_rows(row_norms(tap.carry[0]), lengths, direction == 1)
    return curves


def aligned(
    norms: Float[Array, "T B"], lengths: Int[Array, " B"] | None, reverse: bool = False
) -> tuple[Float[Array, "T B"], Bool[Array, "T B"]]:
    """The rows so shifted that they end together, and which entries are within their rows; the others are 0.

    Forward the last valid step of every row goes to the last entry. A reverse direction ends at the first step, where
    all rows begin, and is left as it is.
    """
    steps = norms.shape[0]
    if lengths is None:
        return norms, jnp.ones(norms.shape, bool)
    at = jnp.arange(steps)[:, None] - (0 if reverse else steps - lengths)
    inside = (at >= 0) & (at < lengths)
    return jnp.where(inside, jnp.take_along_axis(norms, jnp.clip(at, 0), axis=0), 0), inside


def over_rows(
    norms: Float[Array, "T B"], lengths: Int[Array, " B"] | None, reverse: bool = False
) -> Float[Array, " T"]:
    """The root mean square over rows of a gradient's norms, `aligned`; over the rows that are so long, 0 where none is.

    Where a row begins, on the way back, the mean loses it: what follows is scaled by the factor that this changes the
    mean by, as a chained price index is. So the curve has no step there, and rows that all decay by one factor decay by
    that factor together, however much they differ in size.
    """
    if lengths is None:
        return root_mean_square(norms, jnp.ones(norms.shape, bool))
    norms, inside = aligned(norms, lengths, reverse)
    if not reverse:  # From here on the first entry is where rows end.
        norms, inside = norms[::-1], inside[::-1]
    longer = jnp.concatenate([inside[1:], jnp.zeros_like(inside[:1])])
    mean, of_longer = root_mean_square(norms, inside), root_mean_square(norms, longer)
    linked = jnp.isfinite(mean) & (mean > 0) & jnp.isfinite(of_longer) & (of_longer > 0)
    changes = jnp.where(linked & (longer != inside).any(1), mean / jnp.where(linked, of_longer, 1), 1)
    curve = mean * jnp.concatenate([jnp.ones_like(mean[:1]), jnp.cumprod(changes)[:-1]])
    return curve if reverse else curve[::-1]


def root_mean_square(norms: Float[Array, "T B"], inside: Bool[Array, "T B"]) -> Float[Array, " T"]:
    """Over the rows inside; 0 where none is."""
    return row_norms(jnp.where(inside, norms, 0)) / jnp.sqrt(jnp.maximum(inside.sum(1), 1)).astype(norms.dtype)


def flow(probe: Probe) -> dict[str, jax.Array]:
    """The diagnostic "gradient_flow" of a training step.

    For every layer and direction, over the batch's rows as `over_rows` says:
        layer 1/h [T]       ‖∂L_b/∂h_t‖₂; of an LSTM also layer 1/c [T], along the cell's path
        layer 1/delta [T]   ‖δ_t‖₂, δ_t = ∂L_b/∂u_t, of all products of a step; not of a cell without one
    and from the first, by `decay_per_step`, layer 1/factor, layer 1/half_life and layer 1/horizon (`memory_horizon`).
    A readout at every step brings gradient of its own to every h_t, beside what comes back through time; what is
    measured is the sum, whose decay says less about the recurrence.
    """
    rows: dict[str, jax.Array] = {}
    reverse: dict[str, bool] = {}
    for trajectory, tap in zip(probe.trajectories, probe.flows, strict=True):
        arrays = dict(zip(carry_names(trajectory.cell, len(tap.carry)), tap.carry, strict=True))
        if tap.u.shape[-1]:
            arrays["delta"] = tap.u
        rows |= {f"{trajectory.name}/{what}": row_norms(gradient) for what, gradient in arrays.items()}
        reverse |= {f"{trajectory.name}/{what}": trajectory.reverse for what in arrays}
    whole, lengths = gather_rows(probe, rows)
    curves = {name: over_rows(norms, lengths, reverse[name]) for name, norms in whole.items()}
    for trajectory in probe.trajectories:
        norms = curves[f"{trajectory.name}/h"]
        forward = norms[::-1] if trajectory.reverse else norms
        decay = decay_per_step(forward)
        curves |= {f"{trajectory.name}/factor": decay.factor, f"{trajectory.name}/half_life": decay.half_life}
        curves[f"{trajectory.name}/horizon"] = memory_horizon(forward, probe.longest_dependency)
    return curves


def gather_rows(
    probe: Probe, rows: dict[str, Float[Array, "T B *H"]]
) -> tuple[dict[str, Float[Array, "T B *H"]], Int[Array, " B"] | None]:
    """Arrays of this device's rows as those of the whole batch, and the lengths of its rows, None where all have T
    steps; after one exchange between devices."""
    lengths = probe.trajectories[0].lengths
    gathered, each = probe.gather((rows, lengths))
    whole = {name: jnp.concatenate([*arrays], axis=1) for name, arrays in gathered.items()}
    return whole, None if each is None else each.ravel().astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("longest_dependency", "share"))
def memory_horizon(
    norms: Float[Array, " T"], longest_dependency: int | None = None, share: float = 0.01
) -> Int[Array, ""]:
    """How far back the gradient reaches: the largest distance in steps, from the last step that any gradient reaches,
    at which its norm is still at least this share of what it is there.

    It needs no decay to be exponential, and it never exceeds T - 1, nor the task's longest dependency: what reaches
    further back meets nothing that an answer depends on. 0 where nothing is finite and above zero.
    """
    steps = jnp.arange(norms.shape[0])
    alive = jnp.isfinite(norms) & (norms > 0)
    last = jnp.max(jnp.where(alive, steps, -1))
    first = jnp.min(jnp.where(alive & (norms >= share * norms[last]), steps, last))
    return jnp.clip(last - first, 0, longest_dependency)


class Decay(NamedTuple):
    """How fast a gradient changes on its way back in time."""

    factor: Float[Array, ""]
    """The norm's, per step back in time: below 1 it vanishes, above it explodes."""
    half_life: Float[Array, ""]
    """Steps back in time after which it has halved; infinite where it does not decay."""

    @property
    def doubling_time(self) -> Float[Array, ""]:
        """Steps back in time after which it has doubled; infinite where it does not grow."""
        grows = self.factor > 1
        time = jnp.log(2.0) / jnp.log(jnp.where(grows, self.factor, 2))
        return jnp.where(grows, time, jnp.where(jnp.isnan(self.factor), jnp.nan, jnp.inf))


@jax.jit
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
    slope = (t * y).sum() / jnp.maximum((t**2).sum(), 0.5)  # Two steps side by side have 0.5.
    factor = jnp.exp(-slope)
    half_life = jnp.where(slope > 0, jnp.log(2.0) / jnp.where(slope > 0, slope, 1), jnp.inf)
    without = jnp.where(lost.any(), jnp.nan, 0.0)
    return Decay(*(jnp.where(count < 2, without, a).astype(norms.dtype) for a in (factor, half_life)))


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_gradient(steps: list[int], lines: Lines, style: ModuleType) -> Any:
    """log10 ‖∂L/∂h_t‖ over training step and time step, a panel for each layer and element of the carry."""

    def words(name: str) -> tuple[str, str]:
        return name.split("/")[0], style.gradient_symbol(name.split("/")[-1])

    return maps(steps, lines, style, ("h", "c"), words, style.TIME_STEP)


def draw_half_life(steps: list[int], lines: Lines, style: ModuleType) -> Any:
    """Left the gradient's factor per step back in time, right its half-life, where it decays."""
    figure, (left, right) = style.make_axes(2)
    layers = [name.removesuffix("/factor") for name in lines[0] if name.endswith("/factor")]
    for number, layer in enumerate(layers):
        colour = style.COLOURS[number % len(style.COLOURS)]
        left.plot(
            steps, style.shown(over(style, lines, f"{layer}/factor")), ".-", color=colour, label=layer, markersize=4
        )
        lives = over(style, lines, f"{layer}/half_life")
        right.plot(steps, style.shown(lives, positive=True), ".-", color=colour, linewidth=1.2, markersize=4)
        never = lives == np.inf
        top = np.full(never.sum(), 0.97)
        at = right.get_xaxis_transform()
        right.plot(np.array(steps)[never], top, "^", color=colour, markersize=4, transform=at)
    left.axhline(1, color=style.GREY, linestyle="--", linewidth=1)
    left.set(title=f"factor of {style.gradient_symbol('h')} per step back in time", ylabel="factor")
    right.set(title="half-life of the gradient (▲: it does not decay)", ylabel="time steps")
    style.log_scale(right)
    for axis in (left, right):
        style.hold_spikes(axis)
        axis.set_xlabel("training step")
    if len(layers) > 1:
        left.legend()
    return figure


GRADIENT_FLOW = Diagnostic(
    flow,
    (
        DiagnosticFigure(
            "gradient_heat_map",
            draw_gradient,
            "The gradient's norm over training step (across) and time step (up), on a logarithmic scale.",
        ),
        DiagnosticFigure(
            "half_life",
            draw_half_life,
            "How much of the gradient is left per step back in time, and after how many steps half of it.",
            of_one_answer=True,
        ),
    ),
)
