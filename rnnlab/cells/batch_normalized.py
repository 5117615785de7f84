"""Recurrent batch normalisation (Cooijmans et al., 2016): the statistics of every time step, and the cell with them.

Its rows see each other, so it runs on the reference backend alone. Normalisation between layers is in
`ops/normalization.py`, everything else that is put around a cell in `modified.py`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from rnnlab.cells.base import BaseCell, Cell
from rnnlab.cells.lstm import LSTM
from rnnlab.cells.wrappers import Around
from rnnlab.engine import Matrix, Multiply
from rnnlab.ops.linear import matmul
from rnnlab.ops.normalization import EPSILON, Statistic
from rnnlab.ops.random_streams import number
from rnnlab.typing import Array, Axes, Carry, Float, Parts


class StepStatistics(nnx.Module):
    """Running mean and variance of each of the first S time steps, and the gain they come with."""

    def __init__(self, steps: int, features: int):
        self.gain = nnx.Param(jnp.full(features, 0.1))
        self.mean = Statistic(jnp.zeros((steps, features)))
        self.variance = Statistic(jnp.ones((steps, features)))


class RecurrentBatchNorm(nnx.Module):
    """The part that recurrent batch normalisation adds to one cell: of x W, of h R, and of the LSTM's c.

    All gains start at 0.1, where the derivative of tanh does not vanish (Cooijmans et al., 2016, section 4).
    """

    def __init__(self, cell: Cell, steps: int, decay: float | jax.Array):
        """steps: S. decay: of the running statistics; what a training step adds to them has the weight 1 - decay."""
        width = len(cell.gate_names) * cell.features
        self.input = StepStatistics(steps, width)
        self.recurrent = StepStatistics(steps, width)
        lstm = isinstance(cell, LSTM)
        self.cell = StepStatistics(steps, cell.features) if lstm else None
        self.cell_bias = nnx.Param(jnp.zeros(cell.features)) if lstm else None
        self.seen = Statistic(jnp.zeros(()))
        """How many of the time steps have had statistics in training."""
        self.decay = nnx.Variable(number(decay))
        self.steps = steps

    def slots(self, times: Float[Array, "..."]) -> jax.Array:
        """Which of the S running statistics belongs to a time step: past the last that training saw, that one's."""
        last = jnp.maximum(self.seen[...], 1) - 1
        return jnp.minimum(times, last.astype(times.dtype)).astype(jnp.int32)

    def remember(
        self,
        around: "BatchNormalizedCell",
        x: Float[Array, "T B D"],
        carry0: Carry,
        carries: Carry,
        reverse: bool,
        weights: Float[Array, "T B 1"],
    ) -> None:
        """Moves the running statistics towards those of a batch that `around` has run on, all time steps at once.

        A time step with fewer than two valid rows (on all devices together) leaves its own as they are: the variance of
        one row says nothing. No gradient passes.

        Args:
            around: the cell as it ran.
            x: its inputs; those with weight 0 may hold anything.
            carry0: the carry before the first step, a tuple of [B, H].
            carries: those after every step, a tuple of [T, B, H].
            reverse: it ran from the last step to the first.
            weights: as the cell's noise had them.
        """
        graphdef, state = nnx.split(around)
        around = nnx.merge(graphdef, lax.stop_gradient(state))
        x, carry0, carries, weights = lax.stop_gradient((x, carry0, carries, weights))
        kept = min(self.steps, x.shape[0])
        first, h = carry0[0][None], carries[0]
        before = jnp.concatenate([h[1:], first] if reverse else [first, h[:-1]])[:kept]
        seen = [
            (self.input, around.inputs(jnp.where(weights[:kept] > 0, x[:kept], 0))),
            (self.recurrent, around.products(before.reshape(-1, h.shape[-1])).reshape(*before.shape[:2], -1)),
        ]
        if self.cell is not None:
            seen.append((self.cell, carries[1][:kept]))
        weights = weights[:kept]
        # Each of n valid rows has the weight 1/n, so the sum of squares is 1/n, and 0 where there is none.
        squares = _total((weights**2).sum((1, 2)), around.axis)
        enough = (squares > 0) & (squares < 0.75)
        self.seen[...] = jnp.maximum(self.seen[...], jnp.where(enough, jnp.arange(kept) + 1, 0).max())
        decay = jnp.where(enough, self.decay[...], 1)[:, None]
        for statistics, values in seen:
            mean, variance = moments(values, weights, around.axis)
            for running, new in ((statistics.mean, mean[:, 0]), (statistics.variance, variance[:, 0])):
                old = running[...][:kept]
                running[...] = running[...].at[:kept].set((decay * old + (1 - decay) * new).astype(running.dtype))


class BatchNormalizedCell(Around):
    """Around a cell with gates, for the reference backend alone:

        gates from BN(x_t W; γ_x) + BN(h_{t-1} R; γ_h) + b
        c_t = f ∘ c_{t-1} + i ∘ g        h_t = σ(o) ∘ tanh(BN(c_t; γ_c, β_c))

    (Cooijmans et al., 2016, eqs. 6 to 8; the second line is the LSTM's, other cells keep theirs.) BN's mean and
    variance are those of time step t over the rows that are valid there, in training, on all devices of the batch; at
    evaluation they are the running ones of t. In the second direction t is the position in the sequence too.

    In training every step of the loop waits for the other devices, forward and back: this is the slow path. What the
    input alone decides is normalised outside of the loop.

    Behind the parts of z and the other noise stands, in training, the weight of each row in the step's mean (1/n for n
    valid rows, else 0) [B, 1], at evaluation the step's number t [B, 1].
    """

    cell: Cell
    mixes_rows = True

    def __init__(
        self,
        cell: Cell,
        norm: RecurrentBatchNorm,
        *,
        weights: jax.Array | None,
        axis: Axes | None = None,
        state_mask: jax.Array | None = None,
        kernel_mask: jax.Array | None = None,
        candidate: bool = False,
        zoneout: tuple[int, ...] = (),
    ):
        """weights [T, B, 1]: of the rows at every step, None for evaluation. axis: of the devices that the batch is
        split over. state_mask [B, H], kernel_mask [H, M]: factors of h and of R where they meet. candidate, zoneout: as
        in `ModifiedCell`."""
        super().__init__(cell, candidate=candidate, zoneout=zoneout)
        self.norm, self.axis = norm, axis
        self.weights = None if weights is None else nnx.Variable(weights)
        self.state_mask = None if state_mask is None else nnx.Variable(state_mask)
        self.kernel_mask = None if kernel_mask is None else nnx.Variable(kernel_mask)

    def inputs(self, x: jax.Array) -> jax.Array:
        """x W, for any leading axes."""
        return self.cell.project(x) - self.cell.input_bias()

    def products(self, h: Float[Array, "R H"]) -> jax.Array:
        """h R with their masks; the state's repeats for as many steps as the rows have."""
        if self.state_mask is not None:
            mask = self.state_mask[...]
            h = (h.reshape(-1, *mask.shape) * mask).reshape(h.shape)
        return matmul(h, self._kernel(), self.precision)

    def project(self, x: jax.Array) -> jax.Array:
        """BN(x W; γ_x) + b of all steps [T, B, M]."""
        a = self.inputs(x)
        times = jnp.arange(a.shape[0], dtype=a.dtype)[:, None, None]
        weight = times if self.weights is None else self.weights[...]
        return self._normalized(a, self.norm.input, weight) + self.cell.input_bias()

    def matrices(self) -> dict[str, Matrix]:
        return {
            "recurrent": Matrix(self._kernel(), parts=len(self.cell.gate_names))
        }  # The offset comes after the norm.

    def _kernel(self) -> Float[Array, "H M"]:
        kernel = self.cell.recurrent_matrix()
        return kernel if self.kernel_mask is None else kernel * self.kernel_mask[...]

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        *z, weight = z
        z, shares = self._parts(z)
        h = carry[0] if self.state_mask is None else carry[0] * self.state_mask[...]
        u = jnp.concatenate(multiply("recurrent", h), -1)
        u = self.split(self._normalized(u, self.norm.recurrent, weight))
        offset = self.cell.recurrent_offset()  # Within the norm it would be normalised away.
        if offset is not None:
            u = list(map(jnp.add, u, self.split(offset)))
        statistics, bias = self.norm.cell, self.norm.cell_bias
        if isinstance(self.cell, LSTM) and statistics is not None and bias is not None:
            new = self.cell.gates(carry, z, u, lambda c: self._normalized(c, statistics, weight) + bias[...])
        else:
            new = self.cell.gates(carry, z, u)
        return self._zoned_out(carry, new, shares)

    def _normalized(self, a: jax.Array, statistics: StepStatistics, weight: jax.Array) -> jax.Array:
        """a [..., B, M], times the gain."""
        if self.weights is not None:
            mean, variance = moments(a, weight, self.axis)
        else:
            slot = self.norm.slots(weight[..., :1, 0])
            mean, variance = statistics.mean[...][slot], statistics.variance[...][slot]
        return (a - mean) * lax.rsqrt(variance + EPSILON) * statistics.gain[...]


def adds_products_alone(cell: BaseCell) -> bool:
    """Whether all that its step does with products is x W + b + h R, gate by gate: such a cell can be normalised."""
    kind = type(cell)
    one_product = isinstance(cell, Cell) and dict(cell.products) == {"recurrent": cell.gate_names}
    if not (one_product and kind.step is Cell.step and kind.project is BaseCell.project):
        return False
    return jax.eval_shape(cell.matrices)["recurrent"].kernel.ndim == 2


def row_weights(
    steps: int, batch: int, lengths: jax.Array | None, axis: Axes | None, dtype: jnp.dtype
) -> Float[Array, "T B 1"]:
    """1/n for each of the n rows, on all devices of the axis, that are valid at a step; 0 for the others."""
    valid = jnp.ones((steps, batch), dtype)
    if lengths is not None:
        valid = (jnp.arange(steps)[:, None] < lengths).astype(dtype)
    count = _total(valid.sum(1, keepdims=True), axis)
    return (valid / jnp.maximum(count, 1))[:, :, None]


def moments(
    a: Float[Array, "... B M"], weights: Float[Array, "... B 1"], axis: Axes | None
) -> tuple[Float[Array, "... 1 M"], Float[Array, "... 1 M"]]:
    """Mean and variance over the rows of all devices, with weights that sum to 1, or are all 0."""
    mean = _total((weights * a).sum(-2, keepdims=True), axis)
    return mean, _total((weights * (a - mean) ** 2).sum(-2, keepdims=True), axis)


def _total(value: jax.Array, axis: Axes | None) -> jax.Array:
    return value if axis is None else lax.psum(value, axis)
