"""Recurrent layers with their dropout and normalisation.

A cell says what happens in one step (`cells/`), the engine what happens over time (`engine/`), the network how layers
are connected (`nn/network.py`). Their fields in a config are in `nn/options.py`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.cells import CELLS, CellSpec
from rnnlab.cells.base import BaseCell, Cell
from rnnlab.cells.batch_normalized import BatchNormalizedCell, RecurrentBatchNorm, adds_products_alone, row_weights
from rnnlab.cells.wrappers import GateGains, ModifiedCell
from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import as_options, build
from rnnlab.engine import Backend, Cotangent, Iterations, Taps, products_of, resolve_backend, restarting, unroll
from rnnlab.nn.inputs import last_valid
from rnnlab.nn.layer_checks import check_batch_normalization, check_between_steps
from rnnlab.nn.learned_carry import learned_carry_of
from rnnlab.nn.options import CotangentOptions, DropoutOptions, NormalizationOptions, RecurrenceOptions
from rnnlab.nn.rates import Rates
from rnnlab.ops.linear import Precision
from rnnlab.ops.random_streams import Training
from rnnlab.ops.trees import ShownAsTree
from rnnlab.typing import Array, Bool, Carry, Float, Int


class RecurrentLayer(ShownAsTree, nnx.Module):
    """One layer: a cell over time, or one cell in each direction with their outputs side by side."""

    def __init__(
        self,
        in_features: int,
        *,
        cell: CellSpec,
        bidirectional: bool = False,
        learned_carry: bool = False,
        recurrence: RecurrenceOptions | Mapping[str, Any] | None = None,
        cotangent: CotangentOptions | Mapping[str, Any] | None = None,
        dropout: DropoutOptions | Mapping[str, Any] | None = None,
        normalization: NormalizationOptions | Mapping[str, Any] | None = None,
        precision: Precision = "highest",
        name: str = "layer",
        rngs: nnx.Rngs,
    ):
        """D, the cell's section, whether the initial carry is trained (zeros at initialisation), and the sections of
        the same names; of dropout and normalization, what happens inside a layer. precision: of the cells' products.
        name: of its streams of random numbers.

        Raises:
            ConfigError: something that this cell has no place for.
        """
        directions = 2 if bidirectional else 1
        self.cells = nnx.List(
            [build(CELLS, cell, "cell", in_features=in_features, rngs=rngs) for _ in range(directions)]
        )
        for each in self.cells:
            each.precision = precision
        first: BaseCell = self.cells[0]
        products = products_of(first, jax.ShapeDtypeStruct((1, 1, in_features), jnp.float32))
        self.out_features = directions * first.out_features
        self.recurrence = recurrence = as_options(RecurrenceOptions, recurrence)
        cotangent, dropout = as_options(CotangentOptions, cotangent), as_options(DropoutOptions, dropout)
        normalization = as_options(NormalizationOptions, normalization)
        self.backend: Backend = "reference"
        """The backend that runs the layer."""
        if normalization.cell == "batch":
            check_batch_normalization(first, normalization.steps, recurrence.backend, dropout)
        else:
            self.backend = resolve_backend(first, recurrence.backend, recurrence.interpret)
        self.carries = nnx.List([learned_carry_of(each) for each in self.cells]) if learned_carry else None
        set_cotangent = {k: v for k, v in vars(cotangent).items() if v is not None and k != "cut_every"}
        self.cut_every = cotangent.cut_every
        self.cotangent = Rates(**set_cotangent) if set_cotangent else None
        self.rates = Rates(**{name: getattr(dropout, name) for name in _INSIDE})
        kind = type(first).__name__
        check_between_steps(recurrence, cotangent, dropout)
        for rate in ("state", "recurrent_kernel"):
            if rate in self.rates and not any(matrix.of_state for matrix in jax.eval_shape(first.matrices).values()):
                raise ConfigError(f"model.dropout.{rate}: {kind} has no recurrent matrix to apply it to; use gru")
        if "candidate" in self.rates and not first.has_candidate:
            raise ConfigError(
                f"model.dropout.candidate: {kind} has no candidate; lstm and gru have, others take zoneout"
            )
        of_carry = [a.shape[1] for a in jax.eval_shape(lambda: first.initial_carry(1))]
        if "zoneout_cell" in self.rates and of_carry[1:2] != [first.features]:
            raise ConfigError(f"model.dropout.zoneout_cell: {kind} has no cell state of H units besides h; use zoneout")
        if normalization.cell == "batch" and not adds_products_alone(first):
            raise ConfigError(f"model.normalization.cell: {kind} has no one recurrent matrix to normalise; use gru")
        gains = None
        if normalization.cell == "layer":
            if type(first).project is not BaseCell.project:
                raise ConfigError(f"model.normalization.cell: {kind} has no x W + b to normalise; use gru")
            widths = len(first.gate_names) * first.features, sum(product.columns for product in products)
            gains = nnx.List([GateGains(*widths) for _ in self.cells])
        self.gains = gains
        norms = None
        if normalization.cell == "batch" and normalization.steps is not None:
            steps, decay = normalization.steps, normalization.decay
            norms = nnx.List([RecurrentBatchNorm(each, steps, decay) for each in self.cells])
        self.batch_norms = norms
        self.name = name

    def __call__(
        self,
        x: Float[Array, "T B D"],
        lengths: Int[Array, " B"] | None = None,
        taps: list[Taps] | None = None,
        training: Training | None = None,
        first: list[Carry] | None = None,
        last: list[Carry] | None = None,
        resets: Bool[Array, "T B"] | None = None,
        iterations: list[Iterations] | None = None,
    ) -> tuple[Float[Array, "T B O"], Float[Array, "B O"]]:
        """Outputs at every step, and that after the last valid step (in reverse: after the first).

        first: the carry that each direction begins with; its `initial_carry` if not given. last: a list that gets the
        carry after each direction's last step. resets: those of `unroll`; rows begin anew with the layer's initial
        carry. iterations: a list that gets an entry for each direction, of the backend newton.
        """
        if first is not None and len(first) != len(self.cells):
            raise ValueError(f"first has {len(first)} carries; this layer has {len(self.cells)} directions")
        outputs, states = [], []
        for direction in range(len(self.cells)):
            reverse = direction == 1
            cell, noise, state_mask = self.modified(direction, x.shape[:2], training, lengths, resets)
            initial = self.initial_carry(direction, x.shape[1]) if first is None else first[direction]
            norm = None if training is None or self.batch_norms is None else self.batch_norms[direction]
            carries: list[jax.Array] | None = None if norm is None else []
            h, carry = unroll(
                cell,
                x,
                lengths=lengths,
                reverse=reverse,
                initial_carry=initial,
                noise=noise,
                state_mask=state_mask,
                cotangent=self._cotangent(),
                taps=None if taps is None else taps[direction],
                carries=carries,
                iterations=iterations if self.backend == "newton" else None,
                **vars(self.recurrence),
            )
            if norm is not None and carries is not None:
                carry0 = initial or cell.initial_carry(x.shape[1], h.dtype)
                norm.remember(cell, x, carry0, tuple(carries), reverse, noise[-1])
            output, state = _put_out(self.cells[direction], h, carry[0], x, lengths, reverse)
            outputs.append(output)
            states.append(state)
            if last is not None:
                last.append(carry)
        if len(outputs) == 1:
            return outputs[0], states[0]
        return jnp.concatenate(outputs, -1), jnp.concatenate(states, -1)

    def initial_carry(self, direction: int, batch: int) -> Carry | None:
        """The trained one of a direction, for every row; None for the cell's own."""
        if self.carries is None:
            return None
        return tuple(jnp.broadcast_to(row[...], (batch, *row.shape)) for row in self.carries[direction])

    def first_carry(self, batch: int) -> list[Carry]:
        """The carry that each direction begins with, [B, H] each."""
        carries = []
        for direction, cell in enumerate(self.cells):
            learned = self.initial_carry(direction, batch)
            carry = cell.initial_carry(batch, cell.input_kernel[...].dtype)
            carries.append(carry if learned is None else learned)
        return carries

    def _cotangent(self) -> Cotangent | None:
        if self.cotangent is None and self.cut_every is None:
            return None
        numbers = {} if self.cotangent is None else {name: self.cotangent[name] for name in self.cotangent.values}
        cut = None if self.cut_every is None else jnp.int32(self.cut_every)
        return Cotangent(**numbers, cut_every=cut)

    def modified(
        self,
        direction: int,
        shape: tuple[int, ...],
        training: Training | None,
        lengths: Int[Array, " B"] | None = None,
        resets: Bool[Array, "T B"] | None = None,
    ) -> tuple[Any, tuple[jax.Array, ...], jax.Array | None]:
        """The cell of a direction with all that is put around it, its noise, and its state mask. shape: (T, B).

        Raises:
            ValueError: resets with batch normalisation, whose statistics are those of a row's time steps.
        """
        steps = shape[0]
        cell: BaseCell = self.cells[direction]
        rates = self.rates
        zoneout = tuple(i for i, rate in enumerate(("zoneout", "zoneout_cell")) if rate in rates)
        noise, state_mask, kernel_masks = [], None, {}
        if training is not None:
            prefix = f"{self.name}/{direction}"
            if "state" in rates:
                state_mask = training.mask(f"{prefix}/state", rates["state"], cell.features)
            if "recurrent_kernel" in rates:
                for name, matrix in jax.eval_shape(cell.matrices).items():
                    stream = f"{prefix}/{name}_kernel"
                    if matrix.of_state:
                        mask = training.shared_mask(stream, rates["recurrent_kernel"], matrix.kernel.shape)
                        kernel_masks[name] = mask
            if "candidate" in rates:
                noise.append(training.mask(f"{prefix}/candidate", rates["candidate"], steps, cell.features))
            for rate in (("zoneout", "zoneout_cell")[i] for i in zoneout):
                mask = training.mask(f"{prefix}/{rate}", rates[rate], steps, cell.features)
                noise.append((mask > 0).astype(jnp.float32))
        else:
            for rate in (("zoneout", "zoneout_cell")[i] for i in zoneout):
                noise.append(jnp.full((*shape, 1), 1 - rates[rate]))
        candidate = training is not None and "candidate" in rates
        if self.batch_norms is not None and isinstance(cell, Cell):
            if resets is not None:
                raise ValueError(
                    "model.normalization.cell='batch' has statistics of every time step, and rows that begin anew have "
                    "none; use layer"
                )
            weights = axis = None
            last = jnp.broadcast_to(jnp.arange(steps, dtype=jnp.float32)[:, None, None], (*shape, 1))
            if training is not None:
                axis = training.axis
                last = weights = row_weights(shape[0], shape[1], lengths, axis, cell.bias[...].dtype)
            around = BatchNormalizedCell(
                cell,
                self.batch_norms[direction],
                weights=weights,
                axis=axis,
                state_mask=state_mask,
                kernel_mask=kernel_masks.get("recurrent"),
                candidate=candidate,
                zoneout=zoneout,
            )
            return around, (*noise, last), None
        around: Any = cell
        if self.gains is not None or kernel_masks or noise:
            gains = None if self.gains is None else self.gains[direction]
            around = ModifiedCell(cell, gains=gains, kernel_masks=kernel_masks, candidate=candidate, zoneout=zoneout)
        start = None if resets is None else self.initial_carry(direction, shape[1])
        around, with_resets = restarting(around, tuple(noise), resets, direction == 1, start)
        return around, with_resets, state_mask


def _put_out(
    cell: BaseCell,
    h: Float[Array, "T B H"],
    state: Float[Array, "B H"],
    x: Float[Array, "T B D"],
    lengths: Int[Array, " B"] | None,
    reverse: bool,
) -> tuple[Float[Array, "T B O"], Float[Array, "B O"]]:
    """A cell's outputs, zero past a row's end, and the one after the last step that ran; state: h there."""
    if cell.output_map is None:
        return h, state
    y = cell.output_map(h, x)
    if lengths is None:
        return y, y[0] if reverse else y[-1]
    y = jnp.where((jnp.arange(x.shape[0])[:, None] < lengths)[:, :, None], y, 0)
    return y, y[0] if reverse else last_valid(y, lengths)


_INSIDE = ("state", "candidate", "zoneout", "zoneout_cell", "recurrent_kernel")
"""The kinds of dropout that act inside a layer."""
