"""Penalties: functions of parameters, outputs and gradients that are added to a loss, and their config section.

All are pure and differentiable, and their strengths may be traced numbers; None means that a penalty is not in the
program. Where they are added is in `training/programs.py`; decoupled weight decay, which is no penalty, in
`optim/optimizers.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnlab.config.bounds import NonNegative, Traced
from rnnlab.engine.contract import FusableCell, StepCell
from rnnlab.nn.trajectory import carries_before, inside, one_step
from rnnlab.ops.safe_norms import row_norms, scale_for
from rnnlab.typing import Array, Bool, Carry, Float, Int, Parts, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupStrengths:
    """The strength λ for each group of weights; which weights belong to which is said by `group_of`."""

    input: Traced[NonNegative] | None = None
    recurrent: Traced[NonNegative] | None = None
    readout: Traced[NonNegative] | None = None
    embedding: Traced[NonNegative] | None = None
    bias: Traced[NonNegative] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PenaltyOptions:
    """What is added to the loss, each times its strength."""

    l1: GroupStrengths | None = None
    """As in `weight_penalty`; so are l2 and orthogonality."""
    l2: GroupStrengths | None = None
    orthogonality: Traced[NonNegative] | None = None
    activation: Traced[NonNegative] | None = None
    """As in `activation_penalty`."""
    temporal_activation: Traced[NonNegative] | None = None
    """As in `temporal_activation_penalty`."""
    gradient_norm: Traced[NonNegative] | None = None
    """As in `gradient_norm_penalty`."""


# --- of the weights --------------------------------------------------------------------------------------------------


def group_of(path: tuple[str | int, ...]) -> str | None:
    """The group that a parameter belongs to, by its path in the network: ("layers", 0, "cells", 1, "bias").

    bias       every bias, those of the readout and of normalisation included
    readout    every kernel of the readout and of the attention before it
    embedding  the table of vectors
    recurrent  what meets the state within a cell: recurrent kernels, and peepholes, which are diagonal ones
    input      every other kernel: of the cells' inputs, of the input projection, of projections between layers

    What is none of these (initial carries, gains of normalisation) is never penalised: None.
    """
    name = str(path[-1])
    if name.endswith("bias"):
        return "bias"
    if path[0] == "embedding":
        return "embedding"
    if not name.endswith("kernel"):
        return None
    if path[0] in ("readout", "attention"):
        return "readout"
    return "recurrent" if name in ("recurrent_kernel", "peephole_kernel") else "input"


def weight_penalty(params: PyTree, options: Mapping[str, Any]) -> Float[Array, ""]:
    """Σ_g l1_g Σ|w| + Σ_g l2_g Σ w² + orthogonality Σ_R ‖RᵀR − I‖²_F.

    The sums over w run over the weights of group g: the gradient of l2 is 2 λ w, that of l1 is λ sign(w), 0 at 0. The
    sum over R runs over every cell's recurrent kernel and, within it, over the gates' blocks, each [H, H], as they were
    drawn: no wider [H, M] kernel can have orthogonal columns (the soft constraint of Vorontsov et al., 2017; Brock et
    al., 2017, take absolute values instead of squares).

    Args:
        params: nested dicts of arrays, the parameters of a `Network`.
        options: a resolved section of `PenaltyOptions`; of its fields those named above are read.
    """
    total = jnp.zeros(())
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = tuple(key.key for key in keys)
        weights, group = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), group_of(path)
        l1, l2 = ((options[norm] or {}).get(group) for norm in ("l1", "l2"))
        if l1 is not None:
            # Not jnp.abs, whose gradient at 0 is 1: that would move weights which started at zero.
            total += l1 * jnp.sum(weights * lax.stop_gradient(jnp.sign(weights)))
        if l2 is not None:
            total += l2 * jnp.sum(weights**2)
        if options["orthogonality"] is not None and path[-1] == "recurrent_kernel":
            total += options["orthogonality"] * _distance_from_orthogonal(weights)
    return total


def _distance_from_orthogonal(kernel: Float[Array, "H M"]) -> Float[Array, ""]:
    """Σ ‖RᵀR − I‖²_F over the gates' blocks R."""
    features = kernel.shape[0]
    blocks = kernel.reshape(features, -1, features)
    gram = jnp.einsum("hgi,hgj->gij", blocks, blocks)
    return jnp.sum((gram - jnp.eye(features, dtype=kernel.dtype)) ** 2)


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
    h: Float[Array, "T B H"], lengths: Int[Array, " B"] | None, beta: float | jax.Array
) -> Float[Array, " B"]:
    """TAR: beta times the mean of (h_t − h_{t+1})² over a row's pairs of valid steps and units; 0 for a row of fewer
    than two steps.

    Of the last layer's outputs; the authors take those before dropout (Merity et al., 2017, section 4.6, with the mean
    of squares as in `activation_penalty`).
    """
    valid = inside(h, lengths)
    h = jnp.where(valid[:, :, None], h, 0)
    return beta * _mean_of_squares(h[1:] - h[:-1], valid[1:])


def _mean_of_squares(a: Float[Array, "T B H"], valid: Bool[Array, "T B"]) -> Float[Array, " B"]:
    squares = jnp.where(valid[:, :, None], a, 0) ** 2  # Padding may hold anything, and 0 * NaN is NaN.
    return squares.sum((0, 2)) / (jnp.maximum(valid.sum(0), 1) * a.shape[2])


# --- of the gradient -------------------------------------------------------------------------------------------------


def gradient_norm_penalty(
    cell: FusableCell | StepCell,
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
        noise: arrays [T, B, ...] whose slices the gates find behind the parts of z.
        state_mask: a factor of h where it meets R, the same at every step; not for a `StepCell`.

    Returns:
        Ω of each row [B], 0 for a row without steps; not times a strength.
    """
    valid = inside(x, lengths)
    x, carry0, carries, dcarries, noise, state_mask = lax.stop_gradient(
        (x, carry0, carries, dcarries, noise, state_mask)
    )
    z = cell.split(cell.project(jnp.where(valid[:, :, None], x, 0)))
    before = carries_before(carry0, carries, reverse)

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
        (found,) = jax.vjp(lambda carry: step(carry, z), carry)[1](cotangent)
        return found

    passed = row_norms(jnp.concatenate(jax.vmap(back)(before, [*z, *noise], directions), -1))
    return jnp.where(alive, (passed - 1) ** 2, 0).sum(0) / jnp.maximum(valid.sum(0), 1)
