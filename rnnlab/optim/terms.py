"""Terms of a loss beside the task's: what they look at, and their formulas.

A term is a function, pure and differentiable. The name of its first parameter says what it looks at: `weights`
(`Weights`) for a number, or `forward` (`ForwardPass`) for a number for each row [B]. Its other parameters are its
fields in a config, `strength` first. Their table is in `optim/penalties.py`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnlab.config.bounds import NonNegative, Traced
from rnnlab.config.schema import as_options
from rnnlab.engine.contract import RecurrentCell
from rnnlab.engine.resets import RestartingCell
from rnnlab.nn.connections import Hidden, LayerRun
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import Trajectory, carries_before, inside, of_runs, one_step
from rnnlab.ops.random_streams import Training
from rnnlab.ops.safe_norms import row_norms, scale_for
from rnnlab.optim.parameters import NO_CELLS, Cells, Group, group_of, is_built_upon, path_of
from rnnlab.tasks import Batch
from rnnlab.typing import Array, Bool, Carry, Float, Int, Parts, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupStrengths:
    """The strength λ for each group of weights, which `optim/parameters.py` says; the group "other" is never
    penalised."""

    input: Traced[NonNegative] | None = None
    """λ of every other kernel: of the cells' inputs, of projections."""
    recurrent: Traced[NonNegative] | None = None
    """λ of what meets the state within a cell."""
    readout: Traced[NonNegative] | None = None
    """λ of the kernels of the readout and of the attention before it."""
    embedding: Traced[NonNegative] | None = None
    """λ of the table of vectors."""
    bias: Traced[NonNegative] | None = None
    """λ of all biases."""


# --- of the weights --------------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """The weights as a term of them sees them."""

    params: PyTree
    """Nested dicts of arrays, the parameters of a `Network`."""
    cells: Cells = NO_CELLS
    """`Network.cells` with these parameters."""

    def grouped(self) -> Iterator[tuple[Group, Array]]:
        """(group, weights) of every parameter, in float32 at least; in the place of those that a cell makes its
        recurrent matrices of, these matrices."""
        for keys, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            path = path_of(keys)
            if not is_built_upon(path, self.cells):
                yield group_of(path, self.cells), _wide(leaf)
        for cell in self.cells.values():
            if cell.builds_recurrent_matrix:
                for block in cell.recurrent_matrices().values():
                    yield "recurrent", _wide(block)


def _wide(a: Array) -> Array:
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def l1(weights: Weights, strength: GroupStrengths) -> Float[Array, ""]:
    """Σ_g λ_g Σ|w| over the weights of group g: its gradient is λ sign(w), 0 at 0."""
    # Not jnp.abs, whose gradient at 0 is 1: that would move weights which started at zero.
    return _over_groups(weights, strength, lambda w: jnp.sum(w * lax.stop_gradient(jnp.sign(w))))


def l2(weights: Weights, strength: GroupStrengths) -> Float[Array, ""]:
    """Σ_g λ_g Σ w² over the weights of group g: its gradient is 2 λ w."""
    return _over_groups(weights, strength, lambda w: jnp.sum(w**2))


def _over_groups(
    weights: Weights, strength: GroupStrengths, charge: Callable[[Array], Float[Array, ""]]
) -> Float[Array, ""]:
    strengths, total = as_options(GroupStrengths, strength), jnp.zeros(())
    for group, values in weights.grouped():
        if (strength_of_group := getattr(strengths, group, None)) is not None:  # The group "other" has none.
            total += strength_of_group * charge(values)
    return total


def orthogonality(weights: Weights, strength: Traced[NonNegative]) -> Float[Array, ""]:
    """λ Σ_R ‖RᵀR − I‖²_F over the recurrent matrices of every cell, gate by gate, each [H, H], as they were drawn: no
    wider [H, M] kernel can have orthogonal columns (the soft constraint of Vorontsov et al., 2017; Brock et al., 2017,
    take absolute values instead of squares)."""
    total = jnp.zeros(())
    for cell in weights.cells.values():
        if matrices := cell.recurrent_matrices():
            blocks = _wide(jnp.stack(list(matrices.values())))
            gram = jnp.einsum("ghi,ghj->gij", blocks, blocks, precision="highest")
            total += strength * jnp.sum((gram - jnp.eye(blocks.shape[-1], dtype=blocks.dtype)) ** 2)
    return total


# --- of the outputs --------------------------------------------------------------------------------------------------


def activation_penalty(
    h: Float[Array, "T B H"], lengths: Int[Array, " B"] | None, alpha: float | jax.Array
) -> Float[Array, " B"]:
    """AR: alpha times the mean of h² over a row's valid steps and units; 0 for a row without steps.

    Of the last layer's outputs, after dropout (Merity et al., 2017, section 4.6, in the form of the authors' code,
    which takes the mean of squares where the text has the norm).
    """
    valid = inside(h, lengths)
    return alpha * _mean_of_squares(h, valid)


def temporal_activation_penalty(
    h: Float[Array, "T B H"],
    lengths: Int[Array, " B"] | None,
    beta: float | jax.Array,
    resets: Bool[Array, "T B"] | None = None,
) -> Float[Array, " B"]:
    """TAR: beta times the mean of (h_t − h_{t+1})² over a row's pairs of valid steps and units; 0 for a row of fewer
    than two steps.

    Of the last layer's outputs; the authors take those before dropout (Merity et al., 2017, section 4.6, with the mean
    of squares as in `activation_penalty`). Two steps between which a row begins anew are no pair.
    """
    valid = inside(h, lengths)
    h = jnp.where(valid[:, :, None], h, 0)
    pairs = valid[1:] if resets is None else valid[1:] & ~resets[1:]
    return beta * _mean_of_squares(h[1:] - h[:-1], pairs)


def _mean_of_squares(a: Float[Array, "T B H"], valid: Bool[Array, "T B"]) -> Float[Array, " B"]:
    squares = jnp.where(valid[:, :, None], a, 0) ** 2  # Padding may hold anything, and 0 * NaN is NaN.
    return squares.sum((0, 2)) / (jnp.maximum(valid.sum(0), 1) * a.shape[2])


# --- of the gradient -------------------------------------------------------------------------------------------------


def gradient_norm_penalty(
    cell: RecurrentCell,
    x: Float[Array, "T B D"],
    carry0: Carry,
    carries: Carry,
    dcarries: Carry,
    lengths: Int[Array, " B"] | None = None,
    reverse: bool = False,
    noise: tuple[jax.Array, ...] = (),
    state_mask: Float[Array, "B H"] | None = None,
) -> Float[Array, " B"]:
    """Ω: how far each step is from passing the norm of the gradient on unchanged, where the gradient points.

        Ω = mean over k of (‖∂L/∂c_{k+1} ∂c_{k+1}/∂c_k‖ / ‖∂L/∂c_{k+1}‖ − 1)²

    (Pascanu, Mikolov and Bengio, 2013, eq. 9). c is the whole carry, h and c of an LSTM side by side. As in their
    eq. 10, ∂L/∂c_{k+1} and c_k (and here x) are constants: only ∂c_{k+1}/∂c_k is differentiated, by the parameters of
    that one step, so all steps run side by side. Two differences: the paper sums over k, where the mean over a row's
    valid steps keeps the strength independent of T; and its state is the sum before the activation, whose slope is then
    a constant, where here it is the carry, and the slope depends on the step's parameters.

    A step with no gradient to pass on (zero, below the smallest normal number, or not finite) adds nothing to the sum
    and counts in the mean.

    Args:
        cell: the cell, differentiable with respect to its parameters.
        x: its inputs [T, B, D]; past a row's end they may hold anything.
        carry0: the carry before the first step, a tuple of [B, H].
        carries: those after every step, a tuple of [T, B, H], as `trajectory.carries_of` gives them.
        dcarries: ∂L/∂carries, the gradients of `Taps.carry`. Any positive factor per row leaves Ω as it is.
        lengths: valid steps per row [B]; all if not given.
        reverse: the cell runs from a row's last valid step to its first.
        noise: arrays [T, B, ...] whose slices the gates find behind the parts of z. Where rows begin anew, the carry
            before is the one that they begin with.
        state_mask: a factor of h where it meets R, the same at every step.

    Returns:
        Ω of each row [B], 0 for a row without steps; not times a strength.
    """
    valid = inside(x, lengths)
    x, carry0, carries, dcarries, noise, state_mask = lax.stop_gradient(
        (x, carry0, carries, dcarries, noise, state_mask)
    )
    z = cell.split(cell.project(jnp.where(valid[:, :, None], x, 0)))
    before = carries_before(carry0, carries, reverse)
    if isinstance(cell, RestartingCell):
        before = lax.stop_gradient(cell.begun(before, noise[-1]))
        cell, noise = cell.cell, noise[:-1]

    # The vjp is linear, so its cotangent is brought to norm 1 first: what has vanished to 1e-30 has squares of zero.
    gradient = jnp.concatenate(dcarries, -1)
    gradient = jnp.where(valid[:, :, None], gradient, 0)
    largest = jnp.max(jnp.abs(gradient), axis=-1, keepdims=True)
    gradient = jnp.where(largest < jnp.finfo(gradient.dtype).tiny, 0, gradient / scale_for(largest))
    norm = row_norms(gradient)
    alive = (norm > 0) & jnp.isfinite(norm)
    direction = jnp.where(alive[:, :, None], gradient / jnp.where(alive, norm, 1)[:, :, None], 0)
    widths = [array.shape[-1] for array in dcarries]
    directions = tuple(jnp.split(direction, np.cumsum(widths[:-1]), -1))

    step = one_step(cell, state_mask)

    def back(carry: Carry, z: Parts, cotangent: Carry) -> Carry:
        (propagated,) = jax.vjp(lambda carry: step(carry, z), carry)[1](cotangent)
        return propagated

    passed = row_norms(jnp.concatenate(jax.vmap(back)(before, [*z, *noise], directions), -1))
    return jnp.where(alive, (passed - 1) ** 2, 0).sum(0) / jnp.maximum(valid.sum(0), 1)


# --- terms of rows ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ForwardPass:
    """The network's pass over a batch in training, as a term of rows sees it."""

    network: Network
    batch: Batch
    hidden: Hidden
    runs: list[LayerRun]
    training: Training | None
    gradients: Callable[[], list[list[Carry]]]
    """Makes ∂L/∂carry_t of every layer and direction, a backward pass."""

    @property
    def h(self) -> Float[Array, "T B H"]:
        """The last layer's outputs."""
        return self.hidden.h

    @property
    def lengths(self) -> Int[Array, " B"] | None:
        """The rows' valid steps; all if None."""
        return self.batch.lengths

    @property
    def resets(self) -> Bool[Array, "T B"] | None:
        """The steps at which rows begin anew; None: nowhere."""
        return self.batch.resets

    @property
    def inside(self) -> Bool[Array, "T B"]:
        """Which steps are within their rows."""
        return inside(self.h, self.lengths)

    @functools.cached_property
    def trajectories(self) -> list[Trajectory]:
        """The course of every layer and direction; no gradient flows through its carries."""
        return of_runs(self.runs, self.lengths, self.training)

    @functools.cached_property
    def carry_gradients(self) -> list[Carry]:
        """∂L/∂carry_t [T, B, H] of each of `trajectories`, constants."""
        return [carry for layer in self.gradients() for carry in layer]


def activation(forward: ForwardPass, strength: Traced[NonNegative]) -> Float[Array, " B"]:
    """The mean of h² over the last layer's outputs after dropout (`activation_penalty`)."""
    return activation_penalty(forward.network.dropped_output(forward.h, forward.training), forward.lengths, strength)


def temporal_activation(forward: ForwardPass, strength: Traced[NonNegative]) -> Float[Array, " B"]:
    """The mean of (h_t − h_{t+1})² over the last layer's outputs before dropout (`temporal_activation_penalty`)."""
    return temporal_activation_penalty(forward.h, forward.lengths, strength, forward.resets)


def gradient_norm(forward: ForwardPass, strength: Traced[NonNegative]) -> Float[Array, " B"]:
    """Ω, how far each step is from passing the gradient's norm on unchanged (`gradient_norm_penalty`)."""
    total = jnp.zeros(forward.h.shape[1])
    for t, d in zip(forward.trajectories, forward.carry_gradients, strict=True):
        omega = gradient_norm_penalty(
            t.cell, t.x, t.first, t.carries, d, forward.lengths, t.reverse, t.noise, t.state_mask
        )
        total += strength * omega
    return total
